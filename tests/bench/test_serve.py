"""The parts of the vLLM benches that need no vLLM."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from pathlib import Path
from xml.etree import ElementTree

import httpx
import pytest

from bench.bench_interference import itl_p99, ratio, ttft_p99
from bench.bench_serve import asked, cpu_seconds
from bench.harness import Table
from bench.serve_nights import Nights
from bench.serve_page import MODES, panels, plot, printed
from bench.vllm_load import Arm, Chat
from tests.models.chat_server import Script, running
from tests.support.server import STUB_ENCODERS, Server

# All that is said is alike to these encoders, or else no pair would be left for the model to decide.
ALIKE = (*STUB_ENCODERS, "lm.backend=remote", "extract.mode=extractive", "sleep.mode=llm", "sleep.threshold=0.01")


def test_a_ratio_lies_in_its_interval_and_no_difference_is_one() -> None:
    chats = [Chat(0.01 * (1 + number % 7), [0.001 * (1 + number % 5)] * 8) for number in range(200)]
    slower = [Chat(2 * chat.ttft, [3 * step for step in chat.steps]) for chat in chats]
    found, low, high = ratio(ttft_p99, chats, chats)
    assert low <= found == 1.0 <= high
    assert ratio(ttft_p99, slower, chats)[0] == pytest.approx(2.0)
    assert ratio(itl_p99, slower, chats)[0] == pytest.approx(3.0)


def test_arms_are_pooled() -> None:
    arm = Arm([Chat(1.0, [])], seconds=2.0, busy=1.0, background=10)
    arm.add(Arm([Chat(2.0, [0.1])], seconds=3.0, busy=0.5, background=5))
    assert (len(arm.chats), arm.seconds, arm.busy, arm.background) == (2, 5.0, 1.5, 15)


def test_cpu_time_counts_a_process_and_grows() -> None:
    before = cpu_seconds(os.getpid())
    deadline = time.process_time() + 0.05
    while time.process_time() < deadline:
        pass
    assert cpu_seconds(os.getpid()) > before
    assert cpu_seconds(2**30) == 0.0


def test_as_many_chats_are_asked_as_there_are_and_more_until_the_time_is_over() -> None:
    assert [*asked(3, 0.0)] == [0, 1, 2]
    began = time.monotonic()
    assert sum(1 for _ in asked(3, 0.02)) > 3
    assert time.monotonic() - began >= 0.02
    assert [*itertools.islice(asked(3, 1e9), 5)] == [0, 1, 2, 3, 4]


async def test_nights_are_slept_one_after_another_and_what_the_server_spent_on_them_is_counted(tmp_path: Path) -> None:
    script = Script()
    script.answer("{}")
    with running(script), Server(tmp_path / "data", (*ALIKE, f"lm.url={script.url}", "lm.model=m")) as server:
        nights = Nights(server.url)
        await nights.prepare(2)
        async with httpx.AsyncClient(timeout=60) as http:
            before = await nights.slept(http)
            async with nights.asleep(http):
                while (done := (await nights.slept(http)).since(before))["runs"] < 3:  # a third user is told meanwhile
                    await asyncio.sleep(0.02)
            assert 3 <= done["calls"] <= len(script.requests)
            assert done["tokens"] == 14 * done["calls"]


def test_rows_become_a_picture_with_a_bar_for_every_figure(tmp_path: Path) -> None:
    table = Table("serve", None)
    for clients in (1, 8):
        for number, mode in enumerate(MODES):
            case = {"memory": mode, "clients": clients}
            table.value(case, "chats", "1/s", 10.0 + number)
            table.spread(case, "first token", "ms", [float(clients), 3.0 * clients])
    found = {panel.title: panel.bars for panel in panels(table.rows)}
    assert found["chats [1/s]"]["8 clients"] == dict(zip(MODES, (10.0, 11.0, 12.0, 13.0), strict=True))
    assert found.keys() == {"chats [1/s]", "first token, p50 [ms]", "first token, p99 [ms]"}
    plot(table, tmp_path / "serve.svg", "<model> & more")
    page = ElementTree.parse(tmp_path / "serve.svg").getroot()
    name = "{http://www.w3.org/2000/svg}"
    bars = [rect for rect in page.iter(f"{name}rect") if rect.get("fill") not in (None, "white")]
    assert len(bars) == len(MODES) * (1 + 2 * 3), "the key, and two groups in three panels"
    assert any("<model> & more" in (text.text or "") for text in page.iter(f"{name}text"))


def test_rows_become_a_table_with_a_column_for_every_mode_that_was_measured() -> None:
    table = Table("serve", None)
    for clients in (1, 8):
        for mode in ("alone", "on"):
            table.value({"memory": mode, "clients": clients}, "chats", "1/s", 10.0 * clients)
    table.value({"memory": "on", "clients": 8}, "recall cut short", "share", 0.25)
    assert printed(table.rows).split("\n") == [
        *("", "| 1 clients | alone | on |", "|---|---|---|", "| chats [1/s] | 10 | 10 |"),
        *("", "| 8 clients | alone | on |", "|---|---|---|", "| chats [1/s] | 80 | 80 |"),
        "| recall cut short [share] |  | 0.25 |",
    ]
    assert not printed([])
