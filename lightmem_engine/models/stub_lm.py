"""A language model without weights: deterministic, instant, and saying of itself that it is a stub."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from lightmem_engine.types import Completion, Delta, FinishReason, Priority, Prompt, Sampling, TokenLogprob, Usage

_TOKEN = re.compile(r"\s*\w+|\s*[^\w\s]|\s+")
_MEMORY = re.compile(r"<memory>\n.*?\n</memory>\n*", re.DOTALL)
_LINE = re.compile(r"^(\d+) (?:\[[^\]]+\] )?(.+)$", re.MULTILINE)


class StubModel:
    """Answers a chat with its own words, and a prompt with a schema with valid JSON made from that prompt.

    Extraction yields one fact per turn, a decision is `ignore` unless a newer note has the same words, a summary
    repeats the first notes. A token is a word or a sign.
    """

    name = "stub"

    async def generate(self, prompts: Sequence[Prompt], *, sampling: Sampling, priority: Priority) -> list[Completion]:
        """See `LanguageModel`."""
        return [_completion(prompt, sampling) for prompt in prompts]

    async def stream(self, prompt: Prompt, *, sampling: Sampling, priority: Priority) -> AsyncGenerator[Delta, None]:
        """See `LanguageModel`; one token at a time."""
        whole = _completion(prompt, sampling)
        for token in _TOKEN.findall(whole.text):
            yield Delta(token, logprobs=_certain(token, sampling))
            await asyncio.sleep(0)  # as a real model would, let others go on between two tokens
        yield Delta("", whole.finish_reason, whole.usage)

    async def aclose(self) -> None:
        """Nothing to release."""


def _certain(token: str, sampling: Sampling) -> tuple[TokenLogprob, ...]:
    """A stub is sure of every word: probability 1."""
    if sampling.top_logprobs is None:
        return ()
    alone = TokenLogprob(token, 0.0, token.encode())
    return (TokenLogprob(token, 0.0, alone.raw, (alone,) if sampling.top_logprobs else ()),)


def _completion(prompt: Prompt, sampling: Sampling) -> Completion:
    full = _answer(prompt)
    stops = [at for at in (full.find(stop) for stop in sampling.stop if stop) if at >= 0]
    tokens = _TOKEN.findall(full[: min(stops, default=len(full))])
    reason: FinishReason = "stop"
    if sampling.max_tokens is not None and len(tokens) > sampling.max_tokens:
        tokens, reason = tokens[: sampling.max_tokens], "length"
    num_read = sum(len(_TOKEN.findall(_text(message))) for message in prompt.messages)
    return Completion("".join(tokens), reason, Usage(num_read, len(tokens)))


def _answer(prompt: Prompt) -> str:
    last = _text(prompt.messages[-1]) if prompt.messages else ""
    if prompt.schema is not None:
        known = _BY_TITLE.get(str(prompt.schema.get("title")))
        answer = known(last) if known else _smallest(prompt.schema)
        return json.dumps(answer, separators=(",", ":"), ensure_ascii=False)
    num_notes = sum(len(found.strip().splitlines()) - 3 for m in prompt.messages for found in _MEMORY.findall(_text(m)))
    return f"stub model: {num_notes} notes, you said: {' '.join(_MEMORY.sub('', last).split())}"


def _flat(prompt: str) -> Any:
    lines = _LINE.findall(_MEMORY.sub("", prompt))
    return {"facts": [{"source": int(ordinal), "fact": text} for ordinal, text in lines]}


def _event(prompt: str) -> Any:
    return {**_flat(prompt), "relations": [], "entities": []}


def _decide(prompt: str) -> Any:
    notes = {int(ordinal): text for ordinal, text in _LINE.findall(prompt)}
    asked = [int(number) for number in prompt.rpartition("Decide:")[2].split()]
    return {"decisions": [_decision(target, notes) for target in asked]}


def _decision(target: int, notes: Mapping[int, str]) -> Any:
    same = [other for other, text in notes.items() if other > target and text == notes.get(target)]
    return {"entry": target, "action": "duplicate", "by": same[0]} if same else {"entry": target, "action": "ignore"}


def _summary(prompt: str) -> Any:
    notes = _LINE.findall(prompt)[:5]
    text = " ".join(text for _, text in notes)
    return {"summary": f"stub model: {text}", "sources": [int(ordinal) for ordinal, _ in notes] or [1]}


_BY_TITLE: Mapping[str, Callable[[str], Any]] = {
    "extract_flat": _flat,
    "extract_event": _event,
    "decide": _decide,
    "summary": _summary,
}


def _smallest(schema: Mapping[str, Any]) -> Any:
    """A small value that satisfies the schema, for the common keywords."""
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return _smallest(schema[key][0])
    match schema.get("type"):
        case "object":
            properties = schema.get("properties", {})
            return {name: _smallest(properties.get(name, {})) for name in schema.get("required", ())}
        case "array":
            return [_smallest(schema.get("items", {}))] * schema.get("minItems", 0)
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return False
        case "null":
            return None
        case _:
            return "stub"


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
