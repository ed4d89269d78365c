"""The reference metrics, where they lie beside the checkout."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def load_evalkit() -> ModuleType:
    """The reference implementation of the metrics; skips the test where it is absent."""
    path = SHARED / "eval" / "evalkit.py"
    if not path.exists():
        pytest.skip("the reference metrics (shared/eval/evalkit.py) are not here")
    spec = importlib.util.spec_from_file_location("evalkit", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dataset_path(name: str) -> Path:
    """A file of the development data; skips the test where it is absent."""
    path = SHARED / "data" / name
    if not path.exists():
        pytest.skip(f"the development data (shared/data/{name}) is not here")
    return path
