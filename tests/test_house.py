"""The rules of the house that a machine can check."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_LINES = 300
MODULES = sorted(path for folder in ("lightmem_engine", "kernels") for path in (ROOT / folder).rglob("*.py"))
Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _public(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Documented]]:
    """Public classes and functions, and the public methods of the classes."""
    for node in body:
        if isinstance(node, Documented) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from _public(node.body, f"{prefix}{node.name}.")


def _is_a_section(node: Documented) -> bool:
    """A section of the option tree is explained where it is hung in, by the help of its field."""
    return isinstance(node, ast.ClassDef) and node.name.endswith("Config")


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_is_one_idea(path: Path) -> None:
    num_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert num_lines <= MAX_LINES, f"{_name(path)} has {num_lines} lines: split it"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_what_is_public_is_explained(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{_name(path)} does not say what it is"
    silent = [name for name, node in _public(tree.body) if not ast.get_docstring(node) and not _is_a_section(node)]
    assert silent == [], f"without a docstring in {_name(path)}"


def _is_a_command(path: Path) -> bool:
    """The command line, and what `python -m` runs by itself."""
    return "cli" in path.parts or 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [path for path in MODULES if not _is_a_command(path)], ids=_name)
def test_only_a_command_prints(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"] == []
