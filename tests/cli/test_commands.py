"""Every command through the real executable, with weight-free encoders."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lightmem_engine.config_loader import markdown_table, options
from lightmem_engine.stores.lock import DirectoryLock
from lightmem_engine.version import VERSION
from tests.support.process import python
from tests.support.server import STUB_MODELS, Server

STUBS = [part for setting in STUB_MODELS for part in ("--set", setting)]
COMMANDS = (
    *("serve", "add", "search", "flush", "stats", "entries", "delete", "users", "export", "import", "reindex"),
    "sleep",
    *("eval", "config", "doctor"),
)


def run(*arguments: str, input: str | None = None, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    done = python("-m", "lightmem_engine", *arguments, input=input, env=env)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def here(tmp_path: Path) -> list[str]:
    """The options that every command of a test shares."""
    return [*STUBS, "--data-dir", str(tmp_path / "data")]


def rows(*messages: dict[str, Any]) -> str:
    """A JSONL file."""
    return "".join(json.dumps(message) + "\n" for message in messages)


PARROT = {"id": "p1", "role": "user", "content": "The parrot is called Zazu.", "timestamp": "2023-05-08T10:00:00Z"}
PARCEL = {"role": "assistant", "content": "The parcel weighs 700 grams.", "name": "Max"}


def test_add_search_stats_and_flush(tmp_path: Path, here: Sequence[str]) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text(rows(PARROT) + "\n" + rows(PARCEL))
    for _ in range(2):  # the same file may be added again, with ids in it or without
        code, out, err = run("add", str(file), "--user", "ann", "--session", "s", *here)
        assert (code, err) == (0, "")
        assert out.startswith("2 messages remembered for ann; ")
    code, out, err = run("search", "parrot", "--user", "ann", "--top-k", "1", *here)
    assert (code, err, len(out.splitlines())) == (0, "", 1)
    assert "Zazu" in out
    assert "8 May 2023" in out
    code, out, err = run("search", "parrot", "--user", "ann", "--json", *here)
    hits = json.loads(out)["hits"]
    assert (code, err, hits[0]["source_ids"], hits[0]["state"]) == (0, "", ["p1"], "active")
    assert run("search", "parrot", "--user", "bob", *here) == (0, "", "")
    code, out, err = run("stats", "--user", "ann", *here)
    assert (code, json.loads(out)["messages"], err) == (0, 2, "")
    code, out, err = run("flush", *here)
    assert (code, json.loads(out)["pending"], err) == (0, 0, "")


def test_add_reads_standard_input_and_an_empty_file_adds_nothing(tmp_path: Path, here: Sequence[str]) -> None:
    code, out, err = run("add", "-", "--user", "ann", *here, input=rows(PARROT, PARCEL))
    assert (code, out.split(";")[0], err) == (0, "2 messages remembered for ann", "")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    code, out, err = run("add", str(tmp_path / "empty.jsonl"), "--user", "bob", *here)
    assert (code, out, err) == (0, "0 messages remembered for bob; 0 entries, 0 parked\n", "")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not JSON"),
        ("7", "must be an object"),
        ('"text"', "must be an object"),
        ("[]", "must be an object, not list"),
        (json.dumps([PARCEL, PARCEL]), "must be an object, not list"),
        ('{"role": "user"}', "has no content"),
        ('{"content": "x"}', "has no role"),
        ('{"role": "user", "content": "x", "colour": 1}', "unknown fields: colour"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, here: Sequence[str], line: str, complaint: str) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text(rows(PARROT) + line + "\n")
    code, out, err = run("add", str(file), "--user", "ann", *here)
    assert (code, out) == (1, "")
    assert err.startswith(f"lightmem-engine: {file}:2: ")
    assert complaint in err


def test_a_line_with_a_bad_value_is_an_error_and_stores_nothing(tmp_path: Path, here: Sequence[str]) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text(rows(PARROT, {"role": "boss", "content": "x"}))
    code, _, err = run("add", str(file), "--user", "ann", *here)
    assert (code, "role must be one of" in err) == (1, True)
    assert json.loads(run("stats", *here)[1])["messages"] == 0


def test_a_file_that_is_not_there(tmp_path: Path, here: Sequence[str]) -> None:
    code, _, err = run("add", str(tmp_path / "absent.jsonl"), "--user", "ann", *here)
    assert code == 1
    assert "cannot read" in err


def test_config_shows_value_source_and_help_and_masks_secrets(tmp_path: Path) -> None:
    file = tmp_path / "memory.toml"
    file.write_text("[compress]\nrate = 0.4\n")
    env = {"LIGHTMEM_LM__API_KEY": "sk-hidden"}
    code, out, err = run("config", "--memory-config", str(file), "--set", "server.port=1234", env=env)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert f"compress.rate = 0.4  [file {file}]" in lines
    assert "server.port = 1234  [--set server.port]" in lines
    assert "lm.api_key = ***  [environment LIGHTMEM_LM__API_KEY]" in lines
    assert "device.kind = auto  [default]" in lines
    assert "sk-hidden" not in out
    assert len(lines) == 2 * len(list(options()))
    assert run("config", "--markdown")[1] == markdown_table() + "\n"


def test_doctor_says_what_was_found_and_fails_if_something_is_broken(tmp_path: Path, here: Sequence[str]) -> None:
    code, out, err = run("doctor", *here)
    assert (code, err) == (0, "")
    for what in ("data directory", "torch", "vllm", "device", "classifier", "embedder", "language model"):
        assert f"ok   {what}: " in out
    code, out, _ = run("doctor", "--set", f"embedder.model={tmp_path}", "--data-dir", str(tmp_path))
    assert code == 1
    assert "FAIL encoders: " in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: lightmem-engine {command}")
    assert "--data-dir" in out


def test_the_command_line_as_a_whole() -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert all(command in out for command in COMMANDS)
    assert run("--version") == (0, f"{VERSION}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["add", "file"],
        ["search", "--user", "ann"],
        ["search", "x", "--user", "ann", "--top-k", "many"],
        ["config", "--set", "compres.rate=1"],
        ["config", "--set", "compress.rate=7"],
        ["config", "--set", "nonsense"],
        ["config", "--memory-config", "/does/not/exist.toml"],
        ["serve", "--port", "70000"],
    ],
    ids=" ".join,
)
def test_bad_arguments_exit_with_2(arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.strip()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["search", " ", "--user", "ann"], "query must be"),
        (["search", "x", "--user", "ann", "--top-k", "0"], "top_k"),
        (["search", "x", "--user", " "], "user_id"),
    ],
)
def test_what_the_engine_refuses_exits_with_1(here: Sequence[str], arguments: list[str], complaint: str) -> None:
    code, out, err = run(*arguments, *here)
    assert (code, out) == (1, "")
    assert complaint in err


def test_a_directory_in_use_by_no_server_is_refused_and_left_alone(tmp_path: Path, here: Sequence[str]) -> None:
    lock = DirectoryLock(tmp_path / "data")
    for command in (["stats"], ["reindex"]):
        (tmp_path / "data" / "memory.db").touch()
        code, out, err = run(*command, *here)
        assert (code, out) == (1, "")
        assert f"is in use by process {os.getpid()}" in err
    lock.release()
    (tmp_path / "data" / "memory.db").unlink()
    assert run("stats", *here)[0] == 0


def test_a_taken_port_is_said_at_once(tmp_path: Path, here: Sequence[str]) -> None:
    with Server(tmp_path / "other", STUB_MODELS) as server:
        code, _, err = run("serve", "--port", str(server.port), *here)
        assert code == 2
        assert f"cannot listen on 127.0.0.1:{server.port}" in err


def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = run("stats", *STUBS, "--data-dir", str(tmp_path / "file"))
    assert code == 1
    assert "cannot use the data directory" in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory(tmp_path: Path, here: Sequence[str]) -> None:
    assert run("stats", *here)[0] == 0
    (tmp_path / "data").chmod(0o500)
    (tmp_path / "data" / "memory.db").chmod(0o400)
    code, _, err = run("add", "-", "--user", "ann", *here, input=rows(PARROT))
    assert code == 1
    assert "memory.db" in err


@pytest.mark.parametrize("damage", ["not a database", "torn"])
def test_a_damaged_database_is_refused_and_not_touched(tmp_path: Path, here: Sequence[str], damage: str) -> None:
    assert run("add", "-", "--user", "ann", *here, input=rows(PARROT, PARCEL))[0] == 0
    file = tmp_path / "data" / "memory.db"
    whole = file.read_bytes()
    broken = (
        b"this is a letter, and no database\n" * 100 if damage == "not a database" else whole[:4096] + b"\xff" * 9000
    )
    file.write_bytes(broken)
    code, out, err = run("stats", *here)
    assert (code, out) == (1, "")
    assert str(file) in err or "memory.db" in err
    assert file.read_bytes()[: len(broken)] == broken


def test_a_database_of_a_newer_engine_is_refused(tmp_path: Path, here: Sequence[str]) -> None:
    assert run("stats", *here)[0] == 0
    connection = sqlite3.connect(tmp_path / "data" / "memory.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    code, out, err = run("stats", *here)
    assert (code, out) == (1, "")
    assert "schema 99" in err


def test_ctrl_c_stops_a_server_and_an_add(tmp_path: Path, here: Sequence[str]) -> None:
    server = Server(tmp_path / "served", STUB_MODELS).wait_ready()
    assert server.stop() == 0
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "lightmem_engine", "add", "-", "--user", "ann", *here]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        env=environment,
        text=True,
        # A shell's background job ignores Ctrl-C and so would its children, these tests among them.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(rows(*({"id": f"m{n}", "role": "user", "content": f"parcel {n}"} for n in range(20_000))))
        process.stdin.close()
        lock = tmp_path / "data" / "lock"
        while not lock.exists() or not lock.read_text().strip():
            assert process.poll() is None
        while not _logged(tmp_path / "data" / "memory.db"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert "Traceback" not in process.stderr.read()
    logged = json.loads(run("stats", *here)[1])["messages"]
    assert 0 < logged < 20_000
    assert logged % 200 == 0, "batches are stored whole"


def _logged(file: Path) -> int:
    """Messages that are on disk."""
    if not file.exists():
        return 0
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        return int(connection.execute("SELECT count(*) FROM message").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()
