"""Kept caches and the prefix form of extraction through the whole server: two tenants, kill -9, erasure.

The served model gives one answer to everything, so that what is computed can be told exactly.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lightmem_engine.models.qwen import QwenModel
from lightmem_engine.types import Prompt
from tests.kv.chains import files
from tests.models import parrot_qwen
from tests.support.conversations import long_conversation
from tests.support.vllm_server import DETAILS, FAST, HAS_VLLM, MEMORY, NO_VLLM, VllmServer
from tests.support.vllm_talk import Answer, ask, native
from tests.vllm_plugin.conftest import keys_file

BLOCK = 32
SETTINGS = (
    *MEMORY,
    *("chat.top_k=0", "block.max_tokens=0", "kv.min_free_bytes=0", "kv.min_tokens=1"),
    *("short_term.threshold=100000", "short_term.idle_seconds=100000", "chat.budget_ms=60000"),
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return parrot_qwen.save(tmp_path_factory.mktemp("parrot"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[VllmServer]:
    if not HAS_VLLM:
        pytest.skip(NO_VLLM)
    directory = tmp_path_factory.mktemp("kept")
    with VllmServer(directory, *_arguments(directory), settings=SETTINGS, model=str(checkpoint)) as running:
        yield running


def _arguments(directory: Path) -> tuple[str, ...]:
    return *FAST, *DETAILS, "--keys", str(keys_file(directory))


def test_extraction_behind_a_finished_conversation_computes_the_instruction(
    server: VllmServer, checkpoint: Path
) -> None:
    said = long_conversation(2)
    answer = ask(server, said, "ann", session="s", max_tokens=64)
    assert answer.text == parrot_qwen.ANSWER
    before = _prompts(server)
    assert native(server, "POST", "/v1/memory/flush", json={"user_id": "ann"}).status_code == 200
    asked, computed = (now - then for now, then in zip(_prompts(server), before, strict=True))
    stats = native(server, "GET", "/v1/memory/stats").json()
    assert (stats["usage"]["extract"]["calls"], stats["parked"]) == (1, []), (asked, computed)
    model = QwenModel.load(str(checkpoint))
    read = (*said, {"role": "assistant", "content": answer.text})
    conversation = model.count(Prompt(tuple(read))) - _opening(model)
    assert conversation >= 2000
    assert conversation < asked < 1.5 * conversation  # one call, behind the conversation
    assert computed - (asked - conversation) <= 0.1 * conversation
    (entry,) = native(server, "GET", "/v1/memory/entries", params={"user_id": "ann"}).json()["entries"]
    assert entry["text"] == "Caroline lives in Denver."
    (source,) = entry["source_ids"]
    question = {"user_id": "ann", "query": "Maja moved to Lisbon", "top_k": 20}
    hits = native(server, "POST", "/v1/memory/search", json=question).json()["hits"]
    assert any(source in hit["source_ids"] for hit in hits)


def test_two_tenants_share_no_cache_before_and_after_kill_9(server: VllmServer) -> None:
    said = long_conversation(2)
    root = server.data_dir / "kv"

    def turn(key: str) -> Answer:
        return ask(server, said, "bea", key=key, session="t", max_tokens=64)

    standing = native(server, "GET", "/v1/memory/kv", "red-key").json()["manifests"]  # of conversations before this one
    first = turn("red-key")
    assert first.cached == 0
    _wait_for_manifests(server, standing + 1, "red-key")
    of_red = set(files(root))
    assert turn("blue-key").cached == 0  # identical tokens
    _wait_for_manifests(server, standing + 2, "red-key")
    of_both = set(files(root))
    assert of_red < of_both
    said += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "And then?"}]
    _kill(server)
    directory = server.data_dir.parent
    server.start(*_arguments(directory))
    server.wait_ready()
    again = turn("red-key")
    assert again.cached >= first.prompt_tokens - 2 * BLOCK
    assert again.text == first.text
    said[-1] = {"role": "user", "content": "And before?"}
    theirs = turn("blue-key")  # its own cache, of its own salt
    assert theirs.cached >= first.prompt_tokens - 2 * BLOCK
    stranger = ask(server, said, "carl", key="blue-key", session="t", max_tokens=64)
    assert stranger.cached == 0
    for key, user in (("blue-key", "bea"), ("blue-key", "carl"), ("red-key", "bea"), ("red-key", "ann")):
        assert native(server, "DELETE", f"/v1/memory/users/{user}", key).status_code == 200
        if user == "bea" and key == "blue-key":
            assert not (of_both - of_red) & set(files(root))  # not one file is left of it
            assert of_red & set(files(root))
    assert files(root) == []
    assert turn("red-key").cached == 0


def _opening(model: QwenModel) -> int:
    """Tokens by which the template opens an answer."""
    whole = model._tokenizer
    said = [{"role": "user", "content": "x"}]
    texts = [
        whole.apply_chat_template(said, tokenize=False, add_generation_prompt=opened, enable_thinking=False)
        for opened in (True, False)
    ]
    long, short = (len(whole(text, add_special_tokens=False)["input_ids"]) for text in texts)
    return long - short


def _prompts(server: VllmServer) -> tuple[float, float]:
    """Tokens of all prompts so far, and how many of them were computed."""
    text = native(server, "GET", "/metrics", key=None).text
    rows = re.findall(r'^vllm:prompt_tokens_by_source_total\{.*source="(\w+)".*\} (\S+)$', text, re.MULTILINE)
    assert rows
    return sum(float(count) for _, count in rows), sum(float(n) for source, n in rows if source == "local_compute")


def _wait_for_manifests(server: VllmServer, count: int, key: str) -> None:
    deadline = time.monotonic() + 60
    found: dict[str, Any] = {}
    while found.get("manifests", 0) < count:
        assert time.monotonic() < deadline, found
        found = native(server, "GET", "/v1/memory/kv", key).json()
        time.sleep(0.05)


def _kill(server: VllmServer) -> None:
    owner = server.owner()
    os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{owner}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
