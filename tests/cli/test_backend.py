"""Who runs the model that `serve` names."""

from __future__ import annotations

import importlib.util

import pytest

from lightmem_engine.cli import backend
from tests.support.process import python


def test_a_word_decides() -> None:
    assert backend.choose(["--backend", "vllm", "--model", "x"]).is_vllm
    assert backend.choose(["x", "--backend=vllm", "--max-num-seqs", "4"]).is_vllm
    assert not backend.choose(["--backend", "transformers", "--model", "x"]).is_vllm


def test_without_a_model_or_behind_a_gateway_vllm_is_no_matter() -> None:
    assert not backend.choose([]).is_vllm
    assert not backend.choose(["--port", "1"]).is_vllm
    assert not backend.choose(["--model", "x", "--upstream", "http://y"]).is_vllm


def test_a_model_goes_to_vllm_where_it_is_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_has_cuda", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert backend.choose(["--model", "x"]).is_vllm
    monkeypatch.setattr(backend, "_has_cuda", lambda: False)
    assert not backend.choose(["--model", "x"]).is_vllm
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert backend.choose(["--model", "x"]).reason == "vLLM is not installed"


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_vllm_that_is_not_there_is_a_bad_argument() -> None:
    done = python("-m", "lightmem_engine", "serve", "--backend", "vllm", "--model", "x")
    assert done.returncode == 2
    assert "vLLM is not installed" in done.stderr


def test_the_benches_are_in_the_repository() -> None:
    shown = python("-m", "lightmem_engine", "bench", "serve", "--help")
    assert shown.returncode == 0
    assert "vLLM alone" in shown.stdout
    code = "import sys; sys.modules['bench'] = None; from lightmem_engine.cli import main; "
    code += "sys.exit(main(['bench', 'serve']))"
    done = python("-c", code)
    assert done.returncode == 2
    assert "checked out" in done.stderr
