"""Reading the published files, and refusing what only looks like them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightmem_engine.errors import InvalidInput
from lightmem_engine.evaluation.datasets import load
from tests.evaluation import samples
from tests.reference import dataset_path, load_evalkit


def test_locomo(tmp_path: Path) -> None:
    dataset = load("locomo", samples.write(tmp_path, samples.LOCOMO))
    (talk,) = dataset.conversations
    assert [session.id for session in talk.sessions] == ["1", "2"]
    assert talk.sessions[0].timestamp == "2022-05-08T13:56:00"
    assert [(m.id, m.role, m.name) for m in talk.sessions[0].messages][:2] == [
        ("D1:1", "user", "Nora"),
        ("D1:2", "assistant", "Emil"),
    ]
    assert talk.messages[1].text == "Nice, look: [shares a photo: a glazed blue bowl]"
    assert [q.gold for q in talk.questions] == [{"D1:1"}, {"D2:1"}, {"D1:1", "D2:2"}, set(), {"D2:1"}]
    assert [q.category for q in talk.questions][:3] == ["temporal", "single_hop", "multi_hop"]
    assert talk.questions[3].answer == "3"
    assert talk.questions[4].answer == "Biscuit"
    assert "adversarial" not in dataset.headline


def test_beam_gzipped(tmp_path: Path) -> None:
    dataset = load("beam", samples.write(tmp_path, samples.BEAM, "data.json.gz"))
    (chat,) = dataset.conversations
    assert [(s.id, s.timestamp, len(s.messages)) for s in chat.sessions] == [
        ("1", "2024-03-15T00:00:00", 2),
        ("2", "2024-03-15T00:00:00", 1),
    ]
    assert chat.questions[0].gold == {"2"}
    assert dataset.budgets == (2048, 4096)


def test_longmemeval_as_published(tmp_path: Path) -> None:
    (haystack,) = load("longmemeval", samples.write(tmp_path, samples.LONGMEMEVAL_PUBLISHED)).conversations
    assert [m.id for m in haystack.messages] == ["s1#0", "s1#1", "s1@2#0"]
    assert haystack.sessions[1].timestamp == "2023-07-13T11:00:00"
    assert haystack.questions[0].gold == {"s1#0"}
    assert haystack.questions[0].asked_at == "2023/12/18 (Mon) 04:17"


def test_longmemeval_with_shared_haystacks(tmp_path: Path) -> None:
    (haystack,) = load("longmemeval", samples.write(tmp_path, samples.LONGMEMEVAL_SHARED)).conversations
    assert haystack.questions[0].gold == {"s1#0"}


def change(data: Any, edit: Callable[[Any], object]) -> Any:
    data = copy.deepcopy(data)
    edit(data)
    return data


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("locomo", {"a": 1}, "must hold a list"),
        ("locomo", [], "no conversation"),
        ("locomo", [{"qa": []}], "missing 'conversation'"),
        ("locomo", [3], "not a locomo file"),
        ("locomo", change(samples.LOCOMO, lambda d: d[0]["qa"][0].update(category=9)), "category 9"),
        (
            "locomo",
            change(samples.LOCOMO, lambda d: d[0]["conversation"].update(session_1_date_time="soon")),
            "cannot read the date 'soon'",
        ),
        (
            "locomo",
            change(samples.LOCOMO, lambda d: d[0]["conversation"]["session_1"][0].update(dia_id="D1:2")),
            "same id",
        ),
        ("beam", change(samples.BEAM, lambda d: d[0]["questions"][0].update(evidence_ids=[99])), "do not exist"),
        ("beam", change(samples.BEAM, lambda d: d[0]["messages"][0].update(role="robot")), "unknown role 'robot'"),
        ("beam", change(samples.BEAM, lambda d: d[0].update(messages=[])), "no messages"),
        (
            "longmemeval",
            change(samples.LONGMEMEVAL_PUBLISHED, lambda d: d[0]["haystack_dates"].pop()),
            "differ in number",
        ),
        ("nothing", [], "no such dataset"),
    ],
)
def test_refuses(tmp_path: Path, name: str, data: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        load(name, samples.write(tmp_path, data))


@pytest.mark.parametrize("name", ["missing.json", "broken.json", "broken.json.gz"])
def test_refuses_unreadable_files(tmp_path: Path, name: str) -> None:
    if name.startswith("broken"):
        (tmp_path / name).write_bytes(b"{not json")
    with pytest.raises(InvalidInput, match="cannot read"):
        load("locomo", tmp_path / name)


def test_the_development_files_feed_as_the_reference_does() -> None:
    evalkit = load_evalkit()
    path = dataset_path("locomo_dev.json")
    raw = evalkit.load(str(path))
    dataset = load("locomo", path)
    for conversation, item in zip(dataset.conversations, raw, strict=True):
        expected = [(turn["id"], turn["speaker"], turn["text"]) for turn in evalkit.locomo_turns(item)]
        assert [(m.id, m.name, m.text) for m in conversation.messages] == expected
        kept = [q.gold for q in conversation.questions if q.category in dataset.headline and q.gold]
        assert kept == [set(q["evidence_ids"]) for q in item["qa"] if q["category"] != 5 and q["evidence_ids"]]


@pytest.mark.parametrize(
    ("name", "file", "conversations", "questions"),
    [("beam", "beam100k_dev.json.gz", 10, 200), ("longmemeval", "longmemeval_sample_dev.json.gz", 2, 10)],
)
def test_the_other_development_files_load(name: str, file: str, conversations: int, questions: int) -> None:
    dataset = load(name, dataset_path(file))
    assert len(dataset.conversations) == conversations
    assert sum(len(c.questions) for c in dataset.conversations) == questions
