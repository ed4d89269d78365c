"""The load of the interference bench: what makes its arms comparable."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import nullcontext

import httpx

from bench.bench_interference import ARMS, IDLE, turn
from bench.vllm_load import Server, Shape


def test_every_arm_is_first_as_often_as_the_others_and_follows_either_neighbour() -> None:
    names = (*ARMS, *IDLE)
    orders = [turn(names, seed) for seed in range(10)]
    assert sorted(order[0] for order in orders) == sorted(2 * names)
    assert all(sorted(order) == sorted(names) for order in orders)
    assert len({(order[0], order[1]) for order in orders}) == 10


def test_the_same_chats_are_sent_to_every_arm_and_none_finds_another_s_prompt_in_the_cache() -> None:
    sent: list[dict[str, object]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        events = [{"role": "assistant"}, {"content": "a"}, {"content": "b"}]
        chunks: list[dict[str, object]] = [{"choices": [{"delta": delta}]} for delta in events]
        chunks += [{"choices": [], "usage": {"completion_tokens": 5}}]
        lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        return httpx.Response(200, text="".join([*lines, "data: [DONE]\n\n"]))

    async def ask() -> list[tuple[int, int]]:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
            server = Server(http, "http://model", "m", "", Shape(prompt=20))
            chats = [await server.chat(random.Random(seed), nullcontext()) for seed in (1, 2, 1, 2)]
        return [(len(chat.steps), chat.tokens) for chat in chats]

    assert asyncio.run(ask()) == 4 * [(1, 5)]
    prompts = [json.dumps(body["messages"]) for body in sent]
    assert prompts[:2] == prompts[2:]
    assert prompts[0] != prompts[1]
    assert len({body["cache_salt"] for body in sent}) == 4
