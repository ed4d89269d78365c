"""What each command does. Heavy parts are imported by the command that needs them."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from lightmem_engine.config_loader import LoadedConfig, markdown_table, options, shown
from lightmem_engine.errors import InvalidInput
from lightmem_engine.types import Hit, Message

ADD_BATCH = 200


def serve(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """Run the server until it is told to stop."""
    from lightmem_engine.assemble import build
    from lightmem_engine.serving.server import run

    return run(lambda: build(loaded.config), loaded.config)


def add(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """Remember a file; the same file may be added again without harm."""
    from lightmem_engine.memory import Memory

    messages = list(read_messages(args.file, args.session))  # a bad line stops the command before anything is stored
    count = 0
    with Memory(loaded.config) as memory:
        for batch in _batches(messages):
            count += len(memory.add(batch, user_id=args.user, session_id=args.session))
            _progress(f"{count} of {len(messages)} messages")
        stats = memory.flush(user_id=args.user)
    _progress("", end="")
    print(f"{count} messages remembered for {args.user}; {stats['entries']} entries, {len(stats['parked'])} parked")
    return 0


def search(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """Print hits, best first."""
    from lightmem_engine.memory import Memory
    from lightmem_engine.serving.shapes import hit_json

    with Memory(loaded.config) as memory:
        hits = memory.search(args.query, user_id=args.user, top_k=args.top_k)
    if args.json:
        print(json.dumps({"hits": [hit_json(hit) for hit in hits]}, ensure_ascii=False))
    else:
        for hit in hits:
            print(_line(hit))
    return 0


def flush(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """Finish what waits; the counts afterwards."""
    from lightmem_engine.memory import Memory

    with Memory(loaded.config) as memory:
        print(json.dumps(memory.flush(user_id=args.user), indent=2))
    return 0


def stats(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """The counts as JSON."""
    from lightmem_engine.memory import Memory

    with Memory(loaded.config) as memory:
        print(json.dumps(memory.stats(user_id=args.user), indent=2))
    return 0


def evaluate(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """Measure; the last line of output is one JSON object."""
    from lightmem_engine.evaluation.run import Judged, evaluate_file

    judged = Judged(args.reader or "", args.judge or "", args.reader_model, args.judge_model, args.log or "")
    result = asyncio.run(evaluate_file(args.what, args.file, loaded.config, judged, _progress))
    _progress("")
    if not args.json:
        print(json.dumps(result, indent=2))
    print(json.dumps(result))
    return 0


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


def read_messages(file: str, session: str | None = None) -> Iterator[Message]:
    """Messages of a JSONL file, or of standard input for `-`; `InvalidInput` names the line.

    A line without an id gets one made of its session, what it says and how often it was said before, so that a second
    reading yields the same messages.
    """
    from lightmem_engine.memory import as_messages

    try:
        lines: Iterable[str] = sys.stdin if file == "-" else Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read {file}: {error}") from error
    seen: Counter[str] = Counter()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise InvalidInput(f"a line must be an object, not {type(row).__name__}")
            message = as_messages(row)[0]
        except json.JSONDecodeError as error:
            raise InvalidInput(f"{file}:{number}: not JSON: {error}") from error
        except InvalidInput as error:
            raise InvalidInput(f"{file}:{number}: {error}") from error
        if message.id is None:
            digest = hashlib.sha256(f"{session}\0{line.strip()}".encode()).hexdigest()[:24]
            message = dataclasses.replace(message, id=f"{digest}-{seen[digest]}")
            seen[digest] += 1
        yield message


def _batches(messages: Iterable[Message]) -> Iterator[list[Message]]:
    batch: list[Message] = []
    for message in messages:
        batch.append(message)
        if len(batch) == ADD_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _line(hit: Hit) -> str:
    from lightmem_engine.prompts import v1

    return f"{hit.score:.3f}  {v1.memory_line(hit)}"


def _progress(text: str, end: str = "") -> None:
    """A line that overwrites itself on a terminal; nothing in a pipe."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end=end, file=sys.stderr, flush=True)
