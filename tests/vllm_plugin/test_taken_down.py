"""The owner dies; chats go on and say so; it comes back with all that was acknowledged. Then everything dies."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.vllm_server import DETAILS, FAST, TOOLS, VllmServer
from tests.support.vllm_talk import ask, client, native
from tests.support.waiting import wait_until
from tests.vllm_plugin.conftest import keys_file


def test_chats_go_on_without_the_owner_and_nothing_acknowledged_is_lost(vllm: VllmServer) -> None:
    told = ask(vllm, "My aunt moved to Porto.", "lena")
    assert told.memory is not None
    assert told.memory["stored"] is True
    owner = vllm.owner()
    os.kill(owner, signal.SIGSTOP)  # still there, and silent: what waits for it now meets its death
    os.kill(owner, signal.SIGKILL)
    during = ask(vllm, "Where does my aunt live?", "lena")
    assert during.text
    assert during.memory is not None
    assert (during.memory["degraded"], during.memory["stored"], during.memory["used"]) == ("engine_down", False, [])
    away = native(vllm, "GET", "/v1/memory/stats")
    if vllm.owner() == owner:  # not started again yet
        assert (away.status_code, away.json()["error"]["code"]) == (503, "engine_down")
    _wait_for_owner(vllm)
    assert vllm.owner() != owner
    after = ask(vllm, "Where does my aunt live?", "lena")
    assert "Porto" in after.text
    assert after.memory is not None
    assert after.memory["degraded"] is None


def test_all_processes_die_and_a_new_server_remembers(vllm: VllmServer, tmp_path: Path) -> None:
    """The launcher is killed with its children; the owner, in a session of its own, notices and lets go."""
    _wait_for_owner(vllm)
    ask(vllm, "My uncle moved to Turin.", "mona")
    _wait_for_kept_caches(vllm)
    owner = vllm.owner()
    os.killpg(vllm.process.pid, signal.SIGKILL)
    vllm.process.wait()
    wait_until(lambda: not _is_alive(owner))
    options = tmp_path / "vllm.yaml"
    options.write_text(f"max-num-seqs: 8\nkeys: {keys_file(tmp_path)}\n", "utf-8")
    vllm.start("--config", str(options), *FAST, *TOOLS, *DETAILS, env={"VLLM_PLUGINS": "somebody_elses"})
    vllm.wait_ready()
    answer = ask(vllm, "Where does my uncle live?", "mona")
    assert "Turin" in answer.text
    assert answer.memory is not None
    assert answer.memory["stored"] is True
    with client(vllm, "made-up") as stranger, pytest.raises(Exception, match="401"):
        stranger.models.list()


def _wait_for_owner(server: VllmServer) -> None:
    wait_until(lambda: native(server, "GET", "/health/ready").status_code == 200, seconds=120, pause=0.1)


def _wait_for_kept_caches(server: VllmServer) -> None:
    """KV of what was told is on the disk, in the owner's books."""
    wait_until(lambda: native(server, "GET", "/v1/memory/kv").json()["chunks"], seconds=120, pause=0.1)


def _is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
