"""A real vLLM in a process of its own, with the connector, and the owner of the memory beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lightmem_engine.config import EngineConfig, replace
from lightmem_engine.models.packaged import packaged_micro_qwen
from lightmem_engine.types import OpenTurn
from lightmem_engine.vllm_plugin.kept.options import beside, kv_transfer_config
from lightmem_engine.vllm_plugin.tier.options import remove_leftovers


class KeptVllm:
    """Answers over the packaged model, or a checkpoint. Leaves no process behind.

    theirs: another connector's `KVTransferConfig`, beside ours.   With `kv.tier = offload`, over a worker for the CPU.
    """

    def __init__(
        self,
        data_dir: Path,
        log: Path,
        checkpoint: Path | None = None,
        dtype: str = "float32",
        context: int = 2048,
        theirs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        config = replace(
            EngineConfig(), **({"kv.mode": "persist", "kv.min_free_bytes": 0, "kv.min_tokens": 1} | options)
        )
        ours = kv_transfer_config(config, data_dir)
        assert ours is not None
        if config.kv.tier == "offload":
            ours["kv_connector_extra_config"] |= {
                "spec_name": "CpuTieringSpec",
                "spec_module_path": "tests.support.cpu_offload",
            }
        known = json.dumps(ours if theirs is None else beside(ours, theirs))
        read, write = os.pipe()
        self.log = log
        self._data_dir = data_dir
        folder = str(checkpoint or packaged_micro_qwen().directory)
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _RUN, str(write), folder, known, dtype, str(context)],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                pass_fds=[write],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                start_new_session=True,
                text=True,
            )
        os.close(write)
        self._answers = os.fdopen(read, encoding="utf-8")
        try:
            self._line()
        except BaseException:  # a test that waits no longer; nobody would end it otherwise
            self.kill()
            raise

    def ask(
        self, messages: Sequence[Mapping[str, Any]], salt: str, params: Mapping[str, Any], **more: Any
    ) -> dict[str, Any]:
        """One answer; `cached`: tokens of the prompt that were not computed."""
        assert self._process.stdin is not None
        row = {"messages": list(messages), "salt": salt, "params": dict(params), **more}
        self._process.stdin.write(json.dumps(row) + "\n")
        self._process.stdin.flush()
        return self._line()

    def turn(self, turn: OpenTurn) -> dict[str, Any]:
        """The answer to a turn with memory."""
        return self.ask(turn.messages, turn.salt, turn.kv_params)

    def kill(self) -> None:
        """kill -9, of the server and its workers."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)
        remove_leftovers(self._data_dir)  # as the launcher does when it starts
        self._answers.close()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _line(self) -> dict[str, Any]:
        line = self._answers.readline()
        assert line, self.log.read_text("utf-8", "replace")[-4000:]
        found: dict[str, Any] = json.loads(line)
        return found


_RUN = "import os, sys; os.dup2(int(sys.argv[1]), 3); from tests.support.vllm_kept import main; main(*sys.argv[2:])"
