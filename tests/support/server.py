"""The real server as a process of its own."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

UNHURRIED = "chat.budget_ms=60000"  # what a test asserts must not hang on how busy the machine is
# No weights at all: starts in a second, and runs the same pipeline.
STUB_ENCODERS = ("embedder.stub=true", "classifier.source=stub", UNHURRIED)
STUB_MODELS = (*STUB_ENCODERS, "lm.backend=stub")
START_SECONDS = 240.0
UNASSIGNED = 20_000, 32_000  # systems take the ports of outgoing connections from above


def free_port() -> int:
    """A port that nobody listens on, and that the system gives to no connection before somebody does."""
    while True:
        port = random.randrange(*UNASSIGNED)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Server:
    """`lightmem-engine serve` over a data directory. `with Server(path) as server: ...` stops it as Ctrl-C would."""

    def __init__(self, data_dir: Path, settings: Sequence[str] = (), arguments: Sequence[str] = ()) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = data_dir.parent / f"{data_dir.name}.log"
        command = [sys.executable, "-m", "lightmem_engine", "serve", "--port", str(self.port)]
        command += ["--data-dir", str(data_dir), *arguments]
        for setting in settings:
            command += ["--set", setting]
        with self.log.open("ab") as log:
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def wait_ready(self) -> Self:
        """Wait until `/health` answers; fails if the process ends first."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}: {self.log.read_text()[-2000:]}")
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return self
            except httpx.TransportError:
                time.sleep(0.02)
        raise AssertionError(f"the server is not ready: {self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """Ctrl-C; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(120)

    def __enter__(self) -> Self:
        try:
            return self.wait_ready()
        except BaseException:
            self.kill()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
