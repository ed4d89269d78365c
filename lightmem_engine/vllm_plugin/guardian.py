"""Keeps the owner process alive beside vLLM."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightmem_engine.errors import ConfigError, StoreError
from lightmem_engine.vllm_plugin.owner import READY

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 10.0
LIVED_SECONDS = 30.0  # an owner that lived so long is started again at once
STOP_SECONDS = 20.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ready:
    """A started owner: what it holds of its GPU, and that GPU's bytes; zeros without one."""

    gpu_held: int
    gpu_total: int


class Guardian:
    """Starts the owner, starts it again whenever it dies, and stops it in the end. Its own thread, no other's loop.

    The owner's standard input is a pipe that ends with this process, however it ends.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = [sys.executable, "-m", "lightmem_engine.vllm_plugin.owner", *arguments]
        self._environment = dict(environment)
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._watch, name="lightmem-owner", daemon=True)

    @property
    def process(self) -> int:
        """The owner's process id, also after its end. Raises `StoreError` before the first start."""
        if self._process is None:
            raise StoreError("the owner has not been started")
        return self._process.pid

    def start(self) -> Ready:
        """Start the owner and wait until it serves.

        Raises `ConfigError` or `StoreError` if it ends instead; its own words are on standard error.
        """
        process = self._process = self._spawn()
        ready = _first_line(process)
        if ready is None:
            code = process.wait()
            _close(process)
            kind = ConfigError if code == 2 else StoreError
            raise kind(f"the process that owns the memory ended with {code} before it was ready")
        self._thread.start()
        return ready

    def stop(self) -> None:
        """Tell the owner to stop and wait for it. Nothing acknowledged is lost if it must be killed."""
        self._stopping.set()
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            logger.error("the owner did not stop within %.0f s and is killed", STOP_SECONDS)
            process.kill()
            process.wait()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)
        _close(process)

    def _spawn(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environment,
            start_new_session=True,  # Ctrl-C is for vLLM; the owner stops after it
        )
        logger.warning("the memory's owner is process %d", process.pid)
        return process

    def _watch(self) -> None:
        pause = FIRST_PAUSE
        while True:
            process, since = self._process, time.monotonic()
            assert process is not None
            code = process.wait()
            if self._stopping.is_set():
                _close(process)
                return
            pause = FIRST_PAUSE if time.monotonic() - since > LIVED_SECONDS else min(2 * pause, LONGEST_PAUSE)
            logger.error("the memory's owner ended with %d and is started again in %.1f s", code, pause)
            if self._stopping.wait(pause):
                return
            _close(process)
            self._process = self._spawn()
            if self._stopping.is_set():  # `stop` may have looked just before
                self._process.terminate()


def _close(process: subprocess.Popen[bytes]) -> None:
    """Let go of the pipes of an owner that has ended."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _first_line(process: subprocess.Popen[bytes]) -> Ready | None:
    """What a ready owner says; None if it ends first. Later lines of its output nobody reads: it writes none."""
    assert process.stdout is not None
    words = process.stdout.readline().decode().split()
    return Ready(int(words[1]), int(words[2])) if words[:1] == [READY] else None
