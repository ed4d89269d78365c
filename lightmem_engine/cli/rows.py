"""Messages from a JSONL file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from lightmem_engine.errors import InvalidInput
from lightmem_engine.messages import as_messages
from lightmem_engine.types import Message

ADD_BATCH = 200


def read_messages(file: str, session: str | None = None) -> Iterator[Message]:
    """Messages of a JSONL file, or of standard input for `-`; `InvalidInput` names the line.

    A line without an id gets one made of its session, what it says and how often it was said before, so that a second
    reading yields the same messages.
    """
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


def batches(messages: Iterable[Message]) -> Iterator[list[Message]]:
    """The messages, a few hundred at a time."""
    batch: list[Message] = []
    for message in messages:
        batch.append(message)
        if len(batch) == ADD_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
