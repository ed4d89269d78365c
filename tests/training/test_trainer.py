"""A run is seeded, learns, can be taken up again, and leaves a checkpoint that the engine loads."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lightmem_engine.errors import ConfigError
from lightmem_engine.models.qwen import QwenModel
from lightmem_engine.prompts import v1
from lightmem_engine.training import tokenizer as tokenizers
from lightmem_engine.training.encode import stack
from lightmem_engine.training.examples import LEVELS
from lightmem_engine.training.tasks import example
from lightmem_engine.training.trainer import Plan, Progress, Trainer, learn

TINY = Plan(
    minutes=0.0, hidden=32, layers=1, heads=2, inner=64, context=512, batch_tokens=256, vocabulary=512, bf16=False
)


@pytest.fixture(scope="module")
def words() -> Any:
    return tokenizers.build("1", size=TINY.vocabulary, num_examples=60)


@pytest.fixture(autouse=True)
def one_thread():  # type: ignore[no-untyped-def]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_training_lowers_the_loss_on_answers_it_has_not_seen(tmp_path: Path, words: Any) -> None:
    trainer = Trainer(tmp_path, TINY, tokenizer=words)
    unseen = stack([trainer.encoder.encode(example("chat", f"unseen {i}", "held_out", LEVELS[0])) for i in range(8)], 0)
    with torch.no_grad():
        before = float(learn(trainer.model, unseen)[0])
    for _ in range(60):
        trainer.step()
    with torch.no_grad():
        assert float(learn(trainer.model, unseen)[0]) < before - 0.5


def test_equal_plans_take_equal_steps(tmp_path: Path, words: Any) -> None:
    one, two = (Trainer(tmp_path / name, TINY, tokenizer=words) for name in ("one", "two"))
    assert [one.step() for _ in range(4)] == [two.step() for _ in range(4)]


def test_a_run_goes_on_where_it_was_saved(tmp_path: Path, words: Any) -> None:
    first = Trainer(tmp_path, TINY, tokenizer=words)
    for _ in range(3):
        first.step()
    first.save()
    again = Trainer(tmp_path, TINY, tokenizer=words)
    assert again.progress == first.progress
    assert all(a.equal(b) for a, b in zip(again.model.parameters(), first.model.parameters(), strict=True))


def test_a_folder_with_a_model_of_other_sizes_is_refused(tmp_path: Path, words: Any) -> None:
    Trainer(tmp_path, TINY, tokenizer=words).save()
    with pytest.raises(ConfigError, match="other sizes"):
        Trainer(tmp_path, Plan(**{**{f: getattr(TINY, f) for f in TINY.__slots__}, "layers": 2}))


def test_the_checkpoint_says_what_it_was_made_from(tmp_path: Path, words: Any) -> None:
    trainer = Trainer(tmp_path, TINY, "abc", words)
    trainer.run()
    record = json.loads((tmp_path / "lightmem.json").read_text("utf-8"))
    assert (record["prompt_version"], record["data_seed"], record["commit"]) == (v1.VERSION, 1, "abc")


async def test_the_engine_loads_the_checkpoint(tmp_path: Path, words: Any) -> None:
    Trainer(tmp_path, TINY, tokenizer=words).save()
    model = QwenModel.load(str(tmp_path))
    assert model.max_context == TINY.context
    await model.aclose()


def test_a_level_ends_when_its_share_of_answers_is_exact() -> None:
    enough = LEVELS[0].exact
    progress = Progress(level_step=100, exact={"chat": enough - 0.01})
    assert not progress.advance()
    progress.exact["chat"] = enough
    assert progress.advance()
    assert (progress.level, progress.level_step) == (1, 0)


def test_the_last_level_does_not_end() -> None:
    progress = Progress(level=len(LEVELS) - 1, level_step=10_000, exact={"chat": 1.0})
    assert not progress.advance()
