"""What is edited, deleted or erased changes in running conversations too, and keys keep tenants and admins apart."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import httpx

from tests.support.canary import assert_gone
from tests.support.server import STUB_MODELS, Server


def _call(server: Server, method: str, route: str, body: Any = None, **params: Any) -> Any:
    answer = httpx.request(method, f"{server.url}/v1/memory/{route}", params=params, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _chat(server: Server, history: list[dict[str, str]], question: str) -> str:
    """One turn of a conversation that is resent whole; the embedded stub says what the model would have read."""
    history.append({"role": "user", "content": question})
    body = {"messages": history, "memory": {"user_id": "ann", "session_id": "talk"}}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    reply = str(answer.json()["choices"][0]["message"]["content"])
    history.append({"role": "assistant", "content": reply})
    return reply


def _injected(data: Path) -> str:
    """Everything that conversations keep of what was recalled."""
    connection = sqlite3.connect(data / "memory.db")
    try:
        texts = [row[0] or "" for row in connection.execute("SELECT injection FROM chat_link")]
        texts += [row[0] or "" for row in connection.execute("SELECT block FROM chat_session")]
        texts += [row[0] or "" for row in connection.execute("SELECT block FROM chat_user")]
    finally:
        connection.close()
    return " ".join(texts)


def test_edits_and_deletions_reach_running_conversations(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Server(data, STUB_MODELS) as server:
        said = [{"role": "user", "content": text} for text in ("The boiler code: kanari4711", "The parrot: Zazu")]
        _call(server, "POST", "add", {"user_id": "ann", "messages": said, "session_id": "s"})
        history: list[dict[str, str]] = []
        _chat(server, history, "What is the boiler code?")  # recalled while it is pending
        _call(server, "POST", "flush", {"user_id": "ann"})
        _chat(server, history, "And the parrot?")
        assert "kanari4711" in _injected(data)
        assert "Zazu" in _injected(data)
        entries = _call(server, "GET", "entries", user_id="ann", session_id="s")["entries"]
        boiler = next(entry["id"] for entry in entries if "kanari" in entry["text"])
        parrot = next(entry["id"] for entry in entries if "Zazu" in entry["text"])
        _call(server, "PATCH", f"entries/{parrot}", {"text": "The parrot is called Kiki."}, user_id="ann")
        assert "Kiki" in _injected(data)
        assert "Zazu" not in _injected(data)
        _call(server, "DELETE", f"entries/{boiler}", user_id="ann")
        assert "kanari4711" not in _injected(data)
        for entry in _call(server, "GET", "entries", user_id="ann", limit=500)["entries"]:
            if "kanari" in entry["text"]:  # what the model itself said of it, in its reply
                _call(server, "DELETE", f"entries/{entry['id']}", user_id="ann")
        assert_gone(data, "kanari4711")
        assert _call(server, "DELETE", "users/ann")["deleted"]["messages"] > 0
        assert_gone(data, "parrot", "zazu", "kiki", "boiler")


def test_keys_keep_tenants_and_admins_apart(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    names = {"shop-admin": ("shop", True), "shop-user": ("shop", False), "bank-admin": ("bank", True)}
    text = "".join(
        f'[[keys]]\nkey = "{name}-{"x" * 20}"\ntenant = "{tenant}"\nadmin = {str(admin).lower()}\n'
        for name, (tenant, admin) in names.items()
    )
    keys.write_text(text)
    keys.chmod(0o600)
    with Server(tmp_path / "data", STUB_MODELS, ["--keys", str(keys)]) as server:

        def ask(name: str, method: str, route: str, body: Any = None, **params: Any) -> httpx.Response:
            headers = {"authorization": f"Bearer {name}-{'x' * 20}"}
            url = f"{server.url}/v1/memory/{route}"
            return httpx.request(method, url, params=params, json=body, headers=headers, timeout=60)

        said = {"user_id": "ann", "messages": [{"role": "user", "content": "The parrot: Zazu"}], "wait": True}
        assert ask("shop-user", "POST", "add", said).status_code == 200
        (entry,) = ask("shop-user", "GET", "entries", user_id="ann").json()["entries"]
        assert ask("bank-admin", "GET", "entries", user_id="ann").json()["entries"] == []
        assert ask("bank-admin", "GET", f"entries/{entry['id']}", user_id="ann").status_code == 404
        assert ask("bank-admin", "DELETE", f"entries/{entry['id']}", user_id="ann").status_code == 404
        assert ask("bank-admin", "DELETE", "users/ann").json()["deleted"]["messages"] == 0
        assert ask("bank-admin", "GET", "users").json()["users"] == []
        assert "Zazu" not in ask("bank-admin", "GET", "export").text
        assert "Zazu" in ask("shop-admin", "GET", "export").text
        for method, route, body in (
            ("GET", "export", None),
            ("POST", "import", None),
            ("GET", "users", None),
            ("GET", "stats", None),
            ("POST", "flush", {}),
        ):
            assert ask("shop-user", method, route, body).status_code == 403, route
        assert ask("shop-user", "DELETE", "users/ann").json()["deleted"]["messages"] == 1
