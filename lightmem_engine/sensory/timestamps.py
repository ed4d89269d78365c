"""When something was said: every accepted spelling of a moment, as one aware datetime. Pure."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timezone, tzinfo

from lightmem_engine.errors import InvalidInput

# 2023/05/20 (Sat) 02:21, with - for /, and without weekday, time or seconds.
_CALENDAR = re.compile(
    r"(\d{4})[/-](\d{1,2})[/-](\d{1,2})(?:\s*\([^\W\d_]+\.?\))?(?:[ T]+(\d{1,2}):(\d{2})(?::(\d{2}))?)?"
)
# 1:56 pm on 8 May, 2023; 8 May 2023
_CLOCK_ON_DAY = re.compile(
    r"(?:(\d{1,2}):(\d{2})\s*([ap])\.?m\.?\s+on\s+)?(\d{1,2})[ -]([a-z]{3,9})\.?,?[ -](\d{4})", re.IGNORECASE
)
# March 15, 2024; March-15-2024
_MONTH_FIRST = re.compile(r"([a-z]{3,9})\.?[ -](\d{1,2}),?[ -](\d{4})", re.IGNORECASE)
_MAX_TEXT = 60
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]


def parse_time(value: object, zone: tzinfo) -> datetime:
    """The moment `value` names, at millisecond resolution, with a fixed UTC offset.

    Accepted: an ISO 8601 text (date only, `Z`, offsets, fractions); `2023/05/20 (Sat) 02:21[:30]`, with `-` and without
    weekday or time; `1:56 pm on 8 May, 2023`, `8 May 2023`, `March 15, 2024`; Unix seconds; a datetime. What names no
    offset is meant in `zone`; a given offset is kept, so that `.date()` is the speaker's day. Unix seconds are shown in
    `zone`.

    Raises:
        InvalidInput: it is none of these, or no moment between the years 1 and 9999.
    """
    try:
        if isinstance(value, datetime):
            moment = value
        elif isinstance(value, str):
            moment = _from_text(value.strip())
        elif isinstance(value, int | float) and not isinstance(value, bool):
            moment = _from_seconds(value, zone)
        else:
            raise InvalidInput(f"a time must be a text, Unix seconds or a datetime, not {type(value).__name__}")
        return _pinned(moment if moment.tzinfo else moment.replace(tzinfo=zone))
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidInput(f"{_shown(value)} is not a time: {error}") from error


def _from_seconds(value: float, zone: tzinfo) -> datetime:
    if not math.isfinite(value):
        raise ValueError("not a finite number of seconds")
    return datetime.fromtimestamp(value, UTC).astimezone(zone)


def _from_text(text: str) -> datetime:
    if match := _CALENDAR.fullmatch(text):
        year, month, day, at_hour, at_minute, second = (int(part or 0) for part in match.groups())
        return datetime(year, month, day, at_hour, at_minute, second)
    if match := _CLOCK_ON_DAY.fullmatch(text):
        hour, minute, half, day_text, name, year_text = match.groups("")
        if hour and not 1 <= int(hour) <= 12:
            raise ValueError("the hour of a 12-hour clock is 1 to 12")
        at = (int(hour) % 12 if hour else 0) + (12 if half.lower() == "p" else 0)
        return datetime(int(year_text), _month(name), int(day_text), at, int(minute or 0))
    if match := _MONTH_FIRST.fullmatch(text):
        name, day_text, year_text = match.groups()
        return datetime(int(year_text), _month(name), int(day_text))
    if len(text) > _MAX_TEXT:
        raise ValueError("too long")
    return datetime.fromisoformat(text)


def _month(name: str) -> int:
    if name[:3].lower() not in _MONTHS:
        raise ValueError(f"there is no month {name!r}")
    return _MONTHS.index(name[:3].lower()) + 1


def _pinned(moment: datetime) -> datetime:
    """With the zone's offset of that moment: comparing two times of one zone would ignore its clock changes."""
    offset = moment.utcoffset()
    if offset is None:
        raise ValueError("its time zone does not say how far it is from UTC")
    moment.astimezone(UTC)  # refuses what leaves the calendar at either end
    return moment.replace(tzinfo=timezone(offset), microsecond=moment.microsecond // 1000 * 1000, fold=0)


def _shown(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number that large"
    text = repr(value)
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 3] + "..."
