"""Extraction behind the conversation that the model in process has just read: how much is computed, what comes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lightmem_engine.async_memory import AsyncMemory
from lightmem_engine.models.qwen import QwenModel
from lightmem_engine.types import Completion, Prompt
from tests.models import parrot_qwen
from tests.models.keeping import count_forward
from tests.support.conversations import long_conversation
from tests.support.memory import quick_config


def config(tmp_path: Path, **options: Any) -> Any:
    settings = {
        "lm.model": str(parrot_qwen.save(tmp_path / "model")),
        "extract.mode": "llm",
        "short_term.threshold": 100_000,
        "short_term.idle_seconds": 1e6,
        "chat.budget_ms": 60_000,
        "kv.mode": "off",
        **options,
    }
    return quick_config(tmp_path / "data", **settings)


class Overheard:
    """Every prompt of the model, and what it answered."""

    def __init__(self, model: QwenModel) -> None:
        self.asked: list[tuple[Prompt, Completion]] = []
        generate = model.generate

        async def overheard(prompts: Any, **more: Any) -> list[Completion]:
            found = await generate(prompts, **more)
            self.asked += zip(prompts, found, strict=True)
            return found

        model.generate = overheard  # type: ignore[method-assign]


@pytest.mark.parametrize("prefix", [True, False])
async def test_a_finished_conversation_is_not_read_again_and_gives_the_same(tmp_path: Path, prefix: bool) -> None:
    async with AsyncMemory(config(tmp_path, **{"extract.prefix": prefix})) as memory:
        engine: Any = memory._engine
        model: QwenModel = engine.lm
        await memory.chat(long_conversation(), user_id="ann", session_id="s", temperature=0.0)
        overheard, counts = Overheard(model), count_forward(model)
        await memory.flush(user_id="ann")
        ((prompt, answer),) = overheard.asked
        computed = sum(count for count in counts if count > 1)
        assert computed == answer.usage.prompt_tokens - answer.usage.cached_tokens
        if prefix:
            instruction = answer.usage.prompt_tokens - model.count(Prompt(prompt.messages[:-1]))
            assert answer.usage.prompt_tokens - instruction >= 2000
            assert computed - instruction <= 0.1 * (answer.usage.prompt_tokens - instruction)
        else:
            assert len(prompt.messages) == 2
        (fact,) = json.loads(answer.text)["facts"]
        (entry,) = await memory.get_all(user_id="ann")
        assert entry.text == fact["fact"] == "Caroline lives in Denver."
        (source,) = entry.source_ids
        first = [hit for hit in await memory.search("Maja moved", user_id="ann") if source in hit.source_ids]
        assert first
        assert not (await memory.stats(user_id="ann"))["parked"]


async def test_an_erasure_takes_the_conversation_along(tmp_path: Path) -> None:
    async with AsyncMemory(config(tmp_path)) as memory:
        engine: Any = memory._engine
        await memory.chat(long_conversation(), user_id="ann", session_id="s", temperature=0.0, max_tokens=4)
        assert engine._chat_turns._around.finished._known
        await memory.delete_all(user_id="ann")
        assert not engine._chat_turns._around.finished._known
