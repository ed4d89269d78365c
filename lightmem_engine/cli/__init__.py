"""The command line: `lightmem-engine serve | add | search | ...`.

Exit codes: 0 done, 1 failed, 2 bad arguments.
"""

from lightmem_engine.cli.main import main

__all__ = ["main"]
