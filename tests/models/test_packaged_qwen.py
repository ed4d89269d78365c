"""The language model that comes with the package: there, whole, and refused when it is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lightmem_engine.errors import ConfigError, CorruptStore
from lightmem_engine.models.packaged import MICRO_QWEN, MICRO_QWEN_DIRECTORY, packaged_micro_qwen
from lightmem_engine.models.qwen import QwenModel
from lightmem_engine.prompts import v1


def test_it_is_small_and_says_where_it_comes_from() -> None:
    found = packaged_micro_qwen()
    assert found.label == MICRO_QWEN
    assert (found.directory / "model.safetensors").stat().st_size < 16 * 1024 * 1024
    record = found.read_json("lightmem.json")
    assert record["prompt_version"] == v1.VERSION
    assert record["commit"] != "unknown"
    assert {"data_seed", "plan", "progress", "held_out"} <= record.keys()
    config = found.read_json("config.json")
    assert config["model_type"] == "qwen3"
    assert config["head_dim"] in (32, 64)


def test_a_missing_model_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"reinstall, or set lm\.model"):
        packaged_micro_qwen(tmp_path)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(MICRO_QWEN_DIRECTORY, tmp_path / "copy"))
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    with pytest.raises(CorruptStore, match="SHA-256"):
        packaged_micro_qwen(copy)


def test_weights_trained_on_other_prompts_are_refused(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(MICRO_QWEN_DIRECTORY, tmp_path / "copy"))
    record = json.loads((copy / "lightmem.json").read_text("utf-8"))
    (copy / "lightmem.json").write_text(json.dumps({**record, "prompt_version": "v0"}), "utf-8")
    with pytest.raises(ConfigError, match="install the engine release it came with, or train it again"):
        QwenModel.load(str(copy))
