"""Runs of sleep over HTTP and by the command line, against the real server."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

from lightmem_engine.memory import Memory
from tests.support.process import python
from tests.support.server import STUB_MODELS, Server

Json = dict[str, Any]


@pytest.fixture
def user() -> str:
    return uuid.uuid4().hex


def call(server: Server, method: str, route: str, body: Any = None, **params: Any) -> httpx.Response:
    return httpx.request(method, f"{server.url}/v1/memory/{route}", params=params, json=body, timeout=60)


def tell(server: Server, user: str) -> None:
    for day, content in ((1, "I live in Paris."), (2, "My dog is called Rex."), (3, "Actually, I moved to Rome.")):
        message = {"role": "user", "content": content, "timestamp": f"2023-01-0{day}T10:00:00Z"}
        body = {"user_id": user, "messages": [message], "session_id": "s", "wait": True}
        assert call(server, "POST", "add", body).status_code == 200


def test_a_run_its_diff_and_its_rollback(server: Server, user: str) -> None:
    tell(server, user)
    started = call(server, "POST", "sleep", {"user_id": user, "wait": True})
    assert started.status_code == 200, started.text
    run = started.json()
    assert (run["state"], run["user_id"], run["mode"], run["applied"]) == ("done", user, "rules", 1)
    shown = call(server, "GET", f"sleep/{run['id']}").json()
    (change,) = shown.pop("changes")
    assert shown == run
    assert (change["action"], change["user_id"], change["after_state"]) == ("supersede", user, "superseded")
    assert "Paris" in change["before_text"]
    assert "Rome" in change["other_text"]
    assert call(server, "GET", "sleep", user_id=user).json() == {"runs": [run]}
    entries = call(server, "GET", "entries", user_id=user, state="superseded").json()["entries"]
    assert [entry["id"] for entry in entries] == [change["entry"]]
    undone = call(server, "POST", f"sleep/{run['id']}/rollback")
    assert (undone.status_code, undone.json()["state"]) == (200, "rolled_back")
    assert call(server, "GET", "entries", user_id=user, state="superseded").json()["entries"] == []
    again = call(server, "POST", f"sleep/{run['id']}/rollback")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")


def test_a_later_write_stands_in_the_way_of_a_rollback(server: Server, user: str) -> None:
    tell(server, user)
    run = call(server, "POST", "sleep", {"user_id": user, "wait": True}).json()
    (change,) = call(server, "GET", f"sleep/{run['id']}").json()["changes"]
    assert call(server, "PATCH", f"entries/{change['entry']}", {"tags": ["x"]}, user_id=user).status_code == 200
    refused = call(server, "POST", f"sleep/{run['id']}/rollback")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert call(server, "GET", f"sleep/{run['id']}").json()["state"] == "done"


def test_a_run_over_everybody_starts_at_once_and_is_seen_to_end(server: Server, user: str) -> None:
    tell(server, user)
    run = call(server, "POST", "sleep", {}).json()
    assert run["user_id"] is None
    assert run["state"] in ("running", "done")
    call(server, "POST", "sleep", {"user_id": user, "wait": True})  # they come one after the other
    assert call(server, "GET", f"sleep/{run['id']}").json()["state"] == "done"
    assert run["id"] in [one["id"] for one in call(server, "GET", "sleep").json()["runs"]]


@pytest.mark.parametrize(
    "body", [{"user_id": ""}, {"user_id": 7}, {"max_calls": -1}, {"max_seconds": "long"}, {"users": ["ann"]}, [], None]
)
def test_bad_requests_are_refused(server: Server, body: Any) -> None:
    answer = call(server, "POST", "sleep", body)
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["message"]


def test_an_unknown_run_is_not_found(server: Server) -> None:
    assert call(server, "GET", "sleep/nothing").status_code == 404
    assert call(server, "POST", "sleep/nothing/rollback").status_code == 404
    assert call(server, "GET", "sleep", limit=0).status_code in (400, 422)


KEYS = """
[[keys]]
key = "sk-red"
tenant = "red"
[[keys]]
key = "sk-root"
tenant = "red"
admin = true
[[keys]]
key = "sk-blue"
tenant = "blue"
admin = true
"""


def test_a_run_over_everybody_is_an_admins_and_another_tenants_run_is_nobodys(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(KEYS)
    keys.chmod(0o600)
    with Server(tmp_path / "data", STUB_MODELS, ["--keys", str(keys)]) as server:

        def ask(key: str, method: str, route: str, body: Any = None) -> httpx.Response:
            headers = {"authorization": f"Bearer {key}"}
            url = f"{server.url}/v1/memory/{route}"
            return httpx.request(method, url, json=body, headers=headers, timeout=60)

        assert ask("sk-red", "POST", "sleep", {}).status_code == 403
        assert ask("sk-red", "GET", "sleep").status_code == 403
        of_all = ask("sk-root", "POST", "sleep", {"wait": True}).json()["id"]
        of_one = ask("sk-red", "POST", "sleep", {"user_id": "ann", "wait": True}).json()["id"]
        for key, run, status in (
            *(("sk-red", of_all, 403), ("sk-root", of_all, 200), ("sk-blue", of_all, 404)),
            *(("sk-red", of_one, 200), ("sk-root", of_one, 200), ("sk-blue", of_one, 404)),
        ):
            assert ask(key, "GET", f"sleep/{run}").status_code == status
        assert ask("sk-red", "POST", f"sleep/{of_all}/rollback", {}).status_code == 403
        assert ask("sk-blue", "POST", f"sleep/{of_one}/rollback", {}).status_code == 404
        assert ask("sk-blue", "GET", "sleep").json() == {"runs": []}
        assert len(ask("sk-root", "GET", "sleep").json()["runs"]) == 2


def test_the_library_as_a_client(server: Server, user: str) -> None:
    tell(server, user)
    with Memory(url=server.url) as memory:
        run = memory.sleep(user_id=user, max_calls=5)
        assert (run.state, run.budget.max_calls, run.applied) == ("done", 5, 1)
        report = memory.sleep_run(run.id)
        assert report.run == run
        assert [change.action for change in report.changes] == ["supersede"]
        assert memory.sleep_runs(user_id=user) == [run]
        assert memory.rollback(run.id).state == "rolled_back"


def test_the_command_beside_a_server_and_without_one(tmp_path: Path, user: str) -> None:
    data = tmp_path / "data"
    options = [part for setting in STUB_MODELS for part in ("--set", setting)] + ["--data-dir", str(data)]

    def command(*arguments: str) -> str:
        done = python("-m", "lightmem_engine", "sleep", *arguments, *options)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout

    with Server(data, STUB_MODELS) as server:
        tell(server, user)
        shown = command("--user", user)
        assert "1. supersede: " in shown
        assert "Paris" in shown
        assert "Rome" in shown
        id = shown.split()[0]
    assert command("show", id) == shown
    assert json.loads(command("show", id, "--json"))["changes"][0]["action"] == "supersede"
    assert command("list").split()[:2] == [id, "done"]
    assert command("rollback", id).split()[:2] == [id, "rolled_back"]
    wrong = python("-m", "lightmem_engine", "sleep", "show", *options)
    assert wrong.returncode == 1
    assert "needs a RUN" in wrong.stderr
