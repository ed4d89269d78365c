"""Kept KV caches through the real server: used after kill -9, counted, checked, purged, erased to the last byte."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.kv.chains import files
from tests.support.canary import assert_gone
from tests.support.process import python
from tests.support.server import STUB_ENCODERS, Server
from tests.support.waiting import PATIENCE_SECONDS, wait_until

SETTINGS = (*STUB_ENCODERS, "kv.min_tokens=16", "kv.chunk_tokens=64", "kv.min_free_bytes=0", "chat.budget_ms=60000")
POINTS = ("kv.renamed", "kv.bind", *(pytest.param(f"kv.{one}", marks=pytest.mark.slow) for one in ("write", "commit")))
SYSTEM = {"role": "system", "content": "You are a helpful assistant who remembers what people tell. " * 8}


def _chat(
    server: Server, history: list[dict[str, str]], words: str, user: str = "ann", opening: str = ""
) -> dict[str, Any]:
    history.append({"role": "user", "content": words})
    body = {
        "messages": [SYSTEM | {"content": opening + SYSTEM["content"]}, *history],
        "temperature": 0,
        "max_tokens": 8,
        "memory": {"user_id": user, "session_id": "s"},
    }
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    history.append({"role": "assistant", "content": found["choices"][0]["message"]["content"]})
    return found


def _cached(answer: dict[str, Any]) -> int:
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


def _kv(server: Server, manifests: int | None = None) -> dict[str, Any]:
    """The counts; with `manifests`, once so many stand."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        found: dict[str, Any] = httpx.get(f"{server.url}/v1/memory/kv", timeout=30).json()
        if manifests is None or found["manifests"] == manifests:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def _noted(root: Path) -> int:
    connection = sqlite3.connect(root / "memory.db")
    try:
        return int(connection.execute("SELECT count(*) FROM kv_manifest").fetchone()[0])
    finally:
        connection.close()


def test_a_returning_session_after_kill_9_computes_the_rest_and_says_the_same(tmp_path: Path) -> None:
    told, asked = "My sister Maja moved to Lisbon.", "Where does my sister live?"
    history: list[dict[str, str]] = []
    calm: list[dict[str, str]] = []
    server = Server(tmp_path / "data", SETTINGS).wait_ready()
    _chat(server, history, told)
    _chat(server, calm, told, "zoe")  # without a restart between
    _chat(server, calm, asked, "zoe")
    _kv(server, manifests=3)
    server.kill()
    with Server(tmp_path / "data", SETTINGS) as server:
        answer = _chat(server, history, asked)
        counts = _kv(server, manifests=4)["totals"]
        assert [message["content"] for message in history] == [message["content"] for message in calm]
        assert _cached(answer) == counts["hit_tokens"][""] > 90
        assert counts["tokens_recomputed"][""] == answer["usage"]["prompt_tokens"] - _cached(answer)
        text = httpx.get(f"{server.url}/metrics", timeout=30).text
        assert f'lightmem:kv_hit_tokens_total{{reason=""}} {float(_cached(answer))}' in text
        assert 'lightmem:kv_load_seconds_bucket{le="+Inf"} 1.0' in text
        assert "lightmem:kv_net_benefit_seconds" in text
        assert 'lightmem:kv_mode{mode="persist"} 1.0' in text
        assert 'lightmem:kv_mode{mode="warm"} 0.0' in text
        assert "lightmem:kv_costs_more_than_it_saves 0.0" in text
        for name in ("tokens_per_second", "bytes_per_second", "pinned"):
            (value,) = re.findall(rf"^lightmem:kv_{name} (\S+)$", text, re.MULTILINE)
            assert float(value) > 0, name
        assert 'lightmem:kv_fingerprint_mismatches_total{reason=""} 0.0' in text
        assert "ann" not in text


@pytest.mark.parametrize("point", POINTS)
def test_killed_while_a_cache_is_kept(tmp_path: Path, point: str) -> None:
    data = tmp_path / "data"
    server = Server(data, [*SETTINGS, f"runtime.failpoint={point}:1"]).wait_ready()
    history: list[dict[str, str]] = []
    with contextlib.suppress(httpx.TransportError):
        _chat(server, history, "My sister Maja moved to Lisbon.")
    server.process.wait(30)
    assert server.process.returncode == -9
    with Server(data, SETTINGS) as server:
        assert _noted(data) == 0  # it was never noted
        assert files(data / "kv") == []
        assert _kv(server)["bytes_used"] == 0
        again: list[dict[str, str]] = []
        assert _chat(server, again, "My sister Maja moved to Lisbon.")["memory"]["stored"]
        _kv(server, manifests=1)


def test_an_erased_user_leaves_no_byte_of_kv(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Server(data, SETTINGS) as server:
        history: list[dict[str, str]] = []
        _chat(server, history, "The kanarisecret is kanariword.")
        _chat(server, [], "The boiler code is 4711.", "bob", "To Bob. ")
        _kv(server, manifests=2)
        chunks = {path: path.read_bytes() for path in files(data / "kv")}
        httpx.delete(f"{server.url}/v1/memory/users/ann", timeout=60).raise_for_status()
        left = set(files(data / "kv"))
        assert left
        gone = {path: content for path, content in chunks.items() if path not in left}
        assert gone
        everything = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
        for path, content in gone.items():
            num_tokens = int(np.frombuffer(content[116:120], "<u4")[0])
            ids, values = content[128 : 128 + 4 * num_tokens], content[-256:]
            for place, other in everything.items():
                assert ids not in other, (path, place)
                assert values not in other, (path, place)
        assert_gone(data, "kanari")


def test_the_command_looks_checks_and_removes_beside_a_server_and_without(tmp_path: Path) -> None:
    data = tmp_path / "data"

    def kv(*arguments: str) -> tuple[int, str]:
        settings = [part for setting in SETTINGS for part in ("--set", setting)]
        done = python("-m", "lightmem_engine", "kv", *arguments, *settings, "--data-dir", str(data))
        assert done.stderr == "", done.stderr
        return done.returncode, done.stdout

    with Server(data, SETTINGS) as server:
        _chat(server, [], "My sister Maja moved to Lisbon.")
        _chat(server, [], "My sister Maja moved to Lisbon.", "bob")
        _kv(server, manifests=2)
        assert json.loads(kv("stats")[1])["manifests"] == 2
        count = len(files(data / "kv"))
        assert kv("verify") == (0, f'{{"ok": {count}, "damaged": 0, "unreadable": 0}}\n')
        assert kv("purge", "--user", "bob") == (0, "1 KV caches removed\n")
    (first, *_) = files(data / "kv")
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    assert kv("verify")[0] == 1
    assert kv("purge") == (0, "1 KV caches removed\n")
    assert files(data / "kv") == []


def test_tenants_share_nothing_and_only_admins_see_the_whole(tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text(
        '[[keys]]\nkey = "sk-red"\ntenant = "red"\n[[keys]]\nkey = "sk-blue"\ntenant = "blue"\n'
        '[[keys]]\nkey = "sk-root"\ntenant = "red"\nadmin = true\n'
    )
    with Server(tmp_path / "data", SETTINGS, ["--keys", str(tmp_path / "keys.toml")]) as server:

        def call(key: str, method: str, route: str, body: Any = None) -> httpx.Response:
            headers = {"authorization": f"Bearer sk-{key}"}
            return httpx.request(method, f"{server.url}{route}", json=body, headers=headers, timeout=60)

        def asked(key: str, question: str) -> int:
            """The same user's name, the same words, and how much of them was not computed."""
            messages = [SYSTEM, {"role": "user", "content": question}]
            body = {"messages": messages, "max_tokens": 2, "memory": {"user_id": "ann", "session_id": "s"}}
            return _cached(call(key, "POST", "/v1/chat/completions", body).json())

        def kept(count: int) -> None:
            wait_until(lambda: call("root", "GET", "/v1/memory/kv").json()["manifests"] == count)

        assert asked("red", "Where is Lisbon?") == 0
        assert asked("blue", "Where is Lisbon?") == 0
        assert asked("red", "Where is Porto?") > 90
        kept(3)
        for route, method in (("", "GET"), ("/verify", "POST"), ("/purge", "POST")):
            assert call("red", method, f"/v1/memory/kv{route}", {} if method == "POST" else None).status_code == 403
        assert call("red", "POST", "/v1/memory/kv/purge", {"user_id": "ann"}).json() == {"purged": 2}
        kept(1)
        assert call("root", "POST", "/v1/memory/kv/purge", {}).json() == {"purged": 0}  # of its tenant
        assert asked("blue", "Where is Porto?") > 90
