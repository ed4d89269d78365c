"""A real vLLM that is looked at while it reads, and an owner of the tests who hears of it."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from types import TracebackType
from typing import Any, Self

from lightmem_engine.wire_kv import ATTENTION_PATH
from tests.support.vllm_server import environment

_RUN = "import os, sys; os.dup2(int(sys.argv[1]), 3); from tests.support.vllm_looked import main; main(*sys.argv[2:])"


class Ear(ThreadingUnixStreamServer):
    """Takes what is told of attention, on the owner's socket, and knows nothing else."""

    daemon_threads = True

    def __init__(self, data_dir: Path) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        self.told: queue.Queue[dict[str, Any]] = queue.Queue()
        super().__init__(str(data_dir / "engine.sock"), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def next(self) -> dict[str, Any]:
        """What is told next."""
        return self.told.get(timeout=60)


class _Handler(BaseHTTPRequestHandler):
    server: Ear

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == ATTENTION_PATH:
            self.server.told.put(body)
        self.send_response(200 if self.path == ATTENTION_PATH else 404)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args: object) -> None:
        """Tests are quiet."""


class LookedVllm:
    """`start`: the first line of `tests.support.vllm_looked`. Leaves no process behind."""

    def __init__(self, checkpoint: Path, data_dir: Path, log: Path, **options: Any) -> None:
        read, write = os.pipe()
        asked = {"attention": True, "layers": [0, 2], "eager": True, "step_tokens": 64} | options
        self._log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _RUN, str(write), str(checkpoint), str(data_dir), json.dumps(asked)],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                pass_fds=[write],
                env=environment(log.parent / "registration") | {"VLLM_PLUGINS": "lightmem"},
                start_new_session=True,
                text=True,
            )
        os.close(write)
        self._answers = os.fdopen(read, encoding="utf-8")
        self.start: dict[str, Any] = self._line()

    def ask(self, *conversations: list[str], salt: str = "salt", asks: bool = True) -> list[dict[str, Any]]:
        """Answers to conversations that are read together."""
        assert self._process.stdin is not None
        rows = [{"contents": contents, "salt": salt, "asks": asks} for contents in conversations]
        self._process.stdin.write(json.dumps(rows) + "\n")
        self._process.stdin.flush()
        found: list[dict[str, Any]] = self._line()
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)
        self._answers.close()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _line(self) -> Any:
        line = self._answers.readline()
        assert line, self._log.read_text("utf-8", "replace")[-6000:]
        return json.loads(line)
