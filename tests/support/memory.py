"""Small memories for tests, and ways to wait for them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lightmem_engine import assemble
from lightmem_engine.config import EngineConfig, replace
from lightmem_engine.memory import AsyncMemory
from lightmem_engine.models.stub_encoder import StubEmbedder
from lightmem_engine.types import Completion, Delta, Hit, Priority, Prompt, Sampling, Scope, Usage, Vectors

PATIENCE_SECONDS = 20.0
QUICK = {
    "embedder.stub": True,
    "classifier.source": "stub",
    "runtime.backoff_seconds": 0.01,
    "chat.budget_ms": 60_000.0,  # what a test asserts must not hang on how busy the machine is
}
Answer = str | Completion | Exception


def quick_config(directory: Path, **options: Any) -> EngineConfig:
    """No weights, short pauses before retries, and the given dotted options; a model that they name is the one."""
    model = {} if "lm.url" in options or "lm.model" in options else {"lm.backend": "stub"}
    return replace(EngineConfig(data_dir=str(directory)), **(QUICK | model | options))


class ScriptedModel:
    """A language model that answers what a user says as a function of it, and remembers what it was asked."""

    name = "scripted"

    def __init__(self, answer: Callable[[str], Answer]) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def generate(self, prompts: Sequence[Prompt], *, sampling: Sampling, priority: Priority) -> list[Completion]:
        return [self._complete(prompt) for prompt in prompts]

    async def stream(self, prompt: Prompt, *, sampling: Sampling, priority: Priority) -> AsyncGenerator[Delta, None]:
        yield Delta(self._complete(prompt).text, "stop", Usage())

    async def aclose(self) -> None:
        """Nothing to release."""

    def _complete(self, prompt: Prompt) -> Completion:
        asked = "\n".join(str(message["content"]) for message in prompt.messages if message["role"] == "user")
        self.asked.append(asked)
        answer = self.answer(asked)
        if isinstance(answer, Exception):
            raise answer
        return Completion(answer, "stop", Usage(10, 5)) if isinstance(answer, str) else answer


def use_model(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], Answer]) -> ScriptedModel:
    """Let engines opened from now on talk to a scripted model."""
    model = ScriptedModel(answer)
    monkeypatch.setattr(assemble, "load_lm", lambda *_: model)
    return model


def facts(*items: tuple[Any, Any]) -> str:
    """The answer to an extraction prompt: (source, fact) pairs."""
    return json.dumps({"facts": [{"source": source, "fact": fact} for source, fact in items]})


def user(content: str, **fields: Any) -> dict[str, Any]:
    """What a user says."""
    return {"role": "user", "content": content, **fields}


def assistant(content: str, **fields: Any) -> dict[str, Any]:
    """What the assistant says."""
    return {"role": "assistant", "content": content, **fields}


async def everything(memory: AsyncMemory, user_id: str = "ann") -> list[Hit]:
    """All that is remembered of a user, in the order it was said."""
    return await memory.engine.everything(Scope(user_id))


def source_ids(hits: Sequence[Hit]) -> list[str]:
    """The messages that these memories come from, in order, once each."""
    return list(dict.fromkeys(id for hit in hits for id in hit.source_ids))


def fail_at_poison(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Let the stub embedder fail whenever a text has the word poison."""
    plain = StubEmbedder.encode

    def encode(embedder: StubEmbedder, texts: Sequence[str]) -> Vectors:
        if any("poison" in text for text in texts):
            raise error
        return plain(embedder, texts)

    monkeypatch.setattr(StubEmbedder, "encode", encode)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a condition holds; fails if it does not come to hold."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not await condition():
        assert time.monotonic() < deadline, "it never came to hold"
        await asyncio.sleep(0.01)
