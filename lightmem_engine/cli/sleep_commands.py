"""`lightmem-engine sleep`: run, list, show, undo."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING

from lightmem_engine.cli.connect import open_memory
from lightmem_engine.cli.progress import progress
from lightmem_engine.config_loader import LoadedConfig
from lightmem_engine.errors import InvalidInput

if TYPE_CHECKING:
    from lightmem_engine.memory import Memory
    from lightmem_engine.types import SleepReport, SleepRun

_LOOK_SECONDS = 0.2


def sleep(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """Run, list, show or roll back."""
    if (args.run_id is not None) != (args.action in _ON_A_RUN):
        raise InvalidInput(f"sleep {args.action} {'needs a RUN' if args.run_id is None else 'takes no RUN'}")
    return ACTIONS[args.action](args, loaded)


def _begin(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """Let newer memories change older ones, and show what changed."""
    limits = {name: getattr(args, name) for name in ("max_calls", "max_tokens", "max_seconds")}
    with open_memory(loaded.config, args.tenant) as memory:
        started = memory.sleep(user_id=args.user, wait=False, **limits)
        report = _watch(memory, started.id)
        _print(report, as_json=args.json)
    return 0 if report.run.state == "done" else 1


def _list(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """The newest runs, a line each."""
    from lightmem_engine.wire import run_json

    with open_memory(loaded.config, args.tenant) as memory:
        for found in memory.sleep_runs(user_id=args.user):
            print(json.dumps(run_json(found), ensure_ascii=False) if args.json else _line(found))
    return 0


def _show(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """What a run changed: old text, new text, because of which entry."""
    with open_memory(loaded.config, args.tenant) as memory:
        _print(memory.sleep_run(args.run_id), as_json=args.json)
    return 0


def _roll_back(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """Undo a run."""
    with open_memory(loaded.config, args.tenant) as memory:
        print(_line(memory.rollback(args.run_id)))
    return 0


def _watch(memory: Memory, id: str) -> SleepReport:
    """Look at a run until it has ended."""
    while (report := memory.sleep_run(id)).run.state == "running":
        progress(f"{report.run.pairs} pairs looked at, {report.run.calls} calls, {report.run.applied} changes")
        time.sleep(_LOOK_SECONDS)
    progress("")
    return report


def _print(report: SleepReport, *, as_json: bool) -> None:
    from lightmem_engine.wire import report_json

    if as_json:
        print(json.dumps(report_json(report), ensure_ascii=False))
        return
    print(_line(report.run))
    for change in report.changes:
        print(f"\n{change.number}. {change.action}: {change.entry} of {change.user} is now {change.after_state}")
        if change.before_version is not None:
            print(f"  - {_text(change.before_text)}")
        if change.before_version is None or change.after_text != change.before_text:
            print(f"  + {_text(change.after_text)}")
        if change.other is not None:
            print(f"  by {change.other}: {_text(change.other_text)}")
        print(f"  {change.reason}")


def _text(text: str | None) -> str:
    return "(deleted since)" if text is None else " ".join(text.split())


def _line(run: SleepRun) -> str:
    whose = run.user if run.user is not None else "all users"
    counts = f"{run.pairs} pairs, {run.calls} calls, {run.prompt_tokens + run.completion_tokens} tokens"
    done = f"{run.applied} changes, {run.rejected} rejected, {run.undecided} undecided, {run.stale} stale"
    why = f" ({run.error})" if run.error else ""
    return f"{run.id}  {run.state}{why}  {whose}, by {run.mode}: {counts}; {done}"


ACTIONS = {"run": _begin, "list": _list, "show": _show, "rollback": _roll_back}
_ON_A_RUN = frozenset(("show", "rollback"))
