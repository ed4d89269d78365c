"""Commands on stored memories. They talk to the server that owns the data directory, or open it themselves."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from lightmem_engine.cli.connect import directory_of, open_memory
from lightmem_engine.cli.progress import bar, progress
from lightmem_engine.cli.rows import batches, read_messages
from lightmem_engine.config_loader import LoadedConfig
from lightmem_engine.errors import InvalidInput, StoreError

if TYPE_CHECKING:
    from lightmem_engine.types import Hit, MemoryEntry

_CHUNK_BYTES = 1 << 16


def add(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """Remember a file; the same file may be added again without harm."""
    messages = list(read_messages(args.file, args.session))  # a bad line stops the command before anything is stored
    count = 0
    with open_memory(loaded.config, args.tenant) as memory:
        for batch in batches(messages):
            count += len(memory.add(batch, user_id=args.user, session_id=args.session))
            progress(f"{count} of {len(messages)} messages")
        stats = memory.flush(user_id=args.user)
    progress("")
    print(f"{count} messages remembered for {args.user}; {stats['entries']} entries, {len(stats['parked'])} parked")
    return 0


def search(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """Print hits, best first."""
    from lightmem_engine.wire import hit_json

    with open_memory(loaded.config, args.tenant) as memory:
        hits = memory.search(args.query, user_id=args.user, top_k=args.top_k)
    if args.json:
        print(json.dumps({"hits": [hit_json(hit) for hit in hits]}, ensure_ascii=False))
    else:
        for hit in hits:
            print(f"{hit.score:.3f}  {_line(hit)}")
    return 0


def entries(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """Print all that is remembered of a user, with ids."""
    from lightmem_engine.wire import entry_json

    with open_memory(loaded.config, args.tenant) as memory:
        found = memory.get_all(user_id=args.user)
    for entry in found:
        line = json.dumps(entry_json(entry), ensure_ascii=False) if args.json else f"{entry.id}  {_line(entry)}"
        print(line)
    return 0


def delete(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """Delete entries by id, or everything of a user."""
    if bool(args.id) == args.all:
        raise InvalidInput("give the ids of entries, or --all")
    with open_memory(loaded.config, args.tenant) as memory:
        if args.all:
            print(json.dumps(memory.delete_all(user_id=args.user)))
            return 0
        for number, id in enumerate(args.id, 1):
            memory.delete(id, user_id=args.user)
            bar(number, len(args.id), "entries")
    print(f"{len(args.id)} deleted")
    return 0


def users(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """Everybody of whom something is stored, one JSON object per line."""
    with open_memory(loaded.config, args.tenant) as memory:
        for found in memory.users():
            print(json.dumps(found, ensure_ascii=False))
    return 0


def flush(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """Finish what waits; the counts afterwards."""
    with open_memory(loaded.config, args.tenant) as memory:
        print(json.dumps(memory.flush(user_id=args.user), indent=2))
    return 0


def stats(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """The counts as JSON."""
    with open_memory(loaded.config, args.tenant) as memory:
        print(json.dumps(memory.stats(user_id=args.user), indent=2))
    return 0


def export(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """Write memories as JSON Lines to a file, which appears when it is whole, or to standard output."""
    with open_memory(loaded.config, args.tenant) as memory:
        chunks = memory.export(user_id=args.user)
        if args.output == "-":
            for chunk in chunks:
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            return 0
        partial = f"{args.output}.part"
        size = 0
        try:
            with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                for chunk in chunks:
                    size += file.write(chunk)
                    progress(f"{size / 2**20:.1f} MiB")
            os.replace(partial, args.output)
        except OSError as error:
            raise StoreError(f"cannot write {args.output}: {error.strerror}") from error
    progress("")
    return 0


def import_(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """Take in an export."""
    try:
        with sys.stdin.buffer if args.file == "-" else open(args.file, "rb") as file:
            total = 0 if args.file == "-" else os.fstat(file.fileno()).st_size
            with open_memory(loaded.config, args.tenant) as memory:
                done = memory.import_(_chunks(file, total))
    except OSError as error:
        raise InvalidInput(f"cannot read {args.file}: {error.strerror}") from error
    progress("")
    print(f"{done['users']} users read; {done['messages']} messages and {done['entries']} entries were new")
    return 0


def reindex(args: argparse.Namespace, loaded: LoadedConfig) -> int:
    """Embed everything anew with the configured embedder; begun again, it goes on where it was."""
    from lightmem_engine.reindex import reindex as run

    done = run(loaded.config, directory_of(loaded.config), lambda step: bar(step.done, step.total, "vectors"))
    print(f"{done.vectors} vectors computed; this memory is embedded by {done.embedder}")
    return 0


def _chunks(file: IO[bytes], total: int) -> Iterator[bytes]:
    done = 0
    while chunk := file.read(_CHUNK_BYTES):
        done += len(chunk)
        progress(f"{done / 2**20:.1f} of {total / 2**20:.1f} MiB read" if total else f"{done / 2**20:.1f} MiB read")
        yield chunk


def _line(memory: Hit | MemoryEntry) -> str:
    from lightmem_engine.prompts import v1

    return v1.memory_line(memory)
