"""Attention between turns as a real vLLM has it, against an eager forward of the same checkpoint by transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models import tiny_qwen
from tests.support.turn_rows import truth
from tests.support.vllm_server import HAS_VLLM, NO_VLLM, environment
from tests.vllm_plugin.looked_vllm import Ear, LookedVllm

pytestmark = pytest.mark.skipif(not HAS_VLLM, reason=NO_VLLM)

LAYERS = (0, 2)
FIRST = (
    "Caroline said on 8 May 2023 that the quick brown fox lives in Denver, and that Boston remembers it. The brown fox "
    "remembers Caroline, too; what it said about Boston is not known."
)
SECOND = (
    "And where did the fox live in 2023? Caroline said it was Boston, or Denver, and she remembers a quick brown one."
)
REGISTERED = """
import json
from vllm.plugins import load_general_plugins
from vllm.v1.attention.backends.registry import AttentionBackendEnum
from lightmem_engine.vllm_plugin.attention import backends
from lightmem_engine.vllm_plugin.settings import PluginSettings
backend, found = AttentionBackendEnum.CPU_ATTN, []
for attention in (False, True):
    PluginSettings("s", "t", attention=attention).publish()
    load_general_plugins() if not attention else backends.register()
    found.append([backend.get_path(), backend.is_overridden(), backend.get_class().__name__])
    assert backend.get_class().get_name() == "CPU_ATTN"
print(json.dumps(found))
"""
OTHER = "Something else: what did Boston say about 8 May?"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen.save(tmp_path_factory.mktemp("looked") / "tiny", "qwen3", layers=3, head_dim=32)


def check(checkpoint: Path, answer: dict[str, Any], told: dict[str, Any], contents: list[str]) -> list[int]:
    """The turns whose rows were told; each is as it should be."""
    assert told["texts"] == contents
    rows, expected = np.array(told["rows"]), truth(checkpoint, answer["ids"], contents, LAYERS)
    complete = [turn for turn in range(len(contents)) if rows[turn].any()]
    np.testing.assert_allclose(rows[complete], expected[complete], rtol=2e-4, atol=1e-4)
    return complete


@pytest.mark.parametrize(
    "eager", [pytest.param(True, id="eager"), pytest.param(False, id="compiled", marks=pytest.mark.slow)]
)
def test_rows_equal_an_eager_forward(checkpoint: Path, tmp_path: Path, eager: bool) -> None:
    """Prompts are read in several steps, several in one step, and behind a cached prefix."""
    data = tmp_path / "data"
    with Ear(data) as ear, LookedVllm(checkpoint, data, tmp_path / "log", eager=eager) as vllm:
        assert vllm.start["overridden"]
        (first,) = vllm.ask([FIRST])
        assert len(first["ids"]) > 64  # more than a step reads
        assert check(checkpoint, first, ear.next(), [FIRST]) == [0]
        reply = first["text"] or "Yes."
        longer = [FIRST, reply, SECOND]
        (second,) = vllm.ask(longer)
        assert second["cached"] >= 64
        assert len(second["ids"]) - second["cached"] > 64
        assert check(checkpoint, second, ear.next(), longer)[-1] == 2
        together = [[FIRST, reply, OTHER], [OTHER], [SECOND, reply, OTHER]]
        answers = vllm.ask(*together)
        told = {tuple(one["texts"]): one for one in (ear.next() for _ in together)}
        for answer, contents in zip(answers, together, strict=True):
            assert len(contents) - 1 in check(checkpoint, answer, told[tuple(contents)], contents)
        (silent,) = vllm.ask([SECOND], salt="other", asks=False)
        (again,) = vllm.ask([SECOND], salt="third")
        assert silent["text"] == again["text"]
        assert ear.next()["texts"] == [SECOND]  # and nothing of the one that did not ask
        assert ear.told.empty()
    assert ("Warming up model for the compilation" in (tmp_path / "log").read_text("utf-8")) != eager


def test_nothing_is_put_in_place_unless_it_is_asked_for(tmp_path: Path) -> None:
    """vLLM itself loads the plugin, as every process of a server does."""
    done = subprocess.run(
        [sys.executable, "-c", REGISTERED],
        env=environment(tmp_path) | {"VLLM_PLUGINS": "lightmem"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    plain, wanted = json.loads(done.stdout.splitlines()[-1])
    assert plain == ["vllm.v1.attention.backends.cpu_attn.CPUAttentionBackend", False, "CPUAttentionBackend"]
    assert wanted == ["lightmem_engine.vllm_plugin.attention.backends.CPU_ATTN", True, "CPUAttentionBackend"]
