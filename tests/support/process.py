"""Our code in a Python process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping


def python(
    *arguments: str, input: str | None = None, env: Mapping[str, str] | None = None, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run the interpreter of the tests, on the same path, with no options of ours in the environment but `env`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LIGHTMEM_")}
    environment = inherited | {"PYTHONPATH": os.pathsep.join(sys.path)} | dict(env or {})
    command = [sys.executable, *arguments]
    return subprocess.run(command, input=input, env=environment, capture_output=True, text=True, timeout=timeout)
