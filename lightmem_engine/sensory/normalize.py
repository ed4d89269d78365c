"""Messages in, turns out: roles, speakers, ids and times checked and complete. Pure, apart from fresh ids."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import get_args

from lightmem_engine.errors import InvalidInput
from lightmem_engine.sensory.timestamps import parse_time
from lightmem_engine.types import Message, Role, TurnDraft

ROLES: tuple[Role, ...] = get_args(Role)

_STEP = timedelta(milliseconds=1)


def normalize(
    messages: Sequence[Message],
    *,
    timestamp: str | float | datetime | None,
    zone: tzinfo,
    last_event_time: datetime | None,
    now: datetime,
) -> list[TurnDraft]:
    """One draft per message, in order, roles in any alternation.

    A message's own time beats `timestamp` (the call's), which beats `now`. Times grow strictly from `last_event_time`
    (of the session so far) on: one that is not later than its predecessor is set 1 ms past it, in its own UTC offset, or
    1 µs where the millisecond would slip into another day. A message claiming an earlier day than its predecessor's is
    therefore dated by its place in the session. A message without id gets a fresh one; without a name, its role speaks.

    Raises:
        InvalidInput: naming the message's index and what is wrong with it.
    """
    last, drafts = last_event_time, []
    for index, message in enumerate(messages):
        try:
            draft = _draft(message, timestamp, zone, last, now)
        except InvalidInput as error:
            raise InvalidInput(f"message {index}: {error}") from error
        drafts.append(draft)
        last = draft.event_time
    return drafts


def _draft(
    message: Message, timestamp: str | float | datetime | None, zone: tzinfo, last: datetime | None, now: datetime
) -> TurnDraft:
    role = _role(message.role)
    text = _text(message.content, "content")
    if not text.strip():
        raise InvalidInput("content is empty")
    given = next((value for value in (message.timestamp, timestamp) if value is not None), None)
    moment = parse_time(now.astimezone(zone) if given is None else given, zone)
    if not isinstance(message.metadata, Mapping):
        raise InvalidInput(f"metadata must be a mapping, not {type(message.metadata).__name__}")
    return TurnDraft(
        id=_id(message.id),
        role=role,
        speaker=_speaker(message.name, role),
        text=text,
        event_time=moment if last is None else _after(moment, last),
        metadata=dict(message.metadata),
    )


def _role(value: object) -> Role:
    if value is None or value == "":
        raise InvalidInput("role is missing")
    for role in ROLES:
        if value == role:
            return role
    raise InvalidInput(f"role must be one of {', '.join(ROLES)}, not {value!r}")


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"{what} must be a text, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{what} holds half a character pair at {error.start} and cannot be stored") from error
    return value


def _id(value: object) -> str:
    if value is None:
        return uuid.uuid4().hex
    text = _text(value, "id")
    if not text.strip():
        raise InvalidInput("id is empty")
    return text


def _speaker(value: object, role: Role) -> str:
    return (_text(value, "name").strip() if value is not None else "") or role


def _after(moment: datetime, last: datetime) -> datetime:
    """The moment itself if it is later than `last`, else just past it, on the moment's own day if that still can be."""
    if moment > last:
        return moment
    try:
        whole = last.astimezone(UTC).replace(microsecond=last.microsecond // 1000 * 1000) + _STEP
        later = whole.astimezone(moment.tzinfo)
        if later.date() != moment.date():
            finer = last.astimezone(moment.tzinfo) + timedelta(microseconds=1)
            later = finer if finer.date() == moment.date() else later
    except OverflowError as error:
        raise InvalidInput("its session has reached the end of the calendar") from error
    return later
