"""API keys: the file, who gets in, and that tenants never meet."""

from __future__ import annotations

import hashlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import Request
from starlette.exceptions import HTTPException

from lightmem_engine.errors import ConfigError
from lightmem_engine.serving.access import require_admin, scope_of
from lightmem_engine.serving.keys import Caller, KeyRing, clear_keys
from lightmem_engine.types import Scope
from tests.support.server import STUB_ENCODERS, STUB_MODELS, Server
from tests.support.upstream import ScriptedUpstream, completion, whole
from tests.support.waiting import wait_until

KEYS = f"""
[[keys]]
key = "sk-red"
tenant = "red"
name = "the red shop"

[[keys]]
sha256 = "{hashlib.sha256(b"sk-blue").hexdigest().upper()}"
tenant = "blue"

[[keys]]
key = "sk-root"
tenant = "red"
admin = true
"""
OPEN = ["/health", "/health/ready", "/version", "/metrics"]
CHAT = "/v1/chat/completions"
ROUTES = [
    ("POST", CHAT),
    ("GET", CHAT),
    ("GET", "/v1/models"),
    ("POST", "/v1/memory/add"),
    ("POST", "/v1/memory/search"),
    ("POST", "/v1/memory/flush"),
    ("GET", "/v1/memory/stats"),
    ("GET", "/v1/memory/nothing"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/anything"),
    ("OPTIONS", "/"),
]
SECRET: dict[str, object] = {
    "model": "stub",
    "messages": [{"role": "user", "content": "The vault code is 4711."}],
    "user": "ann",
}


def _write(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    directory = tmp_path_factory.mktemp("keys")
    keys = _write(directory / "keys.toml", KEYS)
    with Server(directory / "data", STUB_MODELS, ["--keys", keys, "--host", "0.0.0.0"]) as server:
        yield server, Path(keys)


def _auth(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        _auth("sk-wrong"),
        {"authorization": "Bearer"},
        {"authorization": "Basic sk-red"},
        {"authorization": "sk-red"},
    ],
    ids=["none", "wrong", "empty", "basic", "bare"],
)
def test_strangers_get_401_everywhere(
    keyed: tuple[Server, Path], method: str, path: str, headers: dict[str, str]
) -> None:
    answer = httpx.request(method, keyed[0].url + path, headers=headers, timeout=30)
    assert answer.status_code == 401, answer.text
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json()["error"]["code"] == "unauthorized"
    assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("path", OPEN)
def test_health_is_open(keyed: tuple[Server, Path], path: str) -> None:
    assert httpx.get(keyed[0].url + path, timeout=30).status_code == 200


def test_tenants_never_meet(keyed: tuple[Server, Path]) -> None:
    url = keyed[0].url
    assert httpx.post(url + CHAT, json=SECRET, headers=_auth("sk-red"), timeout=30).json()["memory"]["stored"] is True
    body = {"user_id": "ann", "query": "vault code"}
    found = {
        key: httpx.post(f"{url}/v1/memory/search", json=body, headers=_auth(key), timeout=30).json()["hits"]
        for key in ("sk-red", "sk-root", "sk-blue")
    }
    assert any("4711" in hit["text"] for hit in found["sk-red"])
    assert found["sk-root"]
    assert found["sk-blue"] == []
    asked = SECRET | {"messages": [{"role": "user", "content": "What is the vault code?"}]}
    assert httpx.post(url + CHAT, json=asked, headers=_auth("sk-blue"), timeout=30).json()["memory"]["used"] == []


def test_keys_are_read_again_on_sighup_and_a_wrong_file_changes_nothing(keyed: tuple[Server, Path]) -> None:
    server, path = keyed

    def status(key: str) -> int:
        return httpx.get(f"{server.url}/v1/models", headers=_auth(key), timeout=30).status_code

    def reload(text: str, word: str) -> None:
        _write(path, text)
        before = server.log.read_text().count(word)
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: server.log.read_text().count(word) > before)

    assert status("sk-new") == 401
    reload(KEYS + '[[keys]]\nkey = "sk-new"\ntenant = "new"\n', "keys read again")
    assert status("sk-new") == 200
    reload("[[keys]]\nkey = 3\n", "the keys stay as they were")
    assert status("sk-new") == 200
    assert "sk-" not in server.log.read_text()
    reload(KEYS, "keys read again")
    assert status("sk-new") == 401


def test_a_client_key_of_ours_never_travels_upstream(tmp_path: Path) -> None:
    keys = _write(tmp_path / "keys.toml", KEYS)
    with ScriptedUpstream() as scripted:
        scripted.plan = whole(completion("Hi."))
        settings = (*STUB_ENCODERS, "extract.mode=extractive")
        with Server(tmp_path / "data", settings, ["--keys", keys, "--upstream", scripted.url]) as gateway:
            assert httpx.get(f"{gateway.url}/v1/models", timeout=30).status_code == 401
            bodies: list[dict[str, object]] = [SECRET, {"messages": []}]
            for body in bodies:
                httpx.post(gateway.url + CHAT, json=body, headers=_auth("sk-red"), timeout=30)
            httpx.get(f"{gateway.url}/v1/models", headers=_auth("sk-red"), timeout=30)
        assert len(scripted.seen) == 3
        assert not any("sk-red" in str(seen.headers) for seen in scripted.seen)


def test_the_ring_finds_the_caller(tmp_path: Path) -> None:
    ring = KeyRing(_write(tmp_path / "keys.toml", KEYS))
    assert ring.find("sk-red") == Caller("red", False, "the red shop")
    assert ring.find("sk-blue") == Caller("blue", False)
    assert ring.find("sk-root") == Caller("red", True)
    assert ring.find("sk-") is None
    assert ring.find("\udcff") is None
    assert not KeyRing("").required


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must hold"),
        ("keys = 3", "must hold"),
        ("[[keys]]\nkey='a'\ntenant='t'\n[other]", "must hold"),
        ("[[keys]]\nkey=", "no TOML"),
        ("[[keys]]\ntenant='t'", "either key or sha256"),
        ("[[keys]]\nkey='a'\nsha256='b'\ntenant='t'", "either key or sha256"),
        ("[[keys]]\nkey='a'", "no tenant"),
        ("[[keys]]\nkey='a'\ntenant=''", "tenant"),
        ("[[keys]]\nkey=' '\ntenant='t'", "empty"),
        ("[[keys]]\nsha256='abc'\ntenant='t'", "64"),
        ("[[keys]]\nkey='a'\ntenant='t'\nadmin='yes'", "admin"),
        ("[[keys]]\nkey='a'\ntenant='t'\nrole='x'", "role"),
        ("[[keys]]\nkey='a'\ntenant='t'\n[[keys]]\nkey='a'\ntenant='u'", "twice"),
    ],
)
def test_a_wrong_file_is_a_configuration_error(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        KeyRing(_write(tmp_path / "keys.toml", text))


def test_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        KeyRing(str(tmp_path / "none.toml"))


def test_a_file_that_others_can_read_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = Path(_write(tmp_path / "keys.toml", KEYS))
    path.chmod(0o644)
    KeyRing(str(path))
    assert "can be read by others" in caplog.text


def test_keys_are_read_in_the_clear_where_another_server_compares_them(tmp_path: Path) -> None:
    clear = '[[keys]]\nkey = "a"\ntenant = "red"\n[[keys]]\nkey = "b"\ntenant = "blue"\n'
    assert clear_keys(_write(tmp_path / "clear.toml", clear)) == ["a", "b"]
    assert clear_keys("") == []
    with pytest.raises(ConfigError, match="only the sha256"):
        clear_keys(_write(tmp_path / "hidden.toml", f'{clear}[[keys]]\nsha256 = "{"0" * 64}"\ntenant = "red"\n'))


def test_admins_alone_may_do_what_admins_do() -> None:
    def request(**state: object) -> Request:
        return Request({"type": "http", "headers": [], "state": state})

    require_admin(request(caller=Caller("red", True)))
    with pytest.raises(HTTPException) as refused:
        require_admin(request(caller=Caller("red", False)))
    assert refused.value.status_code == 403
    owner = request(trusted=True, caller=Caller("blue"))
    require_admin(owner)
    assert scope_of(owner, "ann") == Scope(user="ann", tenant="blue")
    with pytest.raises(HTTPException):
        require_admin(request(trusted=True, caller=Caller("blue", admin=False)))


def test_a_port_for_everybody_answers_elsewhere_too(keyed: tuple[Server, Path]) -> None:
    address = socket.gethostbyname(socket.gethostname())
    assert httpx.get(f"http://{address}:{keyed[0].port}/health", timeout=30).status_code == 200
