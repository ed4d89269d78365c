"""`python -m lightmem_engine.vllm_plugin.owner`: the process that owns the memory beside vLLM.

It serves `<data-dir>/engine.sock` and nothing else, and ends with its launcher: its standard input is a pipe that the
launcher alone holds open.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence

from lightmem_engine.assemble import build
from lightmem_engine.config import EngineConfig
from lightmem_engine.config_loader import load
from lightmem_engine.errors import ConfigError, LightMemError
from lightmem_engine.runtime.device import share_cores
from lightmem_engine.serving import logs
from lightmem_engine.serving.app import create_app
from lightmem_engine.serving.keys import KeyRing
from lightmem_engine.serving.owner import owner_socket
from lightmem_engine.vllm_plugin.gpu import gpu_bytes

READY = "ready"

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Own the directory until told to stop; exit codes as the command line's."""
    share_cores()
    parser = argparse.ArgumentParser(prog="lightmem-engine owner")
    parser.add_argument("--memory-config", metavar="FILE")
    parser.add_argument("--set", action="append", default=[])
    args = parser.parse_args(argv)
    try:
        config = load(args.memory_config, settings=args.set).config
        logs.set_up(config.server.log_format)
        asyncio.run(_own(config))
    except LightMemError as error:
        print(f"lightmem-engine: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 130
    return 0


async def _own(config: EngineConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_reader(sys.stdin.fileno(), _end_of_launcher, stop)
    engine = await build(config)
    app = create_app(engine, config, KeyRing(""))
    async with app.router.lifespan_context(app), owner_socket(app, engine):  # the first closes the engine
        # The launcher reads this line: how much of the GPU is no longer vLLM's to take.
        print(READY, *gpu_bytes(), flush=True)
        await stop.wait()
    logger.info("stopped")


def _end_of_launcher(stop: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 1):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        stop.set()


if __name__ == "__main__":
    sys.exit(main())
