"""A new embedder for an old memory, through the real command, killed on the way and taken up again."""

from __future__ import annotations

import json
import signal
import sqlite3
from pathlib import Path

import pytest

from lightmem_engine.loading import Encoders
from lightmem_engine.memory import Memory
from lightmem_engine.models.stub_encoder import StubClassifier, StubEmbedder
from lightmem_engine.reindex import Reindexed, reindex
from lightmem_engine.runtime.device import Device
from lightmem_engine.stores.reembed import Progress
from tests.support.memory import quick_config
from tests.support.process import python

STUBS = ["--set", "embedder.stub=true", "--set", "classifier.source=stub"]
MINILM = ["--set", "classifier.source=stub"]
FACTS = ("parrot Zazu", "boiler code 4711", "dentist June", "red bicycle", "sister Lisbon", "dog beagle")


def run(data: Path, *arguments: str, input: str | None = None) -> tuple[int, str, str]:
    done = python("-m", "lightmem_engine", *arguments, "--data-dir", str(data), input=input)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def _models(data: Path) -> tuple[str, set[str], set[int]]:
    """The embedder the memory lives with, those of its entries, and the lengths of all vectors in bytes."""
    connection = sqlite3.connect(data / "memory.db")
    try:
        bound = connection.execute("SELECT value FROM meta WHERE key = 'embed_model'").fetchone()[0]
        names = {name for (name,) in connection.execute("SELECT DISTINCT embed_model FROM vector")}
        lengths = {
            length
            for table, column in (("vector", "blob"), ("piece", "vector"), ("sensed", "vector"))
            for (length,) in connection.execute(f"SELECT DISTINCT length({column}) FROM {table}")
        }
    finally:
        connection.close()
    return bound, names, lengths


def _ask(data: Path, question: str, *settings: str) -> list[str]:
    """The messages that the best three hits come from."""
    code, out, err = run(data, "search", question, "--user", "ann", "--top-k", "3", "--json", *settings)
    assert (code, err) == (0, "")
    return [id for hit in json.loads(out)["hits"] for id in hit["source_ids"]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A memory of 150 messages, embedded by the stub."""
    path = tmp_path / "data"
    said = [{"id": f"m{n}", "role": "user", "content": f"{FACTS[n % 6]} number {n}"} for n in range(150)]
    with Memory(quick_config(path)) as memory:
        memory.add(said, user_id="ann", wait=True)
    return path


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> str:
    """The stub with fewer dimensions is what engines of this process get from now on; its name."""
    encoders = Encoders(StubClassifier(), StubEmbedder(32), Device("cpu", "float32", "test"))
    for module in ("lightmem_engine.assemble", "lightmem_engine.reindex"):
        monkeypatch.setattr(f"{module}.load_encoders", lambda config: encoders)
    return encoders.embedder.name


def test_another_embedder_is_refused_until_the_memory_is_embedded_anew(data: Path) -> None:
    code, _, err = run(data, "stats", *MINILM)
    assert (code, "lightmem-engine reindex" in err) == (2, True)
    code, out, err = run(data, "reindex", *MINILM, "--set", "runtime.failpoint=stage.commit:3")
    assert code == -signal.SIGKILL
    code, _, err = run(data, "stats", *STUBS)  # half of it in one space and half in another is no memory
    assert (code, "begun and not finished" in err) == (2, True)
    code, out, err = run(data, "reindex", *MINILM)
    assert (code, err) == (0, "")
    name = out.rsplit(" ", 1)[1].strip()
    assert out == f"150 vectors computed; this memory is embedded by {name}\n", "the first half was on disk"
    assert _models(data) == (name, {name}, {384 * 4})
    assert all(int(id[1:]) % 6 == 3 for id in _ask(data, "Which cycle is it?", *MINILM))


def test_it_goes_on_after_every_step(data: Path, narrow: str) -> None:
    """Interrupted behind each of its commits, one after the other, it does nothing twice and ends complete."""
    computed = 0
    for _ in range(20):
        steps: list[Progress] = []

        def stop(step: Progress, steps: list[Progress] = steps) -> None:
            steps.append(step)
            if len(steps) == 2:
                raise KeyboardInterrupt

        try:
            reindex(quick_config(data), data, stop)
            break
        except KeyboardInterrupt:
            computed += steps[1].done - steps[0].done
    assert computed == 300
    assert _models(data) == (narrow, {narrow}, {32 * 4})
    assert reindex(quick_config(data), data, lambda step: None) == Reindexed(0, narrow)
    with Memory(quick_config(data)) as memory:
        assert len(memory.get_all(user_id="ann")) == 150
        assert "m37" in memory.search("boiler 37", user_id="ann")[0].source_ids


def test_a_change_of_mind_begins_anew(data: Path, monkeypatch: pytest.MonkeyPatch, narrow: str) -> None:
    def stop(step: Progress) -> None:
        if step.done > 128:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reindex(quick_config(data), data, stop)
    assert len(_models(data)[2]) == 2
    monkeypatch.undo()
    assert reindex(quick_config(data), data, lambda step: None) == Reindexed(150, StubEmbedder().name)
    assert _models(data) == (StubEmbedder().name, {StubEmbedder().name}, {StubEmbedder().dim * 4})


def test_an_edited_entry_is_embedded_by_what_it_says_now(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Memory(quick_config(data)) as memory:
        entry = memory.get_all(user_id="ann")[0]
        memory.update(entry.id, user_id="ann", text="The violin stands in the attic.")
        before = _vectors(data, entry.id)
    encoders = Encoders(StubClassifier(), StubEmbedder(32), Device("cpu", "float32", "test"))
    monkeypatch.setattr("lightmem_engine.reindex.load_encoders", lambda config: encoders)
    reindex(quick_config(data), data, lambda step: None)
    monkeypatch.undo()
    reindex(quick_config(data), data, lambda step: None)
    assert _vectors(data, entry.id) == before, "there and back again"
    assert before[0] != before[1]


def _vectors(data: Path, id: str) -> list[bytes]:
    """An entry's vectors, version by version."""
    connection = sqlite3.connect(data / "memory.db")
    try:
        return [
            blob for (blob,) in connection.execute("SELECT blob FROM vector WHERE entry = ? ORDER BY version", (id,))
        ]
    finally:
        connection.close()


def test_a_directory_without_a_memory(tmp_path: Path) -> None:
    code, _, err = run(tmp_path / "data", "reindex", *STUBS)
    assert (code, "there is no memory in" in err) == (1, True)
