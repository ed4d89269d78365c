"""Nouns as JSON and back, for both ends of the HTTP API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from lightmem_engine.errors import BackendUnavailable, InvalidInput, LightMemError
from lightmem_engine.types import (
    Hit,
    MemoryEntry,
    Message,
    OpenTurn,
    Scope,
    SleepBudget,
    SleepChange,
    SleepReport,
    SleepRun,
    TurnOptions,
)

# On the owner's socket alone.
TENANT_HEADER = "x-memory-tenant"
ADMIN_HEADER = "x-memory-admin"  # 0: the request is made for somebody who is no admin
JSON = dict[str, Any]


def hit_json(hit: Hit) -> JSON:
    """A hit; times in ISO 8601."""
    return {name: _iso(value) for name, value in asdict(hit).items()}


def hit_of(data: Mapping[str, Any]) -> Hit:
    """The hit of `hit_json`."""
    return Hit(**{**data, **_times(data, "event_time", "recorded_at"), "source_ids": tuple(data["source_ids"])})


def entry_json(entry: MemoryEntry) -> JSON:
    """An entry in one of its versions; times in ISO 8601. Whose it is, the request said."""
    return {
        "id": entry.id,
        "version": entry.version,
        "text": entry.text,
        "kind": entry.kind,
        "state": entry.state,
        "source_ids": list(entry.source_ids),
        "session_id": entry.session,
        "speaker": entry.speaker,
        "event_time": entry.event_time.isoformat(),
        "valid_to": _iso(entry.valid_to),
        "recorded_at": entry.recorded_at.isoformat(),
        "superseded_at": _iso(entry.superseded_at),
        "tags": list(entry.tags),
        "metadata": dict(entry.metadata),
    }


def entry_of(scope: Scope, data: Mapping[str, Any]) -> MemoryEntry:
    """The entry of `entry_json`."""
    times = _times(data, "event_time", "valid_to", "recorded_at", "superseded_at")
    rest = {name: data[name] for name in ("id", "version", "text", "kind", "state", "speaker", "metadata")}
    lists: JSON = {name: tuple(data[name]) for name in ("source_ids", "tags")}
    return MemoryEntry(scope=scope, session=data["session_id"], **rest, **lists, **times)


def message_json(message: Message) -> JSON:
    """A message as `POST /v1/memory/add` takes it."""
    given = {field.name: getattr(message, field.name) for field in fields(message)}
    given["timestamp"] = _iso(given["timestamp"])
    given["metadata"] = dict(message.metadata)
    return {name: value for name, value in given.items() if value is not None}


def options_json(options: TurnOptions) -> JSON:
    """What a chat turn asks of memory."""
    return asdict(options)


def turn_json(turn: OpenTurn) -> JSON:
    """A chat turn between its question and its answer."""
    return asdict(turn)


def turn_of(data: Mapping[str, Any]) -> OpenTurn:
    """The turn of `turn_json`."""
    return OpenTurn(**{**data, "messages": tuple(data["messages"]), "used": tuple(data["used"])})


def run_json(run: SleepRun) -> JSON:
    """A run of sleep and its counters; times in ISO 8601."""
    names = [field.name for field in fields(run) if field.name not in ("tenant", "user", "budget")]
    flat = {name: _iso(getattr(run, name)) for name in names}
    return {**flat, "user_id": run.user, "budget": asdict(run.budget)}


def run_of(tenant: str, data: Mapping[str, Any]) -> SleepRun:
    """The run of `run_json`."""
    rest = {name: value for name, value in data.items() if name not in ("user_id", "budget", "changes")}
    rest |= _times(data, "started_at", "ended_at")
    return SleepRun(tenant=tenant, user=data["user_id"], budget=SleepBudget(**data["budget"]), **rest)


def report_json(report: SleepReport) -> JSON:
    """A run with its changes."""
    changes = [asdict(change) for change in report.changes]
    for change in changes:
        change["user_id"] = change.pop("user")
    return {**run_json(report.run), "changes": changes}


def report_of(tenant: str, data: Mapping[str, Any]) -> SleepReport:
    """The report of `report_json`."""
    changes = []
    for change in data["changes"]:
        rest = {name: value for name, value in change.items() if name != "user_id"}
        changes.append(SleepChange(user=change["user_id"], **rest))
    return SleepReport(run_of(tenant, data), tuple(changes))


def error_of(code: str, message: str, status: int) -> LightMemError:
    """The exception behind an error answer; for a code that is not ours, the one its HTTP status suggests."""
    kind = _kinds(LightMemError).get(code)
    if kind is None:
        kind = InvalidInput if status < 500 else BackendUnavailable
    return kind(message)


def _kinds(root: type[LightMemError]) -> dict[str, type[LightMemError]]:
    """Every error by its code."""
    found = {root.code: root}
    for kind in root.__subclasses__():
        found |= _kinds(kind)
    return found


def _iso(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _times(data: Mapping[str, Any], *names: str) -> JSON:
    return {name: None if data[name] is None else datetime.fromisoformat(data[name]) for name in names}
