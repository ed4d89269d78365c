"""Messages in, turns out: roles, speakers, ids and times checked and complete. Pure, apart from fresh ids."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from typing import get_args

from lightmem_engine.errors import InvalidInput
from lightmem_engine.sensory.timestamps import parse_time
from lightmem_engine.types import Message, Role, TurnDraft

ROLES: tuple[Role, ...] = get_args(Role)

_STEP = timedelta(milliseconds=1)
_MINUTE = timedelta(minutes=1)


def normalize(
    messages: Sequence[Message],
    *,
    timestamp: str | float | datetime | None,
    zone: tzinfo,
    last_event_time: datetime | None,
    now: datetime,
) -> list[TurnDraft]:
    """One draft per message, in order, roles in any alternation.

    A message's own time beats `timestamp` (the call's), which beats the last time that a message of this call gave for
    itself, which beats `now`. Times grow strictly from `last_event_time`
    (of the session so far) on: one that is not later than its predecessor is set 1 ms past it, in its own UTC offset.
    Where that would be another day than the message claims, the offset gives way, so that `.date()` stays the claimed
    day (as long as the two are less than a day apart). A message without id gets a fresh one; without a name, its role
    speaks.

    Raises:
        InvalidInput: naming the message's index and what is wrong with it.
    """
    last, drafts = last_event_time, list[TurnDraft]()
    now = now.astimezone(zone)
    for index, message in enumerate(messages):
        try:
            draft = _draft(message, timestamp, zone, last, now)
        except InvalidInput as error:
            raise InvalidInput(f"message {index}: {error}") from error
        drafts.append(draft)
        last = draft.event_time
        if message.timestamp is not None and timestamp is None:
            now = draft.event_time  # a reply without a time of its own was given in its question's time
    return drafts


def by_day(
    messages: Sequence[Message], *, timestamp: str | float | datetime | None, zone: tzinfo, now: datetime
) -> list[tuple[str, list[Message]]]:
    """Consecutive messages of one day together, each group under its day as the speaker would date it: `2023-05-08`.

    Raises `InvalidInput` as `normalize` does.
    """
    drafts = normalize(messages, timestamp=timestamp, zone=zone, last_event_time=None, now=now)
    days = [draft.event_time.date().isoformat() for draft in drafts]
    groups = itertools.groupby(zip(days, messages, strict=True), key=lambda pair: pair[0])
    return [(day, [message for _, message in group]) for day, group in groups]


def _draft(
    message: Message, timestamp: str | float | datetime | None, zone: tzinfo, last: datetime | None, now: datetime
) -> TurnDraft:
    role = _role(message.role)
    text = _text(message.content, "content")
    if not text.strip():
        raise InvalidInput("content is empty")
    given = next((value for value in (message.timestamp, timestamp) if value is not None), None)
    moment = parse_time(now if given is None else given, zone)
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
    """The moment itself if it is later than `last`, else 1 ms past it, shown on the moment's own day if that can be."""
    if moment > last:
        return moment
    try:
        later = (last.astimezone(UTC) + _STEP).astimezone(moment.tzinfo)
        return _on_day(later, moment.date())
    except OverflowError as error:
        raise InvalidInput("its session has reached the end of the calendar") from error


def _on_day(moment: datetime, day: date) -> datetime:
    """The same moment, its offset set back by the minutes that it lies past the day's end, if an offset can be that."""
    offset, midnight = moment.utcoffset(), datetime.combine(day, time(), moment.tzinfo) + timedelta(days=1)
    if offset is None or moment < midnight:
        return moment
    shifted = offset - ((moment - midnight) // _MINUTE + 1) * _MINUTE
    return moment.astimezone(timezone(shifted)) if shifted > -timedelta(days=1) else moment
