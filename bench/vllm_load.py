"""Load on a vLLM server: chats that arrive at random, timed token by token, and background calls beside them."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import httpx

from lightmem_engine.models.remote import RemoteModel
from lightmem_engine.protocols import LanguageModel
from lightmem_engine.runtime.admission import Admission, AdmittedModel
from lightmem_engine.types import Priority, Prompt, Sampling

WORDS = (
    *("river", "stone", "letter", "garden", "window", "winter", "market", "bridge"),
    *("paper", "morning", "engine", "harbour", "doctor", "travel", "music", "coffee"),
)


KEPT = ("VLLM_", "OMP_", "CUDA_")


def kept(model: str) -> dict[str, str]:
    """Of the environment, for the server of a model that was named; the packaged one's is the tests' own."""
    return {name: value for name, value in os.environ.items() if model and name.startswith(KEPT)}


@dataclass(slots=True)
class Chat:
    """Seconds from sending a chat to its first token, and between its pieces, each of a token or, where the server is
    late, of several; what the answer says of memory; tokens of the answer."""

    ttft: float
    steps: list[float]
    memory: dict[str, Any] | None = None
    tokens: int = 0


@dataclass(slots=True)
class Arm:
    """What one arm of a comparison saw. busy: seconds with a chat under way.   background: tokens of background calls
    that ended in time."""

    chats: list[Chat] = field(default_factory=list)
    seconds: float = 0.0
    busy: float = 0.0
    background: int = 0

    def add(self, other: Arm) -> None:
        """Pool with another run of the same arm."""
        self.chats += other.chats
        self.seconds += other.seconds
        self.busy += other.busy
        self.background += other.background


@dataclass(frozen=True, slots=True)
class Shape:
    """Tokens of a chat's prompt and answer, about, and of a background call's; once `Server.calibrate` has run."""

    prompt: int = 512
    answer: int = 32
    background_prompt: int = 512
    background_answer: int = 48


class Server:
    """A vLLM server under load. Belongs to one event loop."""

    def __init__(self, http: httpx.AsyncClient, url: str, model: str, key: str, shape: Shape) -> None:
        self._http = http
        self._url = url
        self._model = model
        self._key = key
        self._shape = shape
        self._under_way = 0
        self._since = 0.0
        self._words_per_token = 0.5
        self._salts = (f"{secrets.token_hex(8)} {number}" for number in itertools.count())
        self.busy = 0.0

    async def calibrate(self) -> None:
        """Learn how many of our words the server's tokenizer makes a token of."""
        words = 200
        body = {"model": self._model, "max_tokens": 1, "messages": [_said(random.Random(0), words)]}
        answer = await self._http.post(f"{self._url}/v1/chat/completions", json=body)
        self._words_per_token = words / int(answer.raise_for_status().json()["usage"]["prompt_tokens"])

    async def chat(self, random_: random.Random, held: AbstractContextManager[None], user: str | None = None) -> Chat:
        """One streamed chat. Nothing of its prompt is in the server's prefix cache, also where arms that are compared
        send the same prompts. held: kept while it runs.   user: whose memory, which has a salt of its own."""
        body: dict[str, Any] = {"model": self._model, "stream": True, "temperature": 0, "ignore_eos": True}
        body |= {"max_tokens": self._shape.answer, "messages": [self._prompt(random_, self._shape.prompt)]}
        body |= {"cache_salt": next(self._salts), "stream_options": {"include_usage": True}}
        if user is not None:
            body["memory"] = {"user_id": user}
        times: list[float] = []
        memory: dict[str, Any] | None = None
        tokens = 0
        with held, self._counted():
            started = time.perf_counter()
            async with self._http.stream("POST", f"{self._url}/v1/chat/completions", json=body) as answer:
                answer.raise_for_status()
                async for line in answer.aiter_lines():
                    if not line.startswith("data: {"):
                        continue
                    now, chunk = time.perf_counter(), json.loads(line[6:])
                    # The first event brings the role alone; a token may be one that has no words.
                    if chunk["choices"] and "role" not in chunk["choices"][0]["delta"]:
                        times.append(now)
                    memory = chunk.get("memory", memory)
                    tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
        if not times:
            raise RuntimeError("a chat had no answer")
        steps = [later - earlier for earlier, later in itertools.pairwise(times)]
        return Chat(times[0] - started, steps, memory, tokens)

    @asynccontextmanager
    async def background(
        self, workers: int, arm: Arm, admission: Admission | None, seed: object
    ) -> AsyncIterator[None]:
        """Workers that call the model again and again at sleep's priority while the context lasts.

        seed: of the prompts, another one for every arm, or its calls would be found in the prefix cache.
        """
        ranks = admission is not None
        remote = RemoteModel(f"{self._url}/v1", self._model, api_key=self._key, send_priority=ranks)
        model: LanguageModel = remote if admission is None else AdmittedModel(remote, admission)
        tasks = [asyncio.create_task(self._work(model, arm, random.Random(f"{seed} {i}"))) for i in range(workers)]
        try:
            yield
        finally:
            ended = [task for task in tasks if task.done()]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await remote.aclose()
        for task in ended:  # workers call until they are stopped
            task.result()

    async def _work(self, model: LanguageModel, arm: Arm, random_: random.Random) -> None:
        sampling = Sampling(max_tokens=self._shape.background_answer)
        # Written to the bound, as decisions over many notes are, and as cheap to follow as those: a long `minLength`
        # takes xgrammar 8 ms per token, and our own schemas have none.
        schema = {"type": "array", "items": {"type": "integer"}, "minItems": 200}
        while True:
            prompt = Prompt((self._prompt(random_, self._shape.background_prompt),), schema=schema)
            done = await model.generate([prompt], sampling=sampling, priority=Priority.SLEEP)
            arm.background += done[0].usage.prompt_tokens + done[0].usage.completion_tokens

    def _prompt(self, random_: random.Random, tokens: int) -> dict[str, str]:
        return _said(random_, round(tokens * self._words_per_token))

    def _counted(self) -> AbstractContextManager[None]:
        return _Busy(self)

    def enter(self) -> None:
        """A chat begins."""
        if not self._under_way:
            self._since = time.perf_counter()
        self._under_way += 1

    def leave(self) -> None:
        """A chat ends."""
        self._under_way -= 1
        if not self._under_way:
            self.busy += time.perf_counter() - self._since


class _Busy(AbstractContextManager[None]):
    def __init__(self, server: Server) -> None:
        self._server = server

    def __enter__(self) -> None:
        self._server.enter()

    def __exit__(self, *_: object) -> None:
        self._server.leave()


async def closed_loop(server: Server, clients: int, chats: int, seed: int) -> float:
    """Chats per second of so many clients that ask one after another."""
    random_ = random.Random(seed)
    left = iter(range(chats))

    async def client() -> None:
        for _ in left:
            await server.chat(random_, nullcontext())

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return chats / (time.perf_counter() - started)


async def open_loop(server: Server, rate: float, chats: int, seed: int, *, admission: Admission | None = None) -> Arm:
    """Chats that arrive at random, `rate` per second, whoever is still waiting."""
    random_ = random.Random(seed)
    arm, tasks = Arm(), []
    busy, started = server.busy, time.perf_counter()
    for _ in range(chats):
        held = nullcontext() if admission is None else admission.foreground()
        tasks.append(asyncio.create_task(server.chat(random.Random(random_.random()), held)))
        await asyncio.sleep(random_.expovariate(rate))
    arm.chats = list(await asyncio.gather(*tasks))
    arm.seconds = time.perf_counter() - started
    arm.busy = server.busy - busy
    return arm


def _said(random_: random.Random, words: int) -> dict[str, str]:
    return {"role": "user", "content": " ".join(random_.choice(WORDS) for _ in range(words))}
