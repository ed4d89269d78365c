"""What doctor says of vLLM."""

from __future__ import annotations

import importlib.util

import pytest

from lightmem_engine.cli import doctor
from lightmem_engine.cli.backend import Choice
from lightmem_engine.vllm_plugin import compat


@pytest.mark.parametrize("is_vllm", [False, True])
def test_a_package_on_the_path_alone_is_a_fault_where_vllm_would_run(
    monkeypatch: pytest.MonkeyPatch, is_vllm: bool
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(compat, "is_registered", lambda: False)
    monkeypatch.setattr(doctor, "here", lambda: Choice(is_vllm, "for the test"))
    found = doctor._server()
    assert found.healthy is not is_vllm
    assert "on the path, not installed (pip install -e .)" in found.found


def test_an_installed_package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(compat, "is_registered", lambda: True)
    monkeypatch.setattr(doctor, "here", lambda: Choice(True, "for the test"))
    found = doctor._server()
    assert found.healthy
    assert "finds the memory plugin" in found.found
