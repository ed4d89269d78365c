"""What each command does that is not about stored memories. Heavy parts are imported by the command that needs them."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json

from lightmem_engine.cli.progress import progress
from lightmem_engine.config_loader import LoadedConfig, markdown_table, options, shown
from lightmem_engine.errors import ConfigError


def serve(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """Run the server until it is told to stop."""
    from lightmem_engine.assemble import build
    from lightmem_engine.serving.server import run

    return run(lambda: build(loaded.config), loaded.config)


def evaluate(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """Measure; the last line of output is one JSON object."""
    from lightmem_engine.evaluation.run import Judged, evaluate_file

    judged = Judged(args.reader or "", args.judge or "", args.reader_model, args.judge_model, args.log or "")
    result = asyncio.run(evaluate_file(args.what, args.file, loaded.config, judged, progress))
    progress("")
    if not args.json:
        print(json.dumps(result, indent=2))
    print(json.dumps(result))
    return 0


def bench(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """Run a bench of the repository in this directory. Raises `ConfigError` where there is none."""
    try:
        module = importlib.import_module(f"bench.bench_{args.what}")
    except ModuleNotFoundError as error:
        if error.name not in ("bench", f"bench.bench_{args.what}"):
            raise
        raise ConfigError("the benches are in the repository; run this where it is checked out") from error
    return int(module.main(args.rest))


def show_config(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """One line per option."""
    if args.markdown:
        print(markdown_table())
        return 0
    for option in options():
        value = shown(option, loaded.value(option.path))
        print(f"{option.path} = {value or '(empty)'}  [{loaded.source(option.path)}]\n    {option.help}")
    return 0


def doctor(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """What was found and why it was chosen; exit code 1 if something is broken."""
    from lightmem_engine.cli.doctor import examine

    healthy = True
    for finding in examine(loaded.config):
        healthy = healthy and finding.healthy
        print(f"{'ok  ' if finding.healthy else 'FAIL'} {finding.what}: {finding.found}")
    return 0 if healthy else 1
