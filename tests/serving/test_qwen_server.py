"""A Qwen checkpoint in process, served and remembering; random weights, real tokenizer, template and cache."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import BadRequestError, OpenAI

from tests.models.tiny_qwen import save
from tests.support.server import STUB_MODELS, Server


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    directory = tmp_path_factory.mktemp("qwen")
    checkpoint = str(save(directory / "tiny"))
    settings = (*STUB_MODELS, "extract.mode=extractive")
    with Server(directory / "data", settings, ["--model", checkpoint]) as server:
        yield server, checkpoint


def test_chat_streams_counts_tokens_and_reuses_the_prefix(qwen: tuple[Server, str]) -> None:
    server, model = qwen
    with OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
        assert [found.id for found in client.models.list()] == [model]
        first = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "hello there " * 20}], max_tokens=8, temperature=0
        )
        assert first.usage is not None
        assert 0 < first.usage.completion_tokens <= 8
        assert first.choices[0].finish_reason in ("stop", "length")
        again = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "hello there " * 20}], max_tokens=8, temperature=0
        )
        assert again.choices[0].message.content == first.choices[0].message.content
        assert again.usage is not None
        assert again.usage.prompt_tokens_details is not None
        assert (again.usage.prompt_tokens_details.cached_tokens or 0) > 0
        stream = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "hello there " * 20}],
            max_tokens=8,
            temperature=0,
            stream=True,
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        assert text == first.choices[0].message.content


def test_recalled_memory_reaches_the_prompt(qwen: tuple[Server, str]) -> None:
    server, model = qwen
    with OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
        for content in ("My parrot is called Zazu.", "What is my parrot called?"):
            reply = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": content}], max_tokens=4, user="ann"
            )
        bare = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "What is my parrot called?"}], max_tokens=4
        )
    assert reply.model_extra is not None
    assert reply.model_extra["memory"]["used"]
    assert reply.usage is not None
    assert bare.usage is not None
    assert reply.usage.prompt_tokens > bare.usage.prompt_tokens


def test_a_prompt_beyond_the_context_is_a_clear_400(qwen: tuple[Server, str]) -> None:
    server, model = qwen
    long = "x y " * 50_000
    for stream in (False, True):
        with (
            OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client,
            pytest.raises(BadRequestError, match=r"tokens; .* reads at most") as caught,
        ):
            client.chat.completions.create(model=model, messages=[{"role": "user", "content": long}], stream=stream)
        assert caught.value.code == "context_length_exceeded"


def _ask(qwen: tuple[Server, str], **fields: Any) -> Any:
    server, model = qwen
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 12} | fields
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_logprobs_are_those_of_the_tokens(qwen: tuple[Server, str]) -> None:
    greedy = _ask(qwen, temperature=0, logprobs=True, top_logprobs=5)["choices"][0]
    rows = greedy["logprobs"]["content"]
    assert b"".join(bytes(row["bytes"]) for row in rows).decode("utf-8", "replace") == greedy["message"]["content"]
    for row in rows:
        best = [other["logprob"] for other in row["top_logprobs"]]
        assert len(best) == 5
        assert best == sorted(best, reverse=True)
        assert row["logprob"] == best[0] <= 0, "greedy takes the likeliest"
        assert sum(math.exp(value) for value in best) <= 1.0001
    assert _ask(qwen, temperature=0, logprobs=True)["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


def test_n_seeds_and_penalties(qwen: tuple[Server, str]) -> None:
    def texts(**fields: Any) -> list[str]:
        return [choice["message"]["content"] for choice in _ask(qwen, **fields)["choices"]]

    three = texts(n=3, seed=5)
    assert three == texts(n=3, seed=5)
    assert len(set(three)) == 3
    assert texts(seed=6) == three[1:2]
    plain = _ask(qwen, temperature=0, max_tokens=60, logprobs=True)["choices"][0]["logprobs"]["content"]
    varied = _ask(qwen, temperature=0, max_tokens=60, logprobs=True, frequency_penalty=2, presence_penalty=2)
    tokens = [row["token"] for row in varied["choices"][0]["logprobs"]["content"]]
    assert len(set(tokens)) / len(tokens) > len({row["token"] for row in plain}) / len(plain)


def test_schemas_and_forced_calls_are_enforced(qwen: tuple[Server, str]) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"x": {"enum": ["a", "b"]}}, "required": ["x"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    got = json.loads(_ask(qwen, response_format=wanted, max_tokens=100)["choices"][0]["message"]["content"])
    assert got in ({"x": "a"}, {"x": "b"})
    tool = {"type": "function", "function": {"name": "pick", "parameters": schema}}
    choice = _ask(qwen, tools=[tool], tool_choice="required", max_tokens=100)["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert (call["function"]["name"], choice["finish_reason"]) == ("pick", "tool_calls")
    assert json.loads(call["function"]["arguments"]) in ({"x": "a"}, {"x": "b"})


def test_tools_and_template_variables_reach_the_template(qwen: tuple[Server, str]) -> None:
    tool = {"type": "function", "function": {"name": "pick", "parameters": {"type": "object"}}}
    bare = _ask(qwen)["usage"]["prompt_tokens"]
    assert _ask(qwen, tools=[tool])["usage"]["prompt_tokens"] > bare
    assert _ask(qwen, tools=[tool], tool_choice="none")["usage"]["prompt_tokens"] == bare
    thinking = _ask(qwen, chat_template_kwargs={"enable_thinking": True})
    assert thinking["usage"]["prompt_tokens"] < bare, "without the empty thought"
    server, model = qwen
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": {"messages": []}}
    assert httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=30).status_code == 400
