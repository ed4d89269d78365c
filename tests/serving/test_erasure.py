"""What is erased is in no byte of any file, as soon as the real server has answered."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.canary import assert_gone, places
from tests.support.server import STUB_MODELS, Server


def _call(server: Server, method: str, route: str, body: Any = None, **params: Any) -> Any:
    answer = httpx.request(method, f"{server.url}/v1/memory/{route}", params=params, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _add(server: Server, user: str, content: str, **options: Any) -> None:
    message = {"role": "user", "content": content, "name": options.pop("name", None)}
    _call(server, "POST", "add", {"user_id": user, "messages": [message], **options})


def _chat(server: Server, user: str, content: str) -> None:
    body = {"messages": [{"role": "user", "content": content}], "memory": {"user_id": user, "session_id": "talk"}}
    assert httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).status_code == 200


def test_nothing_is_left_of_an_erased_user(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Server(data, STUB_MODELS) as server:
        for n in range(40):  # neighbours on the same pages, so that rows move about
            _add(server, f"bob{n % 3}", f"harmless words number {n} " * (1 + n % 7), session_id="s", wait=n % 20 == 9)
            fields = {"session_id": f"kanaria{n % 4}", "metadata": {"kanarihint": n}, "name": "Kanarina"}
            _add(server, "kanariuser", f"The kanarisecret {n} is kanariword{n}. " * (1 + n % 5), **fields)
        _call(server, "POST", "flush", {"user_id": "kanariuser"})
        _chat(server, "kanariuser", "What is the kanarisecret 7?")
        entry = _call(server, "GET", "entries", user_id="kanariuser", limit=1, state="active")["entries"][0]
        _call(
            server,
            "PATCH",
            f"entries/{entry['id']}",
            {"text": "kanarichange", "tags": ["kanaritag"]},
            user_id="kanariuser",
        )
        _call(server, "POST", "search", {"user_id": "kanariuser", "query": "kanarisecret"})
        _add(server, "kanariuser", "A kanarilast word, still pending.")
        assert places(data, "kanari")["kanari"]
        deleted = _call(server, "DELETE", "users/kanariuser")["deleted"]
        assert_gone(data, "kanari")
        assert_gone(tmp_path, "kanarisecret", "kanariword", "kanarilast")  # the log of the server, too
        assert deleted["messages"] == 43
        assert deleted["entries"] >= 40
        assert deleted["rows"] > 150
        assert _call(server, "DELETE", "users/kanariuser")["deleted"] == {"messages": 0, "entries": 0, "rows": 0}
        assert _call(server, "POST", "search", {"user_id": "kanariuser", "query": "kanarisecret"})["hits"] == []
        assert _call(server, "GET", "entries", user_id="kanariuser") == {"entries": [], "next_cursor": None}
        assert "kanariuser" not in [user["user_id"] for user in _call(server, "GET", "users")["users"]]
        stats = _call(server, "GET", "stats")
        assert (stats["messages"], stats["users"]) == (40, 3)
        assert_gone(data, "kanari")
        _add(server, "kanariuser", "A new beginning.", wait=True)  # an erased user may come back
        assert len(_call(server, "GET", "entries", user_id="kanariuser")["entries"]) == 1


def test_nothing_is_left_of_a_deleted_entry(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Server(data, STUB_MODELS) as server:
        for n in range(30):
            _add(server, "ann", f"The parcel number {n} weighs {n * 7} grams.", session_id="s")
            if n == 15:
                _add(server, "ann", "My kanarisecret is kanariword.", session_id="s", metadata={"kanarihint": 1})
        _call(server, "POST", "flush", {"user_id": "ann"})
        _call(server, "POST", "search", {"user_id": "ann", "query": "kanarisecret"})
        found = _call(server, "GET", "entries", user_id="ann", limit=500)["entries"]
        (id,) = [entry["id"] for entry in found if "kanari" in entry["text"]]
        _call(server, "PATCH", f"entries/{id}", {"text": "kanarichange", "tags": ["kanaritag"]}, user_id="ann")
        _call(server, "DELETE", f"entries/{id}", user_id="ann")
        assert_gone(data, "kanari")
        assert len(_call(server, "GET", "entries", user_id="ann", limit=500)["entries"]) == 30
        _add(server, "ann", "Another kanarisecret, pending.", session_id="s")
        (pending,) = _call(server, "GET", "entries", user_id="ann", state="pending")["entries"]
        _call(server, "DELETE", f"entries/{pending['id']}", user_id="ann")
        assert_gone(data, "kanari")
        assert _call(server, "POST", "flush", {"user_id": "ann"})["pending"] == 0


@pytest.mark.parametrize("rounds", [4])
def test_erasure_while_messages_stream_in_and_stages_work(tmp_path: Path, rounds: int) -> None:
    """Whatever was told before the erasure began is gone after it; what others tell meanwhile stays."""
    data = tmp_path / "data"
    settings = (*STUB_MODELS, "short_term.idle_seconds=0.02", "short_term.threshold=0", "segment.lookahead=1")
    with Server(data, settings) as server:
        told = 0
        stop = threading.Event()

        def tell() -> None:
            nonlocal told
            while not stop.is_set():
                _add(server, "bob", f"harmless words number {told}")
                told += 1

        teller = threading.Thread(target=tell)
        teller.start()
        try:
            for round_ in range(rounds):
                for n in range(12):
                    _add(server, "ann", f"kanari{round_}x{n} is a secret of the kanari", session_id=f"s{n % 3}")
                _call(server, "DELETE", "users/ann")
                assert_gone(data, "kanari")
                assert _call(server, "GET", "stats", user_id="ann")["messages"] == 0
        finally:
            stop.set()
            teller.join()
        stats = _call(server, "POST", "flush", {})
        assert (stats["messages"], stats["pending"], stats["parked"], stats["users"]) == (told, 0, [], 1)
        assert_gone(data, "kanari", "ann\x00")


def test_a_user_with_any_name_can_be_erased(server: Server) -> None:
    for name in ("a/b", "../..", "ünï çødé", "50% of?x=1&y#z", ".."):
        _add(server, name, "The parrot is called Zazu.")
        quoted = "".join(f"%{byte:02X}" for byte in name.encode())
        assert _call(server, "DELETE", f"users/{quoted}")["deleted"]["messages"] == 1
        assert _call(server, "GET", "stats", user_id=name)["messages"] == 0
