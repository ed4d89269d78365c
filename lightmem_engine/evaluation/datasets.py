"""Conversations with questions: LoCoMo, BEAM and LongMemEval files as one shape.

A file that does not hold what its format promises raises `InvalidInput` that says where. Nothing is repaired silently
except LoCoMo's malformed evidence lists, whose dead references are dropped.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lightmem_engine.errors import InvalidInput

LOCOMO_CATEGORIES = {1: "multi_hop", 2: "temporal", 3: "open_domain", 4: "single_hop", 5: "adversarial"}
BEAM_FACTS = frozenset(
    {
        "information_extraction",
        "knowledge_update",
        "contradiction_resolution",
        "multi_session_reasoning",
        "temporal_reasoning",
    }
)


@dataclass(frozen=True, slots=True)
class Utterance:
    """One message to feed; `id` is unique in its conversation, `name` is None where a role is all there is."""

    id: str
    role: str
    text: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """Messages of one sitting; `timestamp` is ISO 8601 without an offset, None where the file has none."""

    id: str
    timestamp: str | None
    messages: tuple[Utterance, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A question; `gold` are the ids of the messages that hold its answer, possibly none."""

    id: str
    text: str
    answer: str
    category: str
    gold: frozenset[str]
    asked_at: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """One user's history, and what is asked of it."""

    id: str
    sessions: tuple[Session, ...]
    questions: tuple[Question, ...]

    @property
    def messages(self) -> list[Utterance]:
        """All messages in order."""
        return [message for session in self.sessions for message in session.messages]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A file, read. headline: the categories of the main figures; budgets: tokens, in words and marks."""

    name: str
    conversations: tuple[Conversation, ...]
    headline: frozenset[str]
    budgets: tuple[int, ...]


def load(name: str, path: str | Path) -> Dataset:
    """Read a dataset by name: locomo, beam or longmemeval."""
    reader = _READERS.get(name)
    if reader is None:
        raise InvalidInput(f"no such dataset {name!r}, expected one of {', '.join(_READERS)}")
    try:
        return reader(read_json(Path(path)))
    except (KeyError, TypeError, AttributeError) as error:
        detail = f"missing {error}" if isinstance(error, KeyError) else str(error)
        raise InvalidInput(f"{path} is not a {name} file: {detail}") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file, gzipped or not."""
    try:
        raw = path.read_bytes()
        return json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    except (OSError, EOFError, ValueError) as error:
        raise InvalidInput(f"cannot read {path}: {error}") from error


def _locomo(data: Any) -> Dataset:
    conversations = tuple(_locomo_conversation(item, i) for i, item in enumerate(_list(data, "the file")))
    headline = frozenset(LOCOMO_CATEGORIES.values()) - {"adversarial"}
    return Dataset("locomo", _non_empty(conversations), headline, (512, 1024))


def _locomo_conversation(item: Mapping[str, Any], index: int) -> Conversation:
    where = str(item.get("sample_id", f"conversation {index}"))
    talk = item["conversation"]
    numbers = sorted(
        int(k.split("_")[1]) for k in talk if re.fullmatch(r"session_\d+", k) and isinstance(talk[k], list)
    )
    sessions = []
    for number in numbers:
        messages = tuple(_locomo_turn(turn, talk["speaker_a"]) for turn in talk[f"session_{number}"])
        date = talk.get(f"session_{number}_date_time", "")
        sessions.append(Session(str(number), _time(date, "%I:%M %p on %d %B, %Y", where), messages))
    known = _unique_ids(sessions, where)
    questions = [_locomo_question(q, i, where, known) for i, q in enumerate(item["qa"])]
    return Conversation(where, tuple(sessions), tuple(questions))


def _locomo_turn(turn: Mapping[str, Any], first_speaker: str) -> Utterance:
    """The photo's caption belongs to what was said."""
    caption = f" [shares a photo: {turn['blip_caption']}]" if turn.get("blip_caption") else ""
    role = "user" if turn["speaker"] == first_speaker else "assistant"
    return Utterance(turn["dia_id"], role, turn.get("text", "") + caption, turn["speaker"])


def _locomo_question(question: Mapping[str, Any], index: int, where: str, known: frozenset[str]) -> Question:
    category = LOCOMO_CATEGORIES.get(question["category"])
    if category is None:
        raise InvalidInput(f"{where}: question {index} has category {question['category']!r}, expected 1 to 5")
    gold = question.get("evidence_ids")
    if gold is None:
        gold = [f"D{a}:{b}" for text in question.get("evidence", []) for a, b in re.findall(r"D:?(\d+):0*(\d+)", text)]
    answer = question["answer"] if "answer" in question else question.get("adversarial_answer", "")
    qid = str(question.get("qid", f"{where}:q{index}"))
    return Question(qid, question["question"], str(answer), category, known.intersection(gold))


def _beam(data: Any) -> Dataset:
    conversations = tuple(_beam_chat(item) for item in _list(data, "the file"))
    headline = frozenset(q.category for c in conversations for q in c.questions)
    return Dataset("beam", _non_empty(conversations), headline, (2048, 4096))


def _beam_chat(item: Mapping[str, Any]) -> Conversation:
    where = f"chat {item['id']}"
    batches: dict[Any, list[Mapping[str, Any]]] = {}
    for message in item["messages"]:
        batches.setdefault(message["batch"], []).append(message)
    sessions, anchor = [], None
    for batch, messages in batches.items():
        anchor = next((m["time_anchor"] for m in messages if m.get("time_anchor")), anchor)
        utterances = tuple(Utterance(str(m["id"]), _role(m["role"], where), m["text"]) for m in messages)
        sessions.append(Session(str(batch), _time(anchor or "", "%B-%d-%Y", where), utterances))
    known = _unique_ids(sessions, where)
    questions = []
    for q in item["questions"]:
        gold = frozenset(map(str, q["evidence_ids"]))
        _require(gold <= known, f"{where}: {q['qid']} cites messages that do not exist")
        questions.append(Question(str(q["qid"]), q["question"], str(q["answer"]), q["ability"], gold))
    return Conversation(str(item["id"]), tuple(sessions), tuple(questions))


def _longmemeval(data: Any) -> Dataset:
    """The published list of questions, each with its own haystack, or haystacks shared by questions."""
    if isinstance(data, list):
        conversations = [_haystack(q["question_id"], _published_sessions(q), [q]) for q in data]
    else:
        asked: dict[str, list[Mapping[str, Any]]] = {}
        for question in data["questions"]:
            asked.setdefault(question["haystack"], []).append(question)
        conversations = [_haystack(name, data["haystacks"][name], questions) for name, questions in asked.items()]
    headline = frozenset(q.category for c in conversations for q in c.questions)
    return Dataset("longmemeval", _non_empty(tuple(conversations)), headline, (1024, 4096))


def _published_sessions(question: Mapping[str, Any]) -> list[dict[str, Any]]:
    where = question["question_id"]
    ids, dates, talks = (question[f"haystack_{key}"] for key in ("session_ids", "dates", "sessions"))
    _require(len(ids) == len(dates) == len(talks), f"{where}: sessions, ids and dates differ in number")
    sessions, seen = [], Counter[str]()
    for name, date, talk in zip(ids, dates, talks, strict=True):
        seen[name] += 1
        unique = name if seen[name] == 1 else f"{name}@{seen[name]}"
        turns = [{**turn, "turn_id": f"{unique}#{i}", "text": turn["content"]} for i, turn in enumerate(talk)]
        sessions.append({"session_id": unique, "date": date, "turns": turns})
    return sessions


def _haystack(name: str, talks: Sequence[Mapping[str, Any]], asked: Sequence[Mapping[str, Any]]) -> Conversation:
    sessions = []
    for talk in talks:
        turns = tuple(Utterance(t["turn_id"], _role(t["role"], name), t["text"]) for t in talk["turns"])
        timestamp = _time(re.sub(r"\s*\([^)]*\)", "", talk["date"]), "%Y/%m/%d %H:%M", name)
        sessions.append(Session(talk["session_id"], timestamp, turns))
    known = _unique_ids(sessions, name)
    marked = {t["turn_id"] for talk in talks for t in talk["turns"] if t.get("has_answer")}
    questions = []
    for q in asked:
        gold = frozenset(q.get("evidence_turn_ids", marked))
        _require(gold <= known, f"{name}: a question cites turns that do not exist")
        qid = str(q.get("qid", q.get("question_id")))
        questions.append(
            Question(qid, q["question"], str(q["answer"]), q["question_type"], gold, q.get("question_date"))
        )
    return Conversation(name, tuple(sessions), tuple(questions))


def _unique_ids(sessions: Sequence[Session], where: str) -> frozenset[str]:
    ids = [message.id for session in sessions for message in session.messages]
    _require(bool(ids), f"{where} has no messages")
    _require(len(set(ids)) == len(ids), f"{where}: two messages have the same id")
    return frozenset(ids)


def _time(text: str, form: str, where: str) -> str | None:
    if not text:
        return None
    try:
        return datetime.strptime(text.strip(), form).isoformat()
    except ValueError as error:
        raise InvalidInput(f"{where}: cannot read the date {text!r}") from error


def _role(role: str, where: str) -> str:
    _require(role in ("user", "assistant", "system"), f"{where}: unknown role {role!r}")
    return role


def _list(data: Any, what: str) -> list[Any]:
    _require(isinstance(data, list), f"{what} must hold a list")
    return list(data)


def _non_empty(conversations: tuple[Conversation, ...]) -> tuple[Conversation, ...]:
    _require(bool(conversations), "the file holds no conversation")
    return conversations


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InvalidInput(message)


_READERS: Mapping[str, Callable[[Any], Dataset]] = {"locomo": _locomo, "beam": _beam, "longmemeval": _longmemeval}
