"""`python -m lightmem_engine`."""

import sys

from lightmem_engine.cli import main

sys.exit(main())
