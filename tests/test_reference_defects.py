"""Correctness defects of the reference implementation, and that this engine does not have them.

Each `row_n` shows the absence of defect n of the catalogue, through the public face: what went wrong there is the first
line of the test. Rows 3 to 7 are also tested against the extractor alone in `tests/short_term/test_extract.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lightmem_engine.config import EngineConfig, replace
from lightmem_engine.errors import BackendUnavailable, InvalidInput, ModelError
from lightmem_engine.memory import AsyncMemory, Memory
from lightmem_engine.models.stub_encoder import StubClassifier
from lightmem_engine.types import Scope, Window, WindowScores
from tests.models.chat_server import Script, running
from tests.support.memory import (
    assistant,
    eventually,
    everything,
    facts,
    fail_at_poison,
    quick_config,
    source_ids,
    use_model,
    user,
)

LLM = {"extract.mode": "llm", "lm.backend": "stub"}


async def test_row_1_a_forced_flush_keeps_the_segments_it_has_just_made(tmp_path: Path) -> None:
    """Defect: forcing the last segment overwrote the segments that the same call had produced."""
    topics = ["kayak river paddle", "tax form office", "parrot cage seeds", "violin bow strings", "bread oven flour"]
    messages = [user(f"{topic} {topic} number {n}", id=f"m{n}") for n, topic in enumerate(topics)]
    async with AsyncMemory(quick_config(tmp_path, **{"segment.lookahead": 1})) as memory:
        await memory.add(messages, user_id="ann", session_id="s", wait=True)
        assert source_ids(await everything(memory)) == [f"m{n}" for n in range(5)]
        segments = await memory.engine.segments(Scope("ann"), "s")
        assert [id for segment in segments for id in segment] == [f"m{n}" for n in range(5)]
        assert {hit.state for hit in await everything(memory)} == {"active"}


async def test_row_2_flush_needs_nothing_new(tmp_path: Path) -> None:
    """Defect: there was no flush without a new message, and with an empty buffer it returned before extracting."""
    async with AsyncMemory(quick_config(tmp_path, **{"short_term.idle_seconds": 0.02})) as memory:
        assert (await memory.flush())["pending"] == 0
        assert (await memory.flush(user_id="nobody"))["messages"] == 0
        await memory.add(user("The parrot is called Zazu."), user_id="ann")
        stats = await memory.flush(user_id="ann")
        assert (stats["entries"], stats["pending"]) == (1, 0)
        assert (await memory.flush(user_id="ann"))["entries"] == 1


async def test_row_2_flush_extracts_segments_that_are_closed_but_wait_for_more(tmp_path: Path) -> None:
    """Defect: nothing in the sensory buffer meant that the short-term buffer was not extracted."""
    config = quick_config(tmp_path, **{"segment.lookahead": 1, "segment.max_tokens": 64, "short_term.threshold": 10**6})
    async with AsyncMemory(config) as memory:
        words = " ".join(f"word{n}" for n in range(60))
        await memory.add([user(f"{words} {n}", id=f"m{n}") for n in range(6)], user_id="ann", session_id="s")

        async def some_closed() -> bool:
            return len(await memory.engine.segments(Scope("ann"), "s")) >= 2

        await eventually(some_closed)
        assert (await memory.stats())["entries"] == 0
        assert (await memory.flush())["pending"] == 0
        assert source_ids(await everything(memory)) == [f"m{n}" for n in range(6)]


async def test_row_2_an_oversize_last_message_is_not_lost(tmp_path: Path) -> None:
    """Defect: a message beyond the buffer's size was dropped, and the flush that came with it did nothing."""
    long = " ".join(f"Sentence {n} of the long letter is about parcel {n}." for n in range(2000))
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        await memory.add([user("short", id="m1"), user(long, id="m2")], user_id="ann", wait=True)
        assert source_ids(await everything(memory)) == ["m1", "m2"]
        hits = await memory.search("letter about parcel 1999", user_id="ann", top_k=1)
        assert "1999" in hits[0].text


async def test_row_3_a_failing_model_leaves_work_pending_and_names_the_cause(tmp_path: Path) -> None:
    """Defect: the batch had left the buffers before the call failed, and an AttributeError hid the cause."""
    with running(Script(status=503, body={"error": {"message": "the model is being loaded"}})) as script:
        options = {"extract.mode": "llm", "lm.url": script.url, "runtime.max_attempts": 1}
        async with AsyncMemory(quick_config(tmp_path, **options)) as memory:
            await memory.add(user("The parrot is called Zazu.", id="m1"), user_id="ann")
            for _ in range(2):
                with pytest.raises(BackendUnavailable, match="503: the model is being loaded"):
                    await memory.flush(user_id="ann")
            stats = await memory.stats(user_id="ann")
            assert (stats["pending"], stats["entries"], stats["parked"]) == (1, 0, [])
            assert source_ids(await memory.search("parrot", user_id="ann")) == ["m1"]
            script.status = 200
            script.answer(facts((1, "Ann's parrot is called Zazu.")))
            assert isinstance(script.body, dict)
            del script.body["usage"]  # the reference stumbled over an answer without usage
            await eventually(lambda: _is_through(memory))
            assert [(hit.text, hit.source_ids) for hit in await everything(memory)] == [
                ("Ann's parrot is called Zazu.", ("m1",))
            ]


async def test_row_3_what_a_failing_model_left_is_done_after_a_restart(tmp_path: Path) -> None:
    """Defect: no retry; what failed once was gone."""
    with running(Script(status=500, body={})) as script:
        config = quick_config(tmp_path, **{"extract.mode": "llm", "lm.url": script.url})
        async with AsyncMemory(config) as memory:
            await memory.add(user("The parrot is called Zazu.", id="m1"), user_id="ann")
            with pytest.raises(BackendUnavailable):
                await memory.flush()
        script.status = 200
        script.answer(facts((1, "Ann's parrot is called Zazu.")))
        async with AsyncMemory(config) as memory:
            assert (await memory.flush())["pending"] == 0
            assert source_ids(await everything(memory)) == ["m1"]


@pytest.mark.parametrize(
    "bad",
    ["no json", "[]", '{"facts": ["text"]}', '{"facts": [{"fact": "no source"}]}', facts(("1", "x")), facts((1, {}))],
)
async def test_row_4_only_what_no_answer_fits_is_parked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    """Defect: bad JSON lost its whole batch in silence; a fact without an integer source aborted the call."""

    def answer(asked: str) -> str:
        lines = [] if "poison" in asked else re.findall(r"^(\d+) (.+)$", asked, re.MULTILINE)
        return bad if "poison" in asked else facts(*((int(ordinal), text) for ordinal, text in lines))

    model = use_model(monkeypatch, answer)
    async with AsyncMemory(quick_config(tmp_path, **LLM)) as memory:
        for n in range(6):
            said = user("the poison cup" if n == 3 else f"parcel number {n}", id=f"m{n}")
            await memory.add(said, user_id="ann", session_id=f"s{n}")
        stats = await memory.flush(user_id="ann")
        active = [hit for hit in await everything(memory) if hit.state == "active"]
        assert sorted(source_ids(active)) == ["m0", "m1", "m2", "m4", "m5"]
        (parked,) = stats["parked"]
        assert (stats["pending"], parked["stage"], parked["user_id"]) == (0, "extract", "ann")
        assert parked["error"].startswith("ModelError")
        (hit,) = await memory.search("poison cup", user_id="ann", top_k=1)
        assert (hit.source_ids, hit.state) == (("m3",), "pending")
        assert sum("cannot be used" in asked for asked in model.asked) >= 1


async def test_row_4_one_repair_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect: no second attempt at a malformed answer."""
    model = use_model(monkeypatch, lambda asked: facts((1, "Zazu.")) if "cannot be used" in asked else "{")
    async with AsyncMemory(quick_config(tmp_path, **LLM)) as memory:
        await memory.add(user("The parrot is called Zazu."), user_id="ann", wait=True)
        stats = await memory.stats()
        assert (stats["entries"], stats["parked"], stats["usage"]["extract"]["calls"]) == (1, [], 2)
        assert len(model.asked) == 2


@pytest.mark.parametrize("threshold", [0, 12, 10**6])
async def test_row_5_batches_keep_to_their_own_messages(tmp_path: Path, threshold: int) -> None:
    """Defect: ids were numbered over all batches and clamped per batch, so later ones got the first one's topic."""
    async with AsyncMemory(quick_config(tmp_path, **LLM, **{"short_term.threshold": threshold})) as memory:
        for n in range(8):
            silent = {"role": "system", "content": "be kind", "id": f"system{n}"}  # its batch would be empty
            await memory.add([silent, user(f"parcel{n} weighs much", id=f"m{n}")], user_id="ann", session_id=f"s{n}")
        assert (await memory.flush())["parked"] == []
        for hit in await everything(memory):
            (number,) = re.findall(r"parcel(\d)", hit.text)
            assert hit.source_ids == (f"m{number}",)
        assert len(await everything(memory)) == 8


async def test_row_6_a_source_that_does_not_exist_makes_no_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect: an invented id was clamped for the topic and looked up as it was for the time: "None None fact"."""
    use_model(monkeypatch, lambda _: facts((1, "True."), (99, "Invented."), (0, "None."), (-1, "Negative.")))
    async with AsyncMemory(quick_config(tmp_path, **LLM)) as memory:
        await memory.add(user("Something true.", id="m1"), user_id="ann", timestamp="2023-05-08T10:00:00Z", wait=True)
        (hit,) = await everything(memory)
        assert (hit.text, hit.source_ids, hit.event_time.year) == ("True.", ("m1",), 2023)
        assert (await memory.stats())["parked"] == []


ALTERNATIONS = ["uuuu", "aaaa", "uaua", "auau", "uuaa", "auuua", "usutu", "u"]


@pytest.mark.parametrize("roles", ALTERNATIONS)
@pytest.mark.parametrize("mode", ["llm", "extractive"])
async def test_row_7_any_alternation_keeps_id_time_and_speaker(tmp_path: Path, roles: str, mode: str) -> None:
    """Defect: ids assumed strict alternation; in a user-only stream two messages shared one id, time and speaker."""
    names = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    messages = [
        {
            "role": names[role],
            "content": f"parcel{n} weighs much",
            "id": f"m{n}",
            "name": f"{names[role]}{n}",
            "timestamp": f"2023-05-0{n + 1}T10:00:00Z",
        }
        for n, role in enumerate(roles)
    ]
    async with AsyncMemory(quick_config(tmp_path, **{**LLM, "extract.mode": mode})) as memory:
        await memory.add(messages, user_id="ann", wait=True)
        found = await everything(memory)
        assert source_ids(found) == [f"m{n}" for n, role in enumerate(roles) if role in "ua"]
        for hit in found:
            n = int(hit.source_ids[0][1:])
            assert f"parcel{n}" in hit.text
            assert (hit.event_time.day, hit.speaker) == (n + 1, f"{names[roles[n]]}{n}")


@pytest.mark.parametrize("mode", ["llm", "extractive"])
async def test_row_8_time_goes_on_across_extractions(tmp_path: Path, mode: str) -> None:
    """Defect: time stamps began anew at each extraction, so the order within a session was lost."""
    config = quick_config(tmp_path, **{**LLM, "extract.mode": mode})
    for part in range(3):
        async with AsyncMemory(config) as memory:  # a restart in between changes nothing
            for n in range(3):
                said = [user(f"parcel{3 * part + n} left"), assistant(f"noted {3 * part + n}")]
                await memory.add(said, user_id="ann", session_id="s", timestamp="2023-05-08T10:00:00Z")
            await memory.flush()
    async with AsyncMemory(config) as memory:
        found = await everything(memory)
    assert len(found) == 18
    assert all(a.event_time < b.event_time for a, b in itertools.pairwise(found))
    numbers = [int(number) for hit in found for number in re.findall(r"parcel(\d+)", hit.text)]
    assert numbers == sorted(numbers)
    assert found[-1].event_time - found[0].event_time < timedelta(seconds=1)


async def test_row_12_what_fails_in_a_worker_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect: results of the thread pool were never read, so a failed update counted as a success."""
    fail_at_poison(monkeypatch, RuntimeError("the device fell over"))
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        await memory.add([user("the poison cup", id="m1"), user("a parrot", id="m2")], user_id="ann")
        stats = await memory.flush()
        (parked,) = stats["parked"]
        assert "the device fell over" in parked["error"]
        assert "RuntimeError" in parked["error"]
        assert (parked["stage"], parked["attempts"], stats["entries"]) == ("sense", 3, 1)
        with pytest.raises(ModelError, match="the device fell over"):
            await memory.search("a question with poison", user_id="ann")
        assert source_ids(await memory.search("cup", user_id="ann", top_k=1)) == ["m1"]


@pytest.mark.parametrize("flushed", [False, True], ids=["pending", "active"])
@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"price": {"gt": 30}}, {4, 5}),
        ({"price": {"gte": 30}}, {3, 4, 5}),
        ({"price": {"lt": 20}}, {1}),
        ({"price": {"lte": 20}}, {1, 2}),
        ({"price": {"gt": 10, "lt": 50}}, {2, 3, 4}),
        ({"price": {"in": [10, 50]}}, {1, 5}),
        ({"price": {"nin": [10, 50]}}, {2, 3, 4}),
        ({"price": {"ne": 30}}, {1, 2, 4, 5}),
        ({"price": 40}, {4}),
        ({"event_time": {"gt": "2023-05-03T00:00:00Z", "lt": "2023-05-05T00:00:00Z"}}, {3, 4}),
        ({"NOT": {"price": {"gt": 20}}}, {1, 2}),
        ({"OR": [{"price": {"lt": 20}}, {"price": {"gt": 40}}]}, {1, 5}),
        ({"price": {"gt": 1000}}, set()),
    ],
)
async def test_row_13_comparisons_in_filters_count(
    tmp_path: Path, flushed: bool, filters: dict[str, Any], expected: set[int]
) -> None:
    """Defect: the store dropped gt and lt, so every row matched."""
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        for n in range(1, 6):
            said = user(f"parcel {n}", id=f"m{n}", metadata={"price": 10 * n}, timestamp=f"2023-05-0{n}T10:00:00Z")
            await memory.add(said, user_id="ann")
        if flushed:
            await memory.flush()
        hits = await memory.search("parcel", user_id="ann", filters=filters)
        assert set(source_ids(hits)) == {f"m{n}" for n in expected}


async def test_row_13_a_comparison_that_is_not_known_is_an_error(tmp_path: Path) -> None:
    """Defect: what a filter did not understand it left out."""
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        await memory.add(user("parcel"), user_id="ann")
        with pytest.raises(InvalidInput, match="near"):
            await memory.search("parcel", user_id="ann", filters={"price": {"near": 3}})


async def test_row_15_opening_a_memory_never_empties_it(tmp_path: Path) -> None:
    """Defect: unless told otherwise, the store deleted its directory at every start."""
    config = quick_config(tmp_path)
    for n in range(3):
        async with AsyncMemory(config) as memory:
            assert (await memory.stats())["messages"] == n
            await memory.add(user(f"parcel {n}", id=f"m{n}"), user_id="ann", wait=n == 1)
    other = replace(config, **{"search.index_strategy": "context", "compress.rate": 1.0})
    for options in (config, other, config):
        async with AsyncMemory(options) as memory:
            assert sorted(source_ids(await memory.search("parcel", user_id="ann"))) == ["m0", "m1", "m2"]


def test_row_16_nothing_needs_to_be_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect: the default configuration of the store was rejected, although a default path exists."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with Memory() as memory:
        memory.add(user("My sister lives in Lisbon.", id="m1"), user_id="ann", wait=True)
        assert source_ids(memory.search("Where does my sister live?", user_id="ann")) == ["m1"]
    assert (tmp_path / "lightmem-engine" / "memory.db").stat().st_mode & 0o077 == 0


async def test_row_17_one_failing_message_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect: an error in compression ended the loop over messages; the rest stayed as it was or got lost."""

    def score(self: StubClassifier, windows: Sequence[Window]) -> list[WindowScores]:
        if any("poison" in text for window in windows for text in window.texts[window.num_context :]):
            raise ValueError("cannot be scored")
        return plain(self, windows)

    plain = StubClassifier.score
    monkeypatch.setattr(StubClassifier, "score", score)
    texts = [f"the parcel number {n} was sent on its way to the coast" for n in range(20)]
    texts[4] = "the poison cup"
    async with AsyncMemory(quick_config(tmp_path, **{"compress.rate": 0.5, "compress.whole_words": 0})) as memory:
        await memory.add([user(text, id=f"m{n}") for n, text in enumerate(texts)], user_id="ann", wait=True)
        active = [hit for hit in await everything(memory) if hit.state == "active"]
        assert source_ids(active) == [f"m{n}" for n in range(20) if n != 4]
        assert all(len(hit.text) < len(f"user: {texts[0]}") for hit in active), "the rest is compressed as well"
        assert [parked["error"] for parked in (await memory.stats())["parked"]] == [
            "ModelError: classify: ValueError: cannot be scored (from ValueError)"
        ]


@pytest.mark.parametrize("stub", [True, False], ids=["stub", "packaged encoder"])
async def test_row_17_rate_1_ends_and_keeps_every_word(tmp_path: Path, stub: bool) -> None:
    """Defect: rate 1.0 with 512 tokens or more looped for ever."""
    text = " ".join(f"Word number {n} stays." for n in range(400))
    options = {"compress.rate": 1.0} | ({} if stub else {"embedder.stub": False, "classifier.source": "saliency"})
    async with AsyncMemory(quick_config(tmp_path, **options)) as memory:
        await asyncio.wait_for(memory.add(user(text), user_id="ann", wait=True), 60)
        kept = " ".join(hit.text.removeprefix("user: ") for hit in await everything(memory))
        assert kept.split() == text.split()


UNREADABLE = [
    "🦄🦄🦄",
    "🤷",
    "᚛᚛ᚁᚂᚃ᚜",
    "\u200b.\u200b",
    "-----",
    "???",
    "[UNK] [PAD] [CLS]",
    "\U0001f9ec" * 700,
    "ſ" * 3000,
]


@pytest.mark.parametrize("rate", [0.3, 1.0])
async def test_row_18_text_that_no_vocabulary_knows_is_kept(tmp_path: Path, rate: float) -> None:
    """Defect: a text of unknown tokens only ended in an IndexError, and its item was dropped."""
    messages = [user(text, id=f"m{n}") for n, text in enumerate(UNREADABLE)]
    async with AsyncMemory(replace(EngineConfig(data_dir=str(tmp_path)), **{"compress.rate": rate})) as memory:
        await memory.add(messages, user_id="ann")
        stats = await memory.flush()
        assert (stats["parked"], stats["pending"]) == ([], 0)
        found = await everything(memory)
        assert source_ids(found) == [f"m{n}" for n in range(len(UNREADABLE))]
        assert all(hit.text.removeprefix("user: ").strip() for hit in found)
        assert await memory.search("🦄", user_id="ann")


@pytest.mark.parametrize("mode", ["llm", "extractive"])
async def test_row_19_the_assistant_alone_is_remembered(tmp_path: Path, mode: str) -> None:
    """Defect: a buffer of assistant messages only was cleared without being emitted."""
    config = quick_config(tmp_path, **{**LLM, "extract.mode": mode})
    said = [assistant(f"I recommend the hotel number {n}.", id=f"m{n}") for n in range(5)]
    async with AsyncMemory(config) as memory:
        await memory.add(said, user_id="ann", session_id="s", wait=True)
        assert source_ids(await everything(memory)) == [f"m{n}" for n in range(5)]
        hits = await memory.search("Which hotel did you recommend, number 3?", user_id="ann", top_k=1)
        assert hits[0].source_ids == ("m3",)
        assert hits[0].speaker == "assistant"


KAYAK = [
    "I went kayaking on the river with my new paddle",
    "The kayak glided well on the river although the current was strong",
    "My paddle broke on the river, so the kayak drifted",
    "Next time on the river I take a spare paddle for the kayak",
]
TAXES = [
    "My income tax return is due at the tax office in July",
    "The tax office wants my income statement for the tax return",
    "I can deduct the home office from my income tax this year",
    "The tax adviser files the income tax return for me",
]


@pytest.mark.parametrize("rate", [1.0, 0.6])
async def test_row_20_topics_are_told_apart_however_compression_is_set(tmp_path: Path, rate: float) -> None:
    """Defect: segmentation without compression, or with its default options, ended in an AttributeError or KeyError."""
    messages = [
        message
        for n, text in enumerate(KAYAK + TAXES)
        for message in (user(text, id=f"u{n}"), assistant(f"I see: {text.lower()}.", id=f"a{n}"))
    ]
    async with AsyncMemory(replace(EngineConfig(data_dir=str(tmp_path)), **{"compress.rate": rate})) as memory:
        await memory.add(messages, user_id="ann", session_id="s", wait=True)
        segments = await memory.engine.segments(Scope("ann"), "s")
        assert [id for segment in segments for id in segment] == [message["id"] for message in messages]
        assert segments[0] == [id for n in range(4) for id in (f"u{n}", f"a{n}")]


@pytest.mark.parametrize("mode", ["paper", "hybrid"])
@pytest.mark.parametrize("rate", [1.0, 0.4])
async def test_row_20_every_mode_of_segmentation_builds_at_every_rate(tmp_path: Path, mode: str, rate: float) -> None:
    """Defect: some combinations of switches could not be built at all."""
    async with AsyncMemory(quick_config(tmp_path, **{"segment.mode": mode, "compress.rate": rate})) as memory:
        await memory.add([user(text) for text in KAYAK + TAXES], user_id="ann", session_id="s", wait=True)
        assert sum(map(len, await memory.engine.segments(Scope("ann"), "s"))) == 8


@pytest.mark.parametrize("mode", ["llm", "extractive"])
async def test_row_23_labels_do_not_leak_into_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """Defect: tags were prefixes of the stored text; searches without tags and the update prompt showed them."""
    model = use_model(monkeypatch, lambda _: facts((1, "Ann's parrot is called Zazu.")))
    said = user("My parrot is called Zazu.", metadata={"label": "secretlabel", "tags": ["petstag"]})
    config = quick_config(tmp_path, **{**LLM, "extract.mode": mode, "compress.rate": 1.0})
    async with AsyncMemory(config) as memory:
        await memory.add(said, user_id="ann", session_id="secretsession")
        (pending,) = await memory.search("parrot", user_id="ann")
        await memory.flush()
        for filters in (None, {"label": "secretlabel"}, {"session_id": "secretsession"}, {"speaker": "user"}):
            (hit,) = await memory.search("parrot", user_id="ann", filters=filters)
            assert hit.text == ("Ann's parrot is called Zazu." if mode == "llm" else "user: My parrot is called Zazu.")
        assert pending.text == "user: My parrot is called Zazu."
        assert not any(label in asked for asked in model.asked for label in ("secret", "petstag"))
        assert await memory.search("secretlabel petstag", user_id="ann", filters={"label": "other"}) == []


async def _is_through(memory: AsyncMemory) -> bool:
    stats = await memory.stats()
    return bool(stats["pending"] == 0)
