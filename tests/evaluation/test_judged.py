"""The judged protocol against a scripted server."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from lightmem_engine.errors import BackendUnavailable, InvalidInput, ModelError
from lightmem_engine.evaluation.chat_api import ChatApi
from lightmem_engine.evaluation.datasets import load
from lightmem_engine.evaluation.judged import is_correct, judge
from lightmem_engine.long_term.memory import reader_line
from tests.evaluation import samples
from tests.evaluation.raw_memory import RawMemory
from tests.evaluation.test_retrieval import DIM, embed

Script = Callable[[dict[str, Any]], str | Response]


@contextmanager
def serve(script: Script) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that answers as scripted; yields its base URL and the requests it got."""
    app, requests = FastAPI(), []

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"data": [{"id": "scripted"}]}

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        body = await request.json()
        requests.append({**body, "authorization": request.headers.get("authorization")})
        answer = script(body)
        if isinstance(answer, Response):
            return answer
        return JSONResponse(
            {
                "choices": [{"message": {"role": "assistant", "content": answer}}],
                "usage": {"prompt_tokens": 11, "completion_tokens": 2},
            }
        )

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
    started = threading.Event()
    thread = threading.Thread(target=_run, args=(server, started))
    thread.start()
    try:
        assert started.wait(10)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/v1", requests
    finally:
        server.should_exit = True
        thread.join(10)


def _run(server: uvicorn.Server, started: threading.Event) -> None:
    async def main() -> None:
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        started.set()
        await task

    asyncio.run(main())


def text_of(body: dict[str, Any]) -> str:
    return "\n".join(message["content"] for message in body["messages"])


def locomo_script(body: dict[str, Any]) -> str:
    text = text_of(body)
    if "reference answer" in text:
        return '```json\n{"label": "CORRECT"}\n```' if "Biscuit\nResponse: Biscuit" in text else '{"label": "WRONG"}'
    return "Biscuit" if "greyhound" in text and "dog" in text else "no idea"


async def run(
    name: str, data: Any, folder: Path, url: str, **options: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    dataset = load(name, samples.write(folder, data))
    log, memory = io.StringIO(), RawMemory(embed, DIM)
    async with ChatApi(url, api_key="secret", pause=0.01) as reader, ChatApi(url, "grader", pause=0.01) as grader:
        report = await judge(memory, dataset, reader=reader, judge=grader, render=reader_line, log=log, **options)
    return report, [json.loads(line) for line in log.getvalue().splitlines()]


async def test_locomo_rows_and_log(tmp_path: Path) -> None:
    with serve(locomo_script) as (url, requests):
        report, log = await run("locomo", samples.LOCOMO, tmp_path, url, embed=embed)
    assert set(report["main"]) == {"memory", "full_context", "naive_rag"}
    assert report["main"]["memory"] == pytest.approx(1 / 4)  # the adversarial question is left out
    assert report["by_category"]["memory"] == {"multi_hop": 0, "open_domain": 0, "single_hop": 1, "temporal": 0}
    assert report["settings"]["reader"] == "scripted"
    assert report["settings"]["judge"] == "grader"
    assert report["cost"]["memory"]["reader_prompt_tokens"] == 44
    assert len(log) == 12
    assert all(line["error"] is None for line in log)
    assert {line["row"] for line in log} == {"memory", "full_context", "naive_rag"}
    readers = [r for r in requests if r["model"] == "scripted"]
    assert {r["temperature"] for r in requests} == {0}
    assert {r["authorization"] for r in readers} == {"Bearer secret"}
    assert any("Emil:\n[2 June 2022] Emil: I adopted" in text_of(r) for r in readers)  # grouped by speaker


async def test_longmemeval_asks_by_type_and_for_abstention(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> str:
        text = text_of(body)
        return ("Yes." if "cannot be answered" in text else "no") if "yes or no" in text else "I do not know."

    with serve(script) as (url, requests):
        report, _ = await run("longmemeval", samples.LONGMEMEVAL_PUBLISHED, tmp_path, url, baselines=False)
    assert report["main"] == {"memory": 1.0}
    assert any("Today is 2023/12/18" in text_of(request) for request in requests)


async def test_a_broken_judge_makes_answers_wrong_and_is_named(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> str | Response:
        return PlainTextResponse("down", 500) if "reference answer" in text_of(body) else "Biscuit"

    with serve(script) as (url, requests):
        report, log = await run("locomo", samples.LOCOMO, tmp_path, url, baselines=False)
    assert report["main"]["memory"] == 0
    assert report["cost"]["memory"]["errors"] == 4
    assert all("HTTP 500" in line["error"] for line in log)
    assert all(line["answer"] == "Biscuit" for line in log)
    assert len([r for r in requests if r["model"] == "grader"]) == 12  # three tries each


async def test_a_passing_overload_is_retried() -> None:
    answers: Iterator[str | Response] = iter([PlainTextResponse("busy", 429), PlainTextResponse("busy", 503), "fine"])
    with serve(lambda body: next(answers)) as (url, _):
        async with ChatApi(url, "m", pause=0.01) as api:
            assert (await api.ask([{"role": "user", "content": "x"}], 5)).text == "fine"


@pytest.mark.parametrize(
    ("response", "error", "message"),
    [
        (PlainTextResponse("no", 404), ModelError, "HTTP 404"),
        (PlainTextResponse("<html>", 200), ModelError, "JSON"),
        (JSONResponse({"choices": []}), ModelError, "not a chat completion"),
    ],
)
async def test_malformed_answers(response: Response, error: type[Exception], message: str) -> None:
    with serve(lambda body: response) as (url, _):
        async with ChatApi(url, "m", pause=0.01) as api:
            with pytest.raises(error, match=message):
                await api.ask([{"role": "user", "content": "x"}], 5)


async def test_nobody_there() -> None:
    async with ChatApi("http://127.0.0.1:9/v1", pause=0.01) as api:
        with pytest.raises(BackendUnavailable):
            await api.start()


async def test_beam_has_no_judged_protocol(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="beam has no judged protocol"):
        await run("beam", samples.BEAM, tmp_path, "http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    ("dataset", "verdict", "correct"),
    [
        ("locomo", '{"label": "CORRECT"}', True),
        ("locomo", 'Because... {"label": "correct"}', True),
        ("locomo", '{"label": "WRONG"}', False),
        ("locomo", "CORRECT", False),
        ("locomo", "{broken} []", False),
        ("longmemeval", "Yes", True),
        ("longmemeval", " **yes**, it does", True),
        ("longmemeval", "No, yes is wrong", False),
        ("longmemeval", "yesterday", False),
        ("longmemeval", "", False),
    ],
)
def test_reading_a_verdict(dataset: str, verdict: str, correct: bool) -> None:
    assert is_correct(dataset, verdict) is correct
