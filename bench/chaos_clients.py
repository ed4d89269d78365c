"""Clients that note what they were told, and a comparison of that with what is stored."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.upstream import DONE, Seen, Step, chunk, chunked, completion, event, whole

CHAT = "/v1/chat/completions"
NUM_THREADS = 8
NUM_USERS = 20
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Turn:
    """What a client saw of one request. seen: a status, or how it broke off.   reply: the words that arrived."""

    said: str
    seen: str
    reply: str = ""
    stored: bool = False
    degraded: str | None = None


@dataclass(slots=True)
class Account:
    """All turns of a scenario, and in the end what is stored of them."""

    turns: list[Turn] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    lost: int = 0
    doubled: int = 0
    stored: int = 0  # messages

    @property
    def seen(self) -> Counter[str]:
        """Statuses, or how requests broke off."""
        return Counter(turn.seen for turn in self.turns)

    @property
    def degraded(self) -> Counter[str]:
        """Reasons in the answers."""
        return Counter(turn.degraded for turn in self.turns if turn.degraded)

    @property
    def acknowledged(self) -> list[Turn]:
        """Turns whose answer said that they are stored."""
        return [turn for turn in self.turns if turn.stored]

    def settle(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        """Compare with an export: what was acknowledged and is not there, and what is there twice."""
        answer = httpx.get(f"{url}/v1/memory/export", timeout=120, headers=headers)
        answer.raise_for_status()
        rows = [json.loads(line) for line in answer.text.splitlines()[1:]]
        # Somebody else may use the same server.
        users = {f"user{number}" for number in range(NUM_USERS)}
        held = Counter(row["content"] for row in rows if row["type"] == "message" and row["user"] in users)
        owed = [text for turn in self.acknowledged for text in (turn.said, turn.reply)]
        self.lost = sum(held[text] == 0 for text in owed)
        times = Counter(text for turn in self.turns for text in (turn.said, turn.reply))
        self.doubled = sum(max(0, count - max(1, times[text])) for text, count in held.items())
        self.stored = sum(held.values())


class Talkers:
    """Sends chats, each a conversation of its own with words of its own."""

    def __init__(self, headers: Mapping[str, str] | None = None, fields: Json | None = None) -> None:
        """headers, fields: of every request, besides what is said and who says it."""
        self._headers = dict(headers or {})
        self._fields = dict(fields or {})
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._random = random.Random(11)

    def next(self) -> tuple[str, Json]:
        """Something to say that nobody has said, and the request for it."""
        with self._lock:
            number = next(self._numbers)
        said = f"Parcel number {number} of mine weighs {number * 7} grams."
        user = f"user{number % NUM_USERS}"
        messages = [{"role": "user", "content": said}]
        return said, self._fields | {"messages": messages, "user": user, "stream": number % 2 == 0}

    def one(self, url: str) -> Turn:
        """One chat, to whatever end it comes."""
        said, body = self.next()
        got = b""
        try:
            client = httpx.Client(timeout=30, headers=self._headers)
            with client, client.stream("POST", url + CHAT, json=body) as answer:
                for piece in answer.iter_raw():
                    got += piece
        except httpx.ConnectError:
            return Turn(said, "no connection")
        except httpx.TransportError:
            return read_turn(said, got, "broken off")
        return read_turn(said, got, str(answer.status_code))

    def many(self, url: str, count: int, *, until: Callable[[], bool] = lambda: False) -> list[Turn]:
        """So many chats over a few threads, or fewer if it is time to stop."""
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            found = pool.map(lambda _: None if until() else self.one(url), range(count))
            return [turn for turn in found if turn is not None]

    async def crowd(self, url: str, count: int, share: float) -> list[Turn]:
        """Streams all at once; a share of the clients leave somewhere in the middle."""
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=120, limits=limits, headers=self._headers) as client:
            leave = [self._random.randrange(3000) if self._random.random() < share else None for _ in range(count)]
            return list(await asyncio.gather(*(self._stream(client, url, after) for after in leave)))

    async def _stream(self, client: httpx.AsyncClient, url: str, leave_after: int | None) -> Turn:
        said, body = self.next()
        got = b""
        async with client.stream("POST", url + CHAT, json=body | {"stream": True}) as answer:
            async for piece in answer.aiter_raw():
                got += piece
                if leave_after is not None and len(got) > leave_after:
                    return read_turn(said, got, "left")
        return read_turn(said, got, str(answer.status_code))


def read_turn(said: str, raw: bytes, seen: str) -> Turn:
    """What the bytes of an answer, or of the beginning of one, tell."""
    text = raw.decode(errors="replace")
    reply, failed = "", False
    memory: Json = {}
    for line in text.splitlines() if text.startswith("data:") else [f"data: {text}"]:
        try:
            part = json.loads(line.removeprefix("data: "))
        except ValueError:
            continue  # [DONE], a blank line, half an event
        failed |= "error" in part
        memory = part.get("memory") or memory
        for choice in part.get("choices", ()):
            reply += (choice.get("delta") or choice.get("message") or {}).get("content") or ""
    if failed and seen == "200":
        seen = "200, then an error event"
    return Turn(said, seen, reply, bool(memory.get("stored")), memory.get("degraded"))


def wants_stream(seen: Seen) -> bool:
    """Whether the request, or as much of it as arrived, asks for a stream."""
    return re.search(rb'"stream": ?true', seen.body) is not None


def replies(words: int = 3) -> Callable[[Seen], Sequence[Step]]:
    """A model server whose every reply is one that nobody has heard before."""
    numbers = itertools.count()

    def answer(seen: Seen) -> Sequence[Step]:
        said = [f"word{n} " for n in range(words - 1)] + [f"reply{next(numbers)}"]
        if wants_stream(seen):
            return chunked([*(event(chunk({"content": word})) for word in said), event(chunk({}, "stop")), DONE])
        return whole(completion("".join(said)))

    return answer
