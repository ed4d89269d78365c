import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from lightmem_engine.errors import (
    BackendUnavailable,
    ConfigError,
    InvalidInput,
    LightMemError,
    ModelError,
    NotFound,
    Overloaded,
)
from lightmem_engine.models.remote import RemoteModel
from lightmem_engine.types import Completion, Delta, Priority, Prompt, Sampling, Usage
from tests.models.chat_server import Script, running
from tests.support.server import free_port
from tests.support.upstream import ScriptedUpstream, completion, whole

ASK = Prompt(({"role": "user", "content": "Hi"},))


@pytest.fixture
def server() -> Iterator[Script]:
    with running(Script()) as script:
        yield script


@pytest_asyncio.fixture
async def model(server: Script) -> AsyncIterator[RemoteModel]:
    remote = RemoteModel(server.url, "qwen", api_key="sk-secret", timeout_seconds=30)
    yield remote
    await remote.aclose()


async def ask(model: RemoteModel, prompt: Prompt = ASK, sampling: Sampling | None = None) -> Completion:
    return (await model.generate([prompt], sampling=sampling or Sampling(), priority=Priority.INGEST))[0]


async def stream(model: RemoteModel) -> list[Delta]:
    return [delta async for delta in model.stream(ASK, sampling=Sampling(), priority=Priority.FOREGROUND)]


async def test_an_answer_comes_with_its_reason_and_usage_without_reasoning(server: Script, model: RemoteModel) -> None:
    server.answer("Hello")
    assert await ask(model) == Completion("Hello", "stop", Usage(11, 3, 8))
    assert server.headers[0]["authorization"] == "Bearer sk-secret"


async def test_a_plain_request_has_only_what_every_server_knows(server: Script, model: RemoteModel) -> None:
    server.answer("Hello")
    await ask(model)
    messages = [{"role": "user", "content": "Hi"}]
    assert server.requests == [{"model": "qwen", "messages": messages, "temperature": 0.0, "top_p": 1.0}]


async def test_prompts_share_caches_with_their_own_salt_or_the_owners_alone(server: Script) -> None:
    model = RemoteModel(server.url, "qwen", send_salt=True)
    try:
        for prompt in (ASK, ASK, dataclasses.replace(ASK, salt="ann's")):
            server.answer("Hello")
            await ask(model, prompt)
    finally:
        await model.aclose()
    first, second, anns = (request["cache_salt"] for request in server.requests)
    assert first == second
    assert len(first) == 64
    assert anns == "ann's"


async def test_sampling_and_schema_are_sent(server: Script, model: RemoteModel) -> None:
    server.answer("{}")
    schema = {"title": "t", "type": "object"}
    sampling = Sampling(max_tokens=9, temperature=0.5, top_p=0.9, seed=4, stop=("x",))
    await ask(model, Prompt(ASK.messages, schema), sampling)
    sent = server.requests[0]
    assert (sent["max_tokens"], sent["temperature"], sent["top_p"], sent["seed"], sent["stop"]) == (
        9,
        0.5,
        0.9,
        4,
        ["x"],
    )
    assert sent["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "t", "schema": schema, "strict": True},
    }


async def test_priority_and_template_options_only_if_told(server: Script) -> None:
    server.answer("Hello")
    model = RemoteModel(server.url, "qwen", send_priority=True, template_options={"enable_thinking": False})
    await ask(model)
    assert server.requests[0]["priority"] == 5
    assert server.requests[0]["chat_template_kwargs"] == {"enable_thinking": False}
    assert "authorization" not in server.headers[0]
    await model.aclose()


async def test_a_stream_arrives_piece_by_piece_and_ends_with_reason_and_usage(
    server: Script, model: RemoteModel
) -> None:
    server.pieces("Hel", "lo", reason="length")
    assert await stream(model) == [Delta("Hel"), Delta("lo"), Delta("", "length", Usage(5, 2))]
    assert server.requests[0]["stream"] is True


async def test_a_stream_that_ends_early_is_not_an_answer(server: Script, model: RemoteModel) -> None:
    server.pieces("Hel", reason=None)
    with pytest.raises(BackendUnavailable, match="before the answer"):
        await stream(model)


async def test_an_error_inside_a_stream_is_raised(server: Script, model: RemoteModel) -> None:
    server.events = [{"error": {"message": "cache is full"}}]
    with pytest.raises(ModelError, match="cache is full"):
        await stream(model)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidInput),
        (401, ModelError),
        (404, NotFound),
        (422, InvalidInput),
        (429, Overloaded),
        (500, BackendUnavailable),
        (503, BackendUnavailable),
    ],
)
@pytest.mark.parametrize("body", [{"error": {"message": "these words"}}, {"message": "these words"}, "these words"])
async def test_a_refusal_carries_the_servers_words(
    server: Script, model: RemoteModel, status: int, kind: type[LightMemError], body: Any
) -> None:
    server.status, server.body = status, body
    with pytest.raises(kind, match=f"{status}: .*these words") as caught:
        await ask(model)
    assert type(caught.value) is kind
    assert "sk-secret" not in str(caught.value)
    with pytest.raises(kind, match="these words"):
        await stream(model)


@pytest.mark.parametrize("raw", [b"<html>", b"[]", b'{"choices":[]}', b'{"choices":[{"message":{"content":"x"}}]}'])
async def test_an_unusable_answer_is_a_model_error(server: Script, model: RemoteModel, raw: bytes) -> None:
    server.raw = raw
    with pytest.raises(ModelError):
        await ask(model)


async def test_an_aborted_answer_is_a_model_error(server: Script, model: RemoteModel) -> None:
    server.answer("Hel", "abort")
    with pytest.raises(ModelError, match="abort"):
        await ask(model)


async def test_silence_is_unavailability(server: Script) -> None:
    server.answer("late")
    server.delay = 2.0
    model = RemoteModel(server.url, "qwen", timeout_seconds=0.2)
    with pytest.raises(BackendUnavailable, match="in time"):
        await ask(model)
    await model.aclose()


async def test_no_server_is_unavailability() -> None:
    model = RemoteModel(f"http://127.0.0.1:{free_port()}/v1", "qwen")
    with pytest.raises(BackendUnavailable, match="cannot be reached"):
        await ask(model)
    await model.aclose()


async def test_requests_in_flight_are_bounded(server: Script) -> None:
    server.answer("Hello")
    server.delay, server.together = 0.05, 3
    model = RemoteModel(server.url, "qwen", max_concurrency=3)
    answers = await model.generate([ASK] * 10, sampling=Sampling(), priority=Priority.SLEEP)
    assert len(answers) == 10
    assert server.most_in_flight == 3
    await model.aclose()


async def test_leaving_a_stream_closes_the_connection_and_frees_the_slot(server: Script) -> None:
    server.pieces(*["word "] * 1000)
    model = RemoteModel(server.url, "qwen", max_concurrency=1)
    pieces = model.stream(ASK, sampling=Sampling(), priority=Priority.FOREGROUND)
    await anext(pieces)
    await pieces.aclose()
    server.answer("Hello")
    assert (await asyncio.wait_for(ask(model), 30)).text == "Hello"
    await model.aclose()


async def test_after_close_a_request_is_refused(server: Script, model: RemoteModel) -> None:
    await model.aclose()
    with pytest.raises(BackendUnavailable, match="closed"):
        await ask(model)


def test_a_url_without_scheme_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"lm\.url"):
        RemoteModel("localhost:8000", "qwen")


async def test_without_a_name_the_server_is_asked_once_which_model_it_serves() -> None:
    with ScriptedUpstream() as scripted:
        scripted.plan = whole(completion("Hi."))
        scripted.plans = {"/v1/models": whole({"data": [{"id": "big"}, {"id": "small"}]})}
        model = RemoteModel(f"{scripted.url}/v1", "")
        for _ in range(2):
            await model.generate([ASK], sampling=Sampling(), priority=Priority.SLEEP)
        await model.aclose()
    assert model.name == "big"
    assert [seen.target for seen in scripted.seen] == ["/v1/models", *["/v1/chat/completions"] * 2]
    assert scripted.seen[1].json()["model"] == "big"


async def test_a_server_without_a_list_of_models_is_asked_without_a_name() -> None:
    with ScriptedUpstream() as scripted:
        scripted.plan = whole(completion("Hi."))
        scripted.plans = {"/v1/models": whole({}, 404)}
        model = RemoteModel(f"{scripted.url}/v1", "")
        for _ in range(2):
            await model.generate([ASK], sampling=Sampling(), priority=Priority.SLEEP)
        await model.aclose()
    assert [seen.target for seen in scripted.seen] == ["/v1/models", *["/v1/chat/completions"] * 2]


async def test_a_server_that_names_no_model() -> None:
    with ScriptedUpstream() as scripted:
        scripted.plan = whole({"data": []})
        model = RemoteModel(f"{scripted.url}/v1", "")
        with pytest.raises(ModelError, match=r"lm\.model"):
            await model.generate([ASK], sampling=Sampling(), priority=Priority.SLEEP)
        await model.aclose()
