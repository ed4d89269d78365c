"""The library as a client of a real server: the same names, results and errors as in process."""

from __future__ import annotations

import asyncio
import inspect
import os
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest

from lightmem_engine import AsyncMemory, Conflict, EngineConfig, InvalidInput, Memory, Message, NotFound
from lightmem_engine.client import EngineClient
from lightmem_engine.engine import LocalEngine
from lightmem_engine.errors import BackendUnavailable, ConfigError, StoreError
from lightmem_engine.protocols import Engine
from lightmem_engine.types import Scope, TurnOptions
from tests.support.memory import quick_config
from tests.support.server import STUB_MODELS, Server, free_port

Use = Callable[[Memory], Any]
BERLIN = timezone(timedelta(hours=2))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("client") / "data", STUB_MODELS) as server:
        yield server


def _socket(server: Server) -> str:
    return str(server.log.with_name(server.log.stem) / "engine.sock")


@pytest.fixture(params=["local", "url", "socket"])
def memory(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Iterator[Memory]:
    match request.param:
        case "local":
            opened = Memory(quick_config(tmp_path / "data"))
        case "url":
            opened = Memory(url=server.url)
        case _:
            opened = Memory(url=_socket(server))
    with opened as memory:
        memory.delete_all(user_id="ann")
        yield memory


def test_both_engines_are_the_protocol() -> None:
    names = {name for name in vars(Engine) if not name.startswith("_")}
    for kind in (LocalEngine, EngineClient):
        for name in names:
            ours, theirs = (inspect.signature(getattr(each, name)) for each in (kind, Engine))
            assert ours.parameters == theirs.parameters, (kind, name)


def test_every_method_does_the_same_everywhere(memory: Memory) -> None:
    said = Message("user", "The parrot is called Zazu.", id="m/1", timestamp=datetime(2023, 5, 8, 22, tzinfo=BERLIN))
    assert memory.add(said, user_id="ann", session_id="s", metadata={"n": 1}) == ["m/1"]
    pending = memory.get("m/1", user_id="ann")
    assert (pending.state, pending.text) == ("pending", "user: The parrot is called Zazu.")
    assert memory.flush(user_id="ann")["pending"] == 0
    memory.add({"role": "user", "content": "The boiler code is 4711."}, user_id="ann", timestamp=1.7e9, wait=True)
    hits = memory.search("parrot", user_id="ann", top_k=1, max_tokens=100, filters={"n": 1})
    assert [hit.source_ids for hit in hits] == [("m/1",)]
    assert hits[0].event_time == datetime(2023, 5, 8, 22, tzinfo=BERLIN)
    assert memory.search("parrot", user_id="ann", as_of=datetime(2020, 1, 1, tzinfo=UTC)) == []
    entry = memory.get(hits[0].id, user_id="ann")
    assert (entry.scope, entry.session, entry.metadata, entry.source_ids) == (Scope("ann"), "s", {"n": 1}, ("m/1",))
    assert entry in memory.get_all(user_id="ann")
    assert memory.get_all(user_id="ann", session_id="s", kind="turn", state="active") == [entry]
    changed = memory.update(entry.id, user_id="ann", text="The parrot is called Kiki.", tags=["pet"], if_version=1)
    assert (changed.version, changed.tags) == (2, ("pet",))
    assert memory.get(entry.id, user_id="ann") == changed
    assert [version.version for version in memory.history(entry.id, user_id="ann")] == [1, 2]
    assert memory.update(entry.id, user_id="ann", metadata={"n": None, "m": [1]}).metadata == {"m": [1]}
    assert memory.search("Kiki", user_id="ann")[0].text == "The parrot is called Kiki."
    assert "ann" in [user["user_id"] for user in memory.users()]
    exported = b"".join(memory.export(user_id="ann"))
    assert exported.count(b"\n") > 5
    assert b"".join(memory.export()).count(b'"type":"header"') == 1
    memory.delete(entry.id, user_id="ann")
    assert len(memory.get_all(user_id="ann")) == 1
    assert "boiler" in memory.chat(
        [{"role": "user", "content": "Which boiler?"}], user_id="ann", session_id="t", seed=1
    )
    assert memory.stats(user_id="ann")["messages"] == 3
    assert memory.delete_all(user_id="ann")["messages"] == 3
    assert memory.import_([exported[:100], exported[100:]])["entries"] == 2
    assert b"".join(memory.export(user_id="ann")) == exported
    assert memory.stats()["users"] >= 1


FAILURES: dict[str, tuple[Use, type[Exception], str]] = {
    "unknown entry": (lambda m: m.get("nothing", user_id="ann"), NotFound, "there is no entry 'nothing'"),
    "unknown history": (lambda m: m.history("a/../b", user_id="ann"), NotFound, "there is no entry"),
    "unknown delete": (lambda m: m.delete("..", user_id="ann"), NotFound, "there is no entry '..'"),
    "unknown update": (lambda m: m.update("x?y#z", user_id="ann", text="a"), NotFound, "there is no entry"),
    "bad user": (lambda m: m.get("x", user_id=" "), InvalidInput, "user_id must be"),
    "bad user in add": (lambda m: m.add(Message("user", "x"), user_id="a\nb"), InvalidInput, "user_id must be"),
    "empty": (lambda m: m.add([], user_id="ann"), InvalidInput, "messages"),
    "bad role": (lambda m: m.add(Message("boss", "x"), user_id="ann"), InvalidInput, "role must be one of"),
    "bad text": (lambda m: m.add(Message("user", "\ud800"), user_id="ann"), InvalidInput, "half a character pair"),
    "no query": (lambda m: m.search("", user_id="ann"), InvalidInput, "query"),
    "naive as_of": (lambda m: m.search("x", user_id="ann", as_of=datetime(2020, 1, 1)), InvalidInput, "as_of"),
    "bad filter": (lambda m: m.search("x", user_id="ann", filters={"n": {"near": 1}}), InvalidInput, "near"),
    "no change": (lambda m: m.update("x", user_id="ann"), InvalidInput, "nothing to change"),
    "bad tags": (lambda m: m.update("x", user_id="ann", tags="home"), InvalidInput, "tags must be a list"),
    "odd metadata": (lambda m: m.update("x", user_id="ann", metadata={"x": {1}}), InvalidInput, "JSON"),
    "bad import": (lambda m: m.import_([b"{"]), InvalidInput, "line 1: "),
    "bad state": (lambda m: m.get_all(user_id="ann", state="lost"), InvalidInput, "state"),
    "twice": (
        lambda m: [m.add(Message("user", text, id="twice"), user_id="ann") for text in ("a", "b")],
        Conflict,
        "'twice' is stored with other content",
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_errors_are_the_same_everywhere(memory: Memory, failure: str) -> None:
    use, kind, complaint = FAILURES[failure]
    with pytest.raises(kind, match=complaint) as caught:
        use(memory)
    assert type(caught.value) is kind


def test_nobody_there(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for address in (url, str(tmp_path / "engine.sock"), str(tmp_path / "nowhere" / "engine.sock")):

        def ask(address: str = address) -> None:
            with Memory(url=address) as memory:
                memory.stats()

        with pytest.raises(BackendUnavailable, match="nobody answers at") as caught:
            ask()
        assert address in str(caught.value)


def test_something_else_there(server: Server) -> None:
    with Memory(url=f"{server.url}/elsewhere") as memory, pytest.raises(NotFound):
        memory.stats()


def test_a_config_and_a_url_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match="not both"):
        Memory(EngineConfig(), url="http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="api_key"):
        Memory(api_key="x")
    with Memory(url="http://127.0.0.1:1") as memory, pytest.raises(StoreError, match="another process"):
        _ = memory._memory.engine


async def test_a_chat_turn_over_the_socket(server: Server) -> None:
    client = EngineClient(_socket(server))
    ann = Scope("turner", tenant="acme")
    await client.add(ann, [Message("user", "The parrot is called Zazu.", id="p")], wait=True)
    question = [{"role": "user", "content": "What is the parrot called?"}]
    turn = await client.open_turn(ann, question, TurnOptions(session="s", top_k=3))
    assert turn.used
    assert "Zazu" in str(turn.messages)
    assert turn.stored is True
    async with client.foreground():
        assert await client.close_turn(turn.turn_id, "Zazu.", "complete") is True
    assert await client.close_turn(turn.turn_id, "Zazu.", "complete") is False
    assert (await client.stats(ann))["messages"] == 3
    assert (await client.stats(Scope("turner")))["messages"] == 0, "the tenant is another"
    passed = await client.open_turn(None, question, TurnOptions())
    assert passed.messages == tuple(question)
    with pytest.raises(InvalidInput, match="messages"):
        await client.open_turn(ann, [], TurnOptions())
    assert [user["user_id"] for user in (await client.users("acme"))[0]] == ["turner"]
    await client.aclose()


def test_turns_and_tenants_are_for_the_socket_alone(server: Server) -> None:
    for path in ("turns/open", "turns/close", "foreground"):
        assert httpx.post(f"{server.url}/v1/memory/{path}", json={}).status_code == 404
    assert "turns" not in httpx.get(f"{server.url}/openapi.json").text
    body = {"user_id": "tenant-test", "messages": [{"role": "user", "content": "x"}]}
    headers = {"X-Memory-Tenant": "acme"}
    assert httpx.post(f"{server.url}/v1/memory/add", json=body, headers=headers).status_code == 200
    with Memory(url=_socket(server), tenant="acme") as acme, Memory(url=_socket(server)) as default:
        assert acme.stats(user_id="tenant-test")["messages"] == 0
        assert default.stats(user_id="tenant-test")["messages"] == 1
        acme.add(Message("user", "Words of acme."), user_id="ünïque", wait=True)
        assert [user["user_id"] for user in acme.users() if user["user_id"] != "turner"] == ["ünïque"]
        assert "ünïque" not in [user["user_id"] for user in default.users()]
        assert b"Words of acme" not in b"".join(default.export())
        assert b"Words of acme" in b"".join(acme.export())


def test_the_socket_is_private_goes_with_the_server_and_replaces_a_dead_one(tmp_path: Path) -> None:
    path = tmp_path / "data" / "engine.sock"
    server = Server(tmp_path / "data", STUB_MODELS).wait_ready()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    server.kill()
    assert path.exists()
    with pytest.raises(BackendUnavailable), Memory(url=str(path)) as memory:
        memory.stats()
    with Server(tmp_path / "data", STUB_MODELS), Memory(url=str(path)) as memory:
        assert memory.stats()["messages"] == 0
    assert not path.exists()


def test_a_data_directory_with_a_very_long_path(tmp_path: Path) -> None:
    data = tmp_path.joinpath(*(f"{n}" * 60 for n in range(4)), "data")
    data.parent.mkdir(parents=True)
    with Server(data, STUB_MODELS), Memory(url=str(data / "engine.sock")) as memory:
        memory.add(Message("user", "The parrot is called Zazu."), user_id="ann")
        assert memory.stats()["messages"] == 1


def test_what_was_acknowledged_outlives_the_owner(tmp_path: Path) -> None:
    """A client that adds while the owner is killed, and goes on with the next one: nothing acknowledged is missing."""
    data = tmp_path / "data"
    acknowledged: list[str] = []

    async def add_until_death(memory: AsyncMemory, owner: Server) -> None:
        async def add(number: int) -> None:
            id = f"m{len(acknowledged)}-{number}-{os.urandom(4).hex()}"
            try:
                await memory.add(Message("user", f"fact {id}", id=id), user_id=f"u{number % 3}")
            except BackendUnavailable:
                return
            acknowledged.append(id)

        for round_ in range(200):
            if round_ == 10:
                owner.process.kill()
            await asyncio.gather(*(add(number) for number in range(4)))
            if owner.process.poll() is not None:
                return

    async def run(owner: Server) -> None:
        async with AsyncMemory(url=str(data / "engine.sock")) as memory:
            await add_until_death(memory, owner)

    for _ in range(2):
        owner = Server(data, STUB_MODELS).wait_ready()
        try:
            asyncio.run(run(owner))
        finally:
            owner.kill()
    with Server(data, STUB_MODELS), Memory(url=str(data / "engine.sock")) as memory:
        memory.flush()
        found = {
            id
            for user in memory.users()
            for entry in memory.get_all(user_id=user["user_id"])
            for id in entry.source_ids
        }
        assert len(acknowledged) >= 40
        assert set(acknowledged) <= found
