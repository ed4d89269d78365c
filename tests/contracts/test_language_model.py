"""What every `LanguageModel` does, whichever it is."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import jsonschema
import pytest
import pytest_asyncio

from lightmem_engine.models.qwen import QwenModel
from lightmem_engine.models.remote import RemoteModel
from lightmem_engine.models.stub_lm import StubModel
from lightmem_engine.protocols import LanguageModel
from lightmem_engine.types import Priority, Prompt, Sampling
from tests.models import tiny_qwen
from tests.models.chat_server import Script, running

ASK = Prompt(({"role": "user", "content": "Where is Caroline?"},))
SHORT = Sampling(max_tokens=8)
SCHEMA = {
    "type": "object",
    "properties": {"place": {"enum": ["Rome", "Boston"]}},
    "required": ["place"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_qwen.save(tmp_path_factory.mktemp("qwen")))


@pytest_asyncio.fixture(params=["qwen", "remote", "stub"])
async def model(request: pytest.FixtureRequest, checkpoint: str) -> AsyncIterator[LanguageModel]:
    match request.param:
        case "qwen":
            loaded: LanguageModel = QwenModel.load(checkpoint, cache_bytes=1_000_000)
            yield loaded
            await loaded.aclose()
        case "remote":
            with running(Script()) as script:
                script.answer('{"place":"Rome"}')
                script.pieces('{"place":', '"Rome"}')
                remote: LanguageModel = RemoteModel(script.url, "scripted")
                yield remote
                await remote.aclose()
        case _:
            yield StubModel()


async def test_as_many_completions_as_prompts_with_usage(model: LanguageModel) -> None:
    answers = await model.generate([ASK, ASK, ASK], sampling=SHORT, priority=Priority.INGEST)
    assert len({answer.text for answer in answers}) == 1
    assert all(answer.usage.prompt_tokens > 0 and answer.usage.completion_tokens > 0 for answer in answers)
    assert await model.generate([], sampling=SHORT, priority=Priority.INGEST) == []


async def test_a_stream_joins_to_the_completion_and_ends_once(model: LanguageModel) -> None:
    (whole,) = await model.generate([ASK], sampling=SHORT, priority=Priority.FOREGROUND)
    deltas = [delta async for delta in model.stream(ASK, sampling=SHORT, priority=Priority.FOREGROUND)]
    assert "".join(delta.text for delta in deltas) == whole.text
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == [whole.finish_reason]
    assert deltas[-1].usage is not None


async def test_a_schema_is_satisfied(model: LanguageModel) -> None:
    prompt = Prompt(ASK.messages, SCHEMA)
    (answer,) = await model.generate([prompt], sampling=Sampling(max_tokens=64), priority=Priority.INGEST)
    jsonschema.validate(json.loads(answer.text), SCHEMA)


async def test_concurrent_callers_do_not_disturb_each_other(model: LanguageModel) -> None:
    async def ask(priority: Priority) -> str:
        return (await model.generate([ASK], sampling=SHORT, priority=priority))[0].text

    texts = await asyncio.gather(*(ask(priority) for priority in Priority for _ in range(3)))
    assert len(set(texts)) == 1


def test_names_tell_models_apart(tmp_path: Path) -> None:
    assert StubModel().name == "stub"
    assert QwenModel.load(str(tiny_qwen.save(tmp_path)), name="tiny").name == "tiny"
