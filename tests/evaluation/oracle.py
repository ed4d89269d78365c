"""The public reference metrics, where a checkout has them beside it; never part of the product."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest


def load() -> Any:
    """The module `evalkit`, from `LIGHTMEM_EVALKIT` or ../shared/eval; skips where there is none."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "eval" / "evalkit.py"
    path = Path(os.environ.get("LIGHTMEM_EVALKIT", beside))
    if not path.is_file():
        pytest.skip("needs evalkit.py, the reference metrics: set LIGHTMEM_EVALKIT to its path")
    spec = importlib.util.spec_from_file_location("evalkit", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
