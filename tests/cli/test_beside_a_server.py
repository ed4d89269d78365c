"""The commands on memories, with and without a server that owns the data directory."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.process import python
from tests.support.server import STUB_MODELS, Server

STUBS = [part for setting in STUB_MODELS for part in ("--set", setting)]
PARROT = {"id": "p1", "role": "user", "content": "The parrot is called Zazu."}
BOILER = {"id": "b1", "role": "user", "content": "The boiler code is 4711."}


def run(data: Path, *arguments: str, input: str | None = None) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    done = python("-m", "lightmem_engine", *arguments, *STUBS, "--data-dir", str(data), input=input)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def ok(data: Path, *arguments: str, input: str | None = None) -> str:
    """Standard output of a command that went well and had nothing to complain of."""
    code, out, err = run(data, *arguments, input=input)
    assert (code, err) == (0, ""), (arguments, err)
    return out


def rows(*messages: dict[str, Any]) -> str:
    return "".join(json.dumps(message) + "\n" for message in messages)


@pytest.fixture(params=["served", "alone"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "data"
    if request.param == "alone":
        yield path
        return
    with Server(path, STUB_MODELS) as server:
        yield path
        assert server.process.poll() is None


def test_every_command_works(data: Path, tmp_path: Path) -> None:
    for _ in range(2):  # the same file twice is harmless
        out = ok(data, "add", "-", "--user", "ann", "--session", "s", input=rows(PARROT, BOILER))
        assert out == "2 messages remembered for ann; 2 entries, 0 parked\n"
    assert "Zazu" in ok(data, "search", "parrot", "--user", "ann", "--top-k", "1")
    assert json.loads(ok(data, "stats", "--user", "ann"))["messages"] == 2
    assert json.loads(ok(data, "flush"))["pending"] == 0
    listed = [json.loads(line) for line in ok(data, "entries", "--user", "ann", "--json").splitlines()]
    assert [entry["source_ids"] for entry in listed] == [["p1"], ["b1"]]
    assert ok(data, "entries", "--user", "ann").startswith(f"{listed[0]['id']}  [")
    assert [json.loads(line)["user_id"] for line in ok(data, "users").splitlines()] == ["ann"]
    file = tmp_path / "all.jsonl"
    assert ok(data, "export", "-o", str(file)) == ""
    assert ok(data, "export", "--user", "ann") == file.read_text()
    assert not (tmp_path / "all.jsonl.part").exists()
    assert ok(data, "import", str(file)) == "1 users read; 0 messages and 0 entries were new\n"
    assert ok(data, "delete", listed[0]["id"], "--user", "ann") == "1 deleted\n"
    assert [line.split("  ")[0] for line in ok(data, "entries", "--user", "ann").splitlines()] == [listed[1]["id"]]
    assert json.loads(ok(data, "delete", "--all", "--user", "ann"))["messages"] == 1
    assert ok(data, "users") == ""
    assert ok(data, "import", "-", input=file.read_text()) == "1 users read; 2 messages and 2 entries were new\n"
    assert ok(data, "export") == file.read_text()
    assert ok(data, "users", "--tenant", "acme") == ""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["delete", "nothing", "--user", "ann"], "there is no entry 'nothing'"),
        (["delete", "--user", "ann"], "give the ids of entries, or --all"),
        (["delete", "x", "--all", "--user", "ann"], "give the ids of entries, or --all"),
        (["import", "/does/not/exist.jsonl"], "cannot read /does/not/exist.jsonl"),
        (["import", "/etc"], "cannot read /etc"),
        (["export", "-o", "/does/not/exist/file"], "cannot write /does/not/exist/file"),
        (["search", " ", "--user", "ann"], "query must be"),
        (["entries", "--user", " "], "user_id must be"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_exits_with_1(
    server_and_none: Sequence[Path], arguments: list[str], complaint: str
) -> None:
    for data in server_and_none:
        code, out, err = run(data, *arguments)
        assert (code, out) == (1, "")
        assert complaint in err


@pytest.fixture(scope="module")
def server_and_none(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    directory = tmp_path_factory.mktemp("cli")
    with Server(directory / "served", STUB_MODELS):
        yield [directory / "served", directory / "alone"]


def test_a_bad_import_names_its_line(server_and_none: Sequence[Path]) -> None:
    for data in server_and_none:
        code, _, err = run(data, "import", "-", input="{}\n")
        assert (code, "line 1: " in err) == (1, True)


def test_a_dead_servers_socket_does_not_stand_in_the_way(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", STUB_MODELS).wait_ready()
    server.kill()
    assert json.loads(ok(tmp_path / "data", "stats"))["messages"] == 0


def test_reindex_leaves_a_served_directory_alone(server_and_none: Sequence[Path]) -> None:
    code, _, err = run(server_and_none[0], "reindex")
    assert (code, "is in use by process" in err) == (1, True)


def test_a_terminal_gets_a_progress_line(tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text(rows(PARROT, BOILER))
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "lightmem_engine", "add", str(file), "--user", "ann", *STUBS]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command += ["--data-dir", str(tmp_path / "data")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=terminal, env=environment, timeout=60)
    os.close(terminal)
    shown = os.read(controller, 10_000).decode()
    os.close(controller)
    assert done.returncode == 0
    assert "2 of 2 messages" in shown
