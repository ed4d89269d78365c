"""A Qwen checkpoint in process, served and remembering; random weights, real tokenizer, template and cache."""

from __future__ import annotations

from collections.abc import Iterator

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
    with (
        OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client,
        pytest.raises(BadRequestError, match=r"tokens; .* reads at most"),
    ):
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": long}])
