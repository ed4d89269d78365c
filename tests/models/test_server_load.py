"""vLLM's metrics, read."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.models.server_load import LoadWatch, load_of
from lightmem_engine.runtime.policy import Load

EXPOSITION = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a"} 2.0
vllm:num_requests_running{engine="1",model_name="a"} 1.0
vllm:num_requests_waiting{engine="0",model_name="a"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 4.0
vllm:kv_cache_usage_perc{engine="0",model_name="a"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="a"} 0.75
"""


def test_engines_are_summed_and_the_fullest_cache_counts() -> None:
    assert load_of(EXPOSITION) == Load(3.0, 4.0, 0.75)


def test_another_server_says_nothing() -> None:
    assert load_of("") is None
    assert load_of("process_cpu_seconds_total 3\n") is None
    assert load_of("vllm:num_requests_running nonsense\n") is None


@given(st.text())
def test_no_text_is_too_odd(text: str) -> None:
    assert isinstance(load_of(text), Load | None)
    assert isinstance(load_of(EXPOSITION + text), Load | None)


async def test_a_server_is_asked_only_while_somebody_wants_to_know() -> None:
    asked, told, wanted = 0, list[Load | None](), False

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        assert (await reader.readuntil(b"\r\n")).startswith(b"GET /metrics ")
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(EXPOSITION)}\r\nconnection: close\r\n\r\n"
        writer.write((head + EXPOSITION).encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    heard = asyncio.Event()

    def tell(load: Load | None) -> None:
        told.append(load)
        heard.set()

    watch = LoadWatch(f"http://127.0.0.1:{port}/v1", tell, lambda: wanted)
    watch.start()
    await asyncio.sleep(0.3)
    assert asked == 0
    wanted = True
    await asyncio.wait_for(heard.wait(), 10)
    assert told[0] == Load(3.0, 4.0, 0.75)
    watch.stop()
    server.close()
    await server.wait_closed()
