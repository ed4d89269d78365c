"""What the package ships is small, loads as any Qwen3, and says what it is."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from lightmem_engine.errors import ConfigError
from lightmem_engine.models.qwen import QwenModel
from lightmem_engine.training import export as exporting
from lightmem_engine.training import tokenizer as tokenizers
from lightmem_engine.training.export import export, main
from lightmem_engine.training.trainer import Plan, Trainer
from lightmem_engine.types import Priority, Prompt, Sampling

TINY = Plan(hidden=32, layers=1, heads=1, inner=64, context=512, vocabulary=512, bf16=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    words: Any = tokenizers.build("1", size=TINY.vocabulary, num_examples=60)
    Trainer(folder, TINY, "abc", words).save()
    return folder


async def test_the_engine_speaks_with_the_exported_weights(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path, {})
    assert AutoConfig.from_pretrained(tmp_path).model_type == "qwen3"
    model = QwenModel.load(str(tmp_path))
    prompt = Prompt(({"role": "user", "content": "Hi"},))
    (answer,) = await model.generate([prompt], sampling=Sampling(max_tokens=3), priority=Priority.FOREGROUND)
    assert answer.usage.completion_tokens > 0
    await model.aclose()


def test_the_optimizer_stays_behind(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path, {})
    names = {path.name for path in tmp_path.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "config.json", "lightmem.json", "README.md"} <= names
    assert "trainer.pt" not in names
    assert "train.jsonl" not in names


def test_record_and_card_carry_the_figures(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path, {"answer@10": 0.93})
    record = json.loads((tmp_path / "lightmem.json").read_text("utf-8"))
    assert record["held_out"] == {"answer@10": 0.93}
    assert record["commit"] == "abc"
    card = (tmp_path / "README.md").read_text("utf-8")
    assert "| answer@10 | 0.93 |" in card
    assert "cannot do" in card


def test_a_folder_without_a_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "marks").write_text("{}")
    assert main([str(tmp_path), "--to", str(tmp_path / "to"), "--marks", str(tmp_path / "marks")]) == 1
    assert "no trained model" in capsys.readouterr().err


def test_weights_beyond_the_package_are_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "MAX_BYTES", 1000)
    with pytest.raises(ConfigError, match="room for 1000"):
        export(run, tmp_path, {})
