"""The owner process, kept alive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from lightmem_engine.client import EngineClient
from lightmem_engine.errors import ConfigError, EngineDown, StoreError
from lightmem_engine.types import Message, Scope
from lightmem_engine.vllm_plugin.guardian import Guardian, Ready
from tests.support.server import STUB_MODELS
from tests.support.waiting import wait_until

ANN = Scope(user="ann")


def _arguments(directory: Path) -> list[str]:
    settings = [f"data_dir={directory}", *STUB_MODELS]
    return [word for setting in settings for word in ("--set", setting)]


def _guardian(arguments: Sequence[str]) -> Guardian:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("LIGHTMEM_")}
    return Guardian(arguments, ours | {"PYTHONPATH": os.pathsep.join(sys.path)})


async def test_an_owner_that_is_killed_comes_back_with_what_it_knew(tmp_path: Path) -> None:
    guardian = _guardian(_arguments(tmp_path))
    assert guardian.start() == Ready(0, 0)
    client = EngineClient(tmp_path / "engine.sock")
    try:
        await client.add(ANN, [Message("user", "My cat is called Miso.")])
        first = guardian.process
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: guardian.process != first)
        wait_until(lambda: (tmp_path / "engine.sock").exists())
        deadline = time.monotonic() + 30
        while True:
            try:
                hits = await client.search(ANN, "cat")
                break
            except EngineDown:
                assert time.monotonic() < deadline
        assert "Miso" in hits[0].text
    finally:
        await client.aclose()
        guardian.stop()
    assert not Path(f"/proc/{guardian.process}").exists()


def test_an_owner_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ended with 2"):
        _guardian(["--set", "no.such=option"]).start()
    holder = _guardian(_arguments(tmp_path))
    holder.start()
    try:
        with pytest.raises(StoreError, match="ended with 1"):
            _guardian(_arguments(tmp_path)).start()
    finally:
        holder.stop()


def test_an_owner_ends_with_its_launcher_however_that_ends(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\n"
        "from lightmem_engine.vllm_plugin.guardian import Guardian\n"
        f"guardian = Guardian({_arguments(tmp_path)!r}, os.environ)\n"
        "guardian.start()\n"
        "print(guardian.process, flush=True)\n"
        "time.sleep(600)\n"
    )
    ours = {name: value for name, value in os.environ.items() if not name.startswith("LIGHTMEM_")}
    launcher = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=ours | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert launcher.stdout is not None
    owner = int(launcher.stdout.readline())
    launcher.kill()
    launcher.wait()
    launcher.stdout.close()
    wait_until(lambda: not (tmp_path / "engine.sock").exists())
    wait_until(lambda: not _runs(owner))


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
