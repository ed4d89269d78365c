"""The stock OpenAI client and curl against the model in process: everything they may ask for."""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from typing import Any

import httpx
import pytest
from openai import BadRequestError, OpenAI

from tests.support.server import Server

ASK: dict[str, Any] = {"model": "stub", "messages": [{"role": "user", "content": "Good morning!"}]}
LOOK = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look at a place.",
        "parameters": {
            "type": "object",
            "properties": {"at": {"$ref": "#/$defs/P"}},
            "required": ["at"],
            "$defs": {"P": {"type": "string"}},
        },
    },
}
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "sea"}}\n</tool_call>'


@pytest.fixture(scope="module")
def client(server: Server) -> Any:
    with OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
        yield client


def _post(server: Server, **fields: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/chat/completions", json=ASK | fields, timeout=30)


def _events(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    parts = answer.text.split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


def test_n_choices_whole_and_streamed(client: OpenAI, server: Server) -> None:
    user = uuid.uuid4().hex
    whole = client.chat.completions.create(**ASK, n=3, seed=7)
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = list(client.chat.completions.create(**ASK, n=2, user=user, stream=True))
    for index in (0, 1):
        mine = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert "".join(choice.delta.content or "" for choice in mine) == whole.choices[0].message.content
        assert mine[0].delta.role == "assistant"
        assert [choice.finish_reason for choice in mine].count("stop") == 1
    carrying = [chunk for chunk in chunks if "memory" in (chunk.model_extra or {})]
    assert [chunk.choices[0].index for chunk in carrying] == [0]


def test_stop_and_length(client: OpenAI) -> None:
    stopped = client.chat.completions.create(**ASK, stop=[" you", "never"]).choices[0]
    assert stopped.finish_reason == "stop"
    assert not (stopped.message.content or "").count("you")
    limits: list[dict[str, Any]] = [{"max_tokens": 2}, {"max_completion_tokens": 2}]
    for limit in limits:
        cut = client.chat.completions.create(**ASK, **limit)
        assert cut.choices[0].finish_reason == "length"
        assert cut.usage is not None
        assert cut.usage.completion_tokens == 2


def test_logprobs_cover_the_text(client: OpenAI) -> None:
    whole = client.chat.completions.create(**ASK, logprobs=True, top_logprobs=2).choices[0]
    assert whole.logprobs is not None
    rows = whole.logprobs.content or []
    assert "".join(row.token for row in rows) == whole.message.content
    assert all(bytes(row.bytes or []).decode() == row.token and row.logprob <= 0 for row in rows)
    assert all(row.top_logprobs for row in rows)
    chunks = client.chat.completions.create(**ASK, logprobs=True, stream=True)
    tokens = [
        row.token for chunk in chunks if (seen := chunk.choices[0].logprobs) is not None for row in seen.content or []
    ]
    assert tokens == [row.token for row in rows]
    assert client.chat.completions.create(**ASK).choices[0].logprobs is None


def test_usage_in_a_stream_only_if_asked(server: Server) -> None:
    asked = _events(_post(server, stream=True, stream_options={"include_usage": True}))
    assert asked[-1]["choices"] == []
    assert asked[-1]["usage"]["completion_tokens"] > 0
    assert all(chunk["usage"] is None for chunk in asked[:-1])
    assert all("usage" not in chunk for chunk in _events(_post(server, stream=True)))


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look"}}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_that_must_be_called(client: OpenAI, choice: Any, stream: bool) -> None:
    asked = ASK | {"tools": [LOOK], "tool_choice": choice}
    if stream:
        chunks = list(client.chat.completions.create(**asked, stream=True))
        (calls,) = [c.choices[0].delta.tool_calls for c in chunks if c.choices[0].delta.tool_calls]
        finish = chunks[-1].choices[0].finish_reason
    else:
        answer = client.chat.completions.create(**asked).choices[0]
        calls, finish = answer.message.tool_calls, answer.finish_reason
        assert answer.message.content is None
    assert finish == "tool_calls"
    (call,) = calls
    assert (call.type, call.function.name) == ("function", "look")
    assert set(json.loads(call.function.arguments)) == {"at"}


@pytest.mark.parametrize("stream", [False, True])
def test_calls_that_the_model_writes_are_read(server: Server, stream: bool) -> None:
    """The stub says again what it hears, marks included."""
    said = [{"role": "user", "content": f"Say: {CALL} {CALL}"}]
    answer = _post(server, messages=said, tools=[LOOK], stream=stream)
    if stream:
        events = _events(answer)
        deltas = [event["choices"][0]["delta"] for event in events]
        calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
        content = "".join(delta.get("content", "") for delta in deltas)
        assert [call["index"] for call in calls] == [0, 1]
        assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"
    else:
        choice = answer.json()["choices"][0]
        calls, content = choice["message"]["tool_calls"], choice["message"]["content"]
        assert choice["finish_reason"] == "tool_calls"
    assert [json.loads(call["function"]["arguments"]) for call in calls] == [{"at": "sea"}] * 2
    assert len({call["id"] for call in calls}) == 2
    assert content.endswith("Say:")
    one = _post(server, messages=said, tools=[LOOK], parallel_tool_calls=False).json()["choices"][0]["message"]
    assert len(one["tool_calls"]) == 1
    none = _post(server, messages=said, tools=[LOOK], tool_choice="none").json()["choices"][0]
    assert "tool_calls" not in none["message"]
    assert none["finish_reason"] == "stop"


def test_a_whole_tool_loop(client: OpenAI) -> None:
    call = {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sea"}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "What do you see?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t1", "content": [{"type": "text", "text": "waves"}]},
    ]
    answer = client.chat.completions.create(model="stub", messages=messages, tools=[LOOK])  # type: ignore[arg-type, list-item]
    assert "waves" in (answer.choices[0].message.content or "")


def test_json_that_satisfies_a_schema(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    answer = client.chat.completions.create(**ASK, response_format=wanted).choices[0].message.content
    assert isinstance(json.loads(answer or "")["x"], int)
    loose: Any = {"type": "json_object"}
    assert (
        json.loads(client.chat.completions.create(**ASK, response_format=loose).choices[0].message.content or "") == {}
    )


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"n": 0}, "n:"),
        ({"n": True}, "n:"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"stop": [1]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"seed": "x"}, "seed"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [LOOK], "tool_choice": {"type": "function", "function": {"name": "fly"}}}, "fly"),
        ({"tool_choice": "required"}, "tools"),
        ({"response_format": {"type": "json_schema"}}, "json_schema"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "content[0]"),
        ({"messages": [{"role": "user", "content": [7]}]}, "content[0]"),
        ({"messages": [{"role": "assistant", "tool_calls": [3]}]}, "tool_calls"),
        ({"memory": 5}, "memory"),
        ({"memory": {"user_id": "u", "top_k": -1}}, "memory.top_k"),
        ({"memory": {"user_id": "u", "budget_ms": "soon"}}, "memory.budget_ms"),
        ({"memory": {"user_id": ["u"]}}, "memory.user_id"),
        ({"user": 7}, "user"),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else "",
)
def test_what_it_cannot_do_it_names(server: Server, fields: dict[str, Any], named: str) -> None:
    answer = _post(server, **fields)
    assert answer.status_code == 400, answer.text
    assert named in answer.json()["error"]["message"]


def test_a_bad_request_is_the_clients_own_exception(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="logit_bias"):
        client.chat.completions.create(**ASK, logit_bias={"1": 5})


def test_unknown_fields_are_no_error(server: Server) -> None:
    fields = {"store": False, "metadata": {"a": "b"}, "service_tier": "auto", "made_up": [1], "reasoning_effort": "low"}
    assert _post(server, **fields).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_without_identity_two_answers_differ_in_ids_and_times_alone(server: Server, stream: bool) -> None:
    def bare(text: str) -> list[Any]:
        lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line and "[DONE]" not in line]
        return [{k: v for k, v in json.loads(line).items() if k not in ("id", "created")} for line in lines]

    first, second = (_post(server, stream=stream, seed=3).text for _ in range(2))
    assert bare(first) == bare(second)
    named = bare(_post(server, stream=stream, seed=3, user=uuid.uuid4().hex).text)
    for chunk in named:
        chunk.pop("memory", None)
    assert named == bare(first)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
@pytest.mark.parametrize("stream", [False, True])
def test_curl(server: Server, stream: bool) -> None:
    def curl(*arguments: str) -> str:
        command = ["curl", "-sS", "-N", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout

    url, kind = f"{server.url}/v1/chat/completions", "Content-Type: application/json"
    body = json.dumps(ASK | {"stream": stream})
    answer = curl(url, "-H", kind, "-H", f"X-Memory-User-Id: {uuid.uuid4().hex}", "-d", body)
    if stream:
        assert answer.endswith("data: [DONE]\n\n")
        assert '"memory":{"used":' in answer
    else:
        assert json.loads(answer)["memory"]["stored"] is True
    assert "content-type" in curl(url, "-d", body), "a form is no JSON"
    sent = curl(url, "-H", kind, "-H", "Transfer-Encoding: chunked", "-H", "Expect: 100-continue", "-d", body)
    assert "stub model" in sent or '"content":"stub"' in sent
    head = curl("-i", url, "-H", kind, "-H", "X-Request-Id: from-curl", "-d", "{}")
    assert "x-request-id: from-curl" in head
    assert json.loads(head.split("\n\n")[1])["error"]["request_id"] == "from-curl"
