"""The model in this process as an OpenAI server."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from lightmem_engine.errors import LightMemError, NotFound
from lightmem_engine.models.tool_calls import OutputParser, Piece, Spoken, ToolCall, parse_call
from lightmem_engine.serving.backends import Answer, ChatRequest
from lightmem_engine.serving.errors import shape
from lightmem_engine.serving.local_request import Ask, read_ask
from lightmem_engine.serving.sse import DONE, compact, event_of
from lightmem_engine.types import Delta, FinishReason, OpenTurn, Prompt, Sampling, TokenLogprob, Usage

Asking = Callable[[Prompt, Sampling], AsyncGenerator[Delta, None]]
STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
JSON_HEADERS = [(b"content-type", b"application/json")]


class LocalBackend:
    """See `Backend`. Choices of `n` are written one after another, each finding the prompt in the cache."""

    def __init__(self, name: str, answer: Asking) -> None:
        """name: the model's.   answer: the engine's."""
        self._name = name
        self._answer = answer

    async def begin(self, request: ChatRequest, turn: OpenTurn | None) -> Answer:
        """Raises what the model raises before its first token."""
        ask = read_ask(request.body, None if turn is None else turn.messages)
        salt, owner = (f"tenant {request.tenant}", None) if turn is None else (turn.salt, turn.owner)
        ask = dataclasses.replace(ask, prompt=dataclasses.replace(ask.prompt, salt=salt, owner=owner))
        if ask.model not in (None, "", self._name):
            raise NotFound(f"the model {ask.model!r} does not exist; this server serves {self._name!r}")
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": self._name}
        writer = _Stream(self._answer, ask, head).pieces() if ask.stream else _whole(self._answer, ask, head)
        try:
            await anext(writer)  # up to the first token: from here on the answer is a 200
        except BaseException:
            await writer.aclose()
            raise
        headers = STREAM_HEADERS if ask.stream else JSON_HEADERS
        return Answer(200, headers, writer, writer.aclose, is_stream=ask.stream)

    async def check(self) -> bool:
        """A model in process is there."""
        return True

    async def aclose(self) -> None:
        """The model belongs to the engine."""


class _Choice:
    """One answer being written."""

    def __init__(self, answer: Asking, ask: Ask, index: int) -> None:
        self.index = index
        self.finish: FinishReason | None = None
        self.usage = Usage()
        self._ask = ask
        self._parser = OutputParser(tools=ask.has_tools)
        self._forced: list[str] = []
        self._num_calls = 0
        seed = ask.sampling.seed
        sampling = ask.sampling if seed is None else dataclasses.replace(ask.sampling, seed=seed + index)
        self._deltas = answer(ask.prompt, sampling)

    async def read(self) -> AsyncGenerator[tuple[list[Piece], tuple[TokenLogprob, ...]], None]:
        """What the client may see, and the log-probabilities since; sets `finish` with the last."""
        async with aclosing(self._deltas) as deltas:
            async for delta in deltas:
                pieces = self._pieces(delta)
                if delta.finish_reason:
                    called = self._num_calls and delta.finish_reason == "stop"
                    self.finish = "tool_calls" if called else delta.finish_reason
                    self.usage = delta.usage or Usage()
                yield pieces, delta.logprobs

    def _pieces(self, delta: Delta) -> list[Piece]:
        if self._ask.forced:
            self._forced.append(delta.text)
            if not delta.finish_reason:
                return []
            text = "".join(self._forced)
            call = parse_call(text)
            pieces: list[Piece] = [call or Spoken("content", text)]
        else:
            pieces = self._parser.push(delta.text)
            if delta.finish_reason:
                pieces += self._parser.finish()
        if self._ask.one_call and self._num_calls:
            return []
        self._num_calls += sum(isinstance(piece, ToolCall) for piece in pieces)
        return pieces


class _Stream:
    """Server-sent events of a streamed answer."""

    def __init__(self, answer: Asking, ask: Ask, head: dict[str, Any]) -> None:
        self._answer = answer
        self._ask = ask
        self._head = head | {"object": "chat.completion.chunk"}
        self._num_calls = 0

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """An empty piece once the model has begun, then the events."""
        usages: list[Usage] = []
        started = False
        try:
            for index in range(self._ask.n):
                choice = _Choice(self._answer, self._ask, index)
                async with aclosing(choice.read()) as spoken:
                    async for event in self._events(choice, spoken):
                        if not started:
                            yield b""
                            started = True
                        yield event
                usages.append(choice.usage)
        except LightMemError as error:
            if not started:
                raise
            yield event_of(shape(error.code, str(error)))
        else:
            if self._ask.include_usage:
                yield event_of(self._head | {"choices": [], "usage": _usage(usages)})
        yield DONE

    async def _events(
        self, choice: _Choice, spoken: AsyncIterator[tuple[list[Piece], tuple[TokenLogprob, ...]]]
    ) -> AsyncIterator[bytes]:
        waiting: list[TokenLogprob] = []
        self._num_calls = 0
        opened = False
        async for pieces, logprobs in spoken:
            if not opened:
                opened = True
                yield self._chunk(choice.index, {"role": "assistant", "content": ""})
            waiting += logprobs
            for piece in pieces:
                yield self._chunk(choice.index, self._delta(piece), waiting)
                waiting = []
        yield self._chunk(choice.index, {}, waiting, choice.finish)

    def _delta(self, piece: Piece) -> dict[str, Any]:
        if isinstance(piece, ToolCall):
            self._num_calls += 1
            return {"tool_calls": [{"index": self._num_calls - 1, **_call(piece)}]}
        return {"content" if piece.kind == "content" else "reasoning_content": piece.text}

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: Sequence[TokenLogprob] = (),
        finish: FinishReason | None = None,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": _logprobs(logprobs) or None, "finish_reason": finish}
        usage = {"usage": None} if self._ask.include_usage else {}
        return event_of(self._head | {"choices": [choice]} | usage)


async def _whole(answer: Asking, ask: Ask, head: dict[str, Any]) -> AsyncGenerator[bytes, None]:
    """An empty piece once the answer is there, then the answer."""
    choices, usages = [], []
    for index in range(ask.n):
        choice = _Choice(answer, ask, index)
        said: dict[str, list[str]] = {"content": [], "reasoning": []}
        calls: list[dict[str, Any]] = []
        logprobs: list[TokenLogprob] = []
        async with aclosing(choice.read()) as spoken:
            async for pieces, drawn in spoken:
                logprobs += drawn
                for piece in pieces:
                    if isinstance(piece, ToolCall):
                        calls.append(_call(piece))
                    else:
                        said[piece.kind].append(piece.text)
        usages.append(choice.usage)
        message = _message("".join(said["content"]), "".join(said["reasoning"]), calls)
        shown = None if ask.sampling.top_logprobs is None else _logprobs(logprobs) or {"content": [], "refusal": None}
        choices.append({"index": index, "message": message, "logprobs": shown, "finish_reason": choice.finish})
    yield b""
    yield compact(head | {"object": "chat.completion", "choices": choices, "usage": _usage(usages)})


def _message(content: str, reasoning: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
        message["content"] = content or None
    return message


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    if not tokens:
        return None
    rows = [{**_logprob(token), "top_logprobs": [_logprob(other) for other in token.top]} for token in tokens]
    return {"content": rows, "refusal": None}


def _logprob(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.raw)}


def _usage(usages: Sequence[Usage]) -> dict[str, Any]:
    """The prompt counts once, every choice's answer."""
    prompt = usages[0].prompt_tokens if usages else 0
    completion = sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": usages[0].cached_tokens if usages else 0},
    }
