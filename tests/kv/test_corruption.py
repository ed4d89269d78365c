"""Whatever happens to the files, what is read is right or a miss; the control shows that the check is what does it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lightmem_engine.kv import files as kv_files
from lightmem_engine.kv import keys, report
from lightmem_engine.kv.store import KVStore
from tests.kv.chains import SIZE, assert_sound, chain, content_of, files, get, open_store, put

SPANS = chain(range(3 * SIZE))


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def _swap(store: KVStore) -> None:
    a, b = (store.files.path(span.key) for span in SPANS[:2])
    first = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(first)


def _edit(store: KVStore, change: Callable[[Path], object]) -> None:
    change(store.files.path(SPANS[0].key))


def _zero_page(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:8192] = bytes(4096)
    path.write_bytes(data)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE: dict[str, Callable[[KVStore], object]] = {
    "truncated": lambda store: _edit(store, _truncate),
    "empty": lambda store: _edit(store, lambda path: path.write_bytes(b"")),
    "longer": lambda store: _edit(store, lambda path: path.write_bytes(path.read_bytes() + b"x")),
    "flip in magic": lambda store: _edit(store, lambda path: _flip(path, 0)),
    "flip in tokens": lambda store: _edit(store, lambda path: _flip(path, 130)),
    "flip in payload": lambda store: _edit(store, lambda path: _flip(path, 5000)),
    "flip in last byte": lambda store: _edit(store, lambda path: _flip(path, path.stat().st_size - 1)),
    "zeroed page": lambda store: _edit(store, _zero_page),
    "gone": lambda store: _edit(store, Path.unlink),
    "swapped": _swap,
    "row of another file": lambda store: store.index._db.execute(
        "UPDATE chunk SET digest = (SELECT digest FROM chunk WHERE key = ?) WHERE key = ?",
        (SPANS[1].key, SPANS[0].key),
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_a_miss_that_is_counted_and_cleaned_up(tmp_path: Path, name: str) -> None:
    store = open_store(tmp_path / "kv")
    put(store, "m", SPANS)
    DAMAGE[name](store)
    assert get(store, SPANS) == []
    assert store.counters.get("verification_failures") == 1
    assert store.find(SPANS[0].key) is None
    assert put(store, "m", SPANS) == 3  # and it can be kept again
    if name != "swapped":
        assert len(get(store, SPANS)) == 3
        assert_sound(store)
    store.close()


def test_without_the_check_a_flipped_bit_gets_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "kv")
    put(store, "m", SPANS)
    _flip(store.files.path(SPANS[0].key), 5000)
    row = store.find(SPANS[0].key)
    assert row is not None
    monkeypatch.setattr(kv_files, "digest", lambda content: row.digest)
    chunks, _ = store.read([row], float("inf"))
    assert not np.array_equal(chunks[0].payload, content_of(SPANS[0]))
    store.close()


def test_a_chunk_of_another_model_under_our_name_is_a_miss(tmp_path: Path) -> None:
    store = open_store(tmp_path / "kv")
    put(store, "m", SPANS)
    row = store.find(SPANS[0].key)
    assert row is not None
    other = row._replace(fingerprint=keys.fingerprint({"weights": "b"}))
    assert store.read([other], float("inf")) == ([], "fingerprint")
    store.close()


@pytest.mark.parametrize("junk", [b"this is no database", b"SQLite format 3\0" + bytes(100)])
def test_a_garbage_index_is_thrown_away_with_what_it_described(tmp_path: Path, junk: bytes) -> None:
    store = open_store(tmp_path / "kv")
    put(store, "m", SPANS)
    store.close()
    for path in (tmp_path / "kv").glob("kv.db*"):
        path.unlink()
    (tmp_path / "kv" / "kv.db").write_bytes(junk)
    store = open_store(tmp_path / "kv")
    store.allow(["m"])
    assert get(store, SPANS) == []
    assert files(store.root) == []
    assert put(store, "m", SPANS) == 3
    assert_sound(store)
    store.close()


def test_an_index_that_breaks_meanwhile_makes_misses(tmp_path: Path) -> None:
    store = open_store(tmp_path / "kv")
    put(store, "m", SPANS)
    store.index._db.execute("DROP TABLE hold")
    assert store.find(SPANS[0].key) is None
    assert put(store, "n", SPANS) == 0
    assert store.drop(["m"]) is False
    assert report.stats(store)["totals"]["errors"]
    store.close()


def test_verify_reads_everything_and_removes_what_is_damaged(tmp_path: Path) -> None:
    store = open_store(tmp_path / "kv")
    put(store, "m", SPANS)
    _flip(store.files.path(SPANS[2].key), 5000)
    assert report.verify(store) == {"ok": 2, "damaged": 1, "unreadable": 0}
    assert report.verify(store) == {"ok": 2, "damaged": 0, "unreadable": 0}
    assert len(get(store, SPANS)) == 2
    store.close()


def test_an_absent_index_leaves_no_files_behind(tmp_path: Path) -> None:
    store = open_store(tmp_path / "kv")
    put(store, "m", SPANS)
    store.close()
    for path in (tmp_path / "kv").glob("kv.db*"):
        path.unlink()
    store = open_store(tmp_path / "kv")
    assert files(store.root) == []
    shutil.rmtree(store.files.chunks)
    store.close()


def test_a_database_error_at_opening_is_told_from_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "kv")
    put(store, "m", SPANS)
    store.close()

    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(sqlite3, "connect", full)
    with pytest.raises(Exception, match="cannot be kept"):
        open_store(tmp_path / "kv")
    monkeypatch.undo()
    store = open_store(tmp_path / "kv")
    store.allow(["m"])
    assert len(get(store, SPANS)) == 3
    store.close()
