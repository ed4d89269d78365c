"""Bounds, lives, and whose a chunk is."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lightmem_engine.errors import StoreError
from lightmem_engine.kv import files as kv_files
from tests.kv.chains import BYTES_PER_TOKEN, MODEL, SIZE, assert_sound, chain, files, fill, get, open_store, put


@pytest.mark.parametrize("length", [1, SIZE - 1, SIZE, SIZE + 1, 3 * SIZE - 1, 3 * SIZE, 3 * SIZE + 1])
def test_what_was_put_comes_back_to_the_bit(tmp_path: Path, length: int) -> None:
    store = open_store(tmp_path / "kv")
    spans = chain(range(length))
    assert put(store, "m", spans) == len(spans) == len(get(store, spans))
    assert_sound(store)
    store.close()


def test_it_is_there_after_a_restart(tmp_path: Path) -> None:
    store = open_store(tmp_path / "kv")
    put(store, "m", chain(range(50)))
    store.close()
    again = open_store(tmp_path / "kv")
    assert get(again, chain(range(50))) == []  # nobody has said yet that its manifest stands
    again.allow(["m"])
    assert len(get(again, chain(range(50)))) == 4
    again.close()


def test_files_are_for_this_user_alone(tmp_path: Path) -> None:
    store = open_store(tmp_path / "kv")
    put(store, "m", chain(range(50)))
    for path in [store.root, *store.root.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 or path.name.endswith(("-wal", "-shm")), path
    store.close()


def test_users_and_tenants_share_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path / "kv")
    put(store, "a", chain(range(40), "ann"), "one")
    assert get(store, chain(range(40), "bob")) == []
    put(store, "b", chain(range(40), "bob"), "two")
    assert len(files(store.root)) == 6
    assert store.drop(["a"])
    assert len(get(store, chain(range(40), "bob"))) == 3
    assert store.drop(["b"])
    assert files(store.root) == []
    store.close()


def test_what_several_manifests_hold_goes_with_the_last(tmp_path: Path) -> None:
    store = open_store(tmp_path / "kv")
    put(store, "short", chain(range(2 * SIZE)))
    put(store, "long", chain(range(3 * SIZE + 2)))
    assert len(files(store.root)) == 4
    store.drop(["long"])
    assert len(files(store.root)) == 2
    assert len(get(store, chain(range(3 * SIZE)))) == 2
    store.drop(["short"])
    assert_sound(store)
    assert store.index.used() == 0
    store.close()


def test_a_manifest_that_does_not_stand_is_not_found_whatever_lies_on_the_disk(tmp_path: Path) -> None:
    store = open_store(tmp_path / "kv")
    put(store, "m", chain(range(40)))
    store.forbid(["m"])
    assert get(store, chain(range(40))) == []
    assert len(files(store.root)) == 3
    store.close()


def test_what_costs_least_to_compute_again_goes_first_and_leaves_before_their_parents(tmp_path: Path) -> None:
    now = [0.0]
    store = open_store(tmp_path / "kv", 10 * 12288, now=lambda: now[0])
    put(store, "hot", chain(range(3 * SIZE), "hot"))
    put(store, "cold", chain(range(3 * SIZE), "cold"))
    now[0] += 100
    for _ in range(3):
        get(store, chain(range(3 * SIZE), "hot"))
        now[0] += 100
    put(store, "new", chain(range(5 * SIZE), "new"))
    assert len(get(store, chain(range(3 * SIZE), "hot"))) == 3
    left = len(get(store, chain(range(3 * SIZE), "cold")))
    assert left < 3
    assert store.counters.get("evictions", "bounds") == 3 - left
    assert store.index.used() <= 10 * 12288
    assert_sound(store)
    store.close()


def test_a_chunk_that_is_being_read_is_not_evicted(tmp_path: Path) -> None:
    now = [100.0]
    store = open_store(tmp_path / "kv", now=lambda: now[0])
    spans = chain(range(3 * SIZE))
    put(store, "m", spans)
    now[0] += 10
    store.index.touch([span.key for span in spans], now[0], now[0] + 60)
    store.make_room(1 << 30)
    assert len(get(store, spans)) == 3
    now[0] += 200
    store.make_room(1 << 30)
    assert get(store, spans) == []
    store.close()


def test_a_tenant_has_its_share(tmp_path: Path) -> None:
    now = [0.0]
    store = open_store(tmp_path / "kv", 20 * 12288, tenant_share=0.25, now=lambda: now[0])
    put(store, "other", chain(range(3 * SIZE), "zoe"), "other")
    for n in range(6):
        now[0] += 10
        put(store, f"m{n}", chain(range(n, n + 2 * SIZE)), "greedy")
    assert len(get(store, chain(range(3 * SIZE), "zoe"))) == 3
    assert store.index.used() <= 8 * 12288
    store.close()


def test_free_space_is_left_on_the_volume(tmp_path: Path) -> None:
    store = open_store(tmp_path / "kv", free_bytes=lambda _: 1 << 20)
    object.__setattr__(store, "bounds", kv_bounds(store, min_free=1 << 20))
    assert put(store, "m", chain(range(40))) == 0
    assert store.counters.get("stores_skipped", "free_space") == 1
    store.close()


def kv_bounds(store: Any, **changes: Any) -> Any:
    import dataclasses

    return dataclasses.replace(store.bounds, **changes)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE])
def test_a_disk_that_refuses_makes_a_miss_and_no_leak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    now = [0.0]
    store = open_store(tmp_path / "kv", now=lambda: now[0])
    write = os.write
    calls: list[int] = []

    def refuse(handle: int, data: Any) -> int:
        calls.append(1)
        if len(calls) == 4:
            raise OSError(code, os.strerror(code))
        return write(handle, data)

    monkeypatch.setattr(os, "write", refuse)
    assert put(store, "m", chain(range(3 * SIZE))) == 1
    assert_sound(store)
    assert len(get(store, chain(range(3 * SIZE)))) == 1
    is_full = code in (errno.ENOSPC, errno.EDQUOT)
    assert put(store, "n", chain(range(50, 70))) == (0 if is_full else 2)
    now[0] += 61
    assert put(store, "n", chain(range(50, 70))) == 2
    store.close()


def test_reading_trouble_keeps_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "kv")
    put(store, "m", chain(range(40)))
    readv = os.readv

    def refuse(handle: int, buffers: Any) -> int:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(os, "readv", refuse)
    assert get(store, chain(range(40))) == []
    monkeypatch.setattr(os, "readv", readv)
    assert len(get(store, chain(range(40)))) == 3
    store.close()


def test_a_file_that_cannot_be_removed_wedges_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "kv")
    put(store, "a", chain(range(40)))
    put(store, "b", chain(range(100, 140)))
    stuck = chain(range(40))[0].key
    unlink: Callable[[bytes], bool] = store.files.unlink
    monkeypatch.setattr(kv_files.ChunkFiles, "unlink", lambda self, key: key != stuck and unlink(key))
    assert not store.drop(["a"])
    assert store.drop(["b"]) is False  # the first one is still there
    assert len(files(store.root)) == 1
    assert get(store, chain(range(40))) == []
    monkeypatch.undo()
    assert store.sweep()
    assert_sound(store)
    store.close()


def test_a_failing_source_leaves_no_charge(tmp_path: Path) -> None:
    store = open_store(tmp_path / "kv")

    def broken(span: Any, payload: Any) -> None:
        raise RuntimeError("the device is gone")

    with pytest.raises(RuntimeError):
        store.put("m", "t", MODEL, chain(range(5)), lambda _: 8, broken, lambda _: 1.0)
    assert store.index.used() == 0
    assert_sound(store)
    store.close()


def test_a_root_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    (tmp_path / "kv").write_text("a file")
    with pytest.raises(StoreError, match="cannot be kept"):
        open_store(tmp_path / "kv")


def test_reading_stops_at_the_deadline_with_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "kv")
    spans = chain(range(5 * SIZE))
    put(store, "m", spans)
    clock = [0.0]
    readv = os.readv

    def slow(handle: int, buffers: Any) -> int:
        clock[0] += 1.0
        return readv(handle, buffers)

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(os, "readv", slow)
    rows = [row for span in spans if (row := store.find(span.key))]
    chunks, reason = store.read(rows, 2.5)
    assert (len(chunks), reason) == (3, "deadline")
    assert store.counters.get("deadline_misses") == 1
    store.close()


class Random(RuleBasedStateMachine):
    """Any order of puts, reads, drops and evictions keeps to the bounds, and never gives wrong bytes."""

    CAP = 12 * 12288

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.now = 0.0
        self.store = open_store(Path(self.folder.name) / "kv", self.CAP, now=lambda: self.now)

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    @rule(n=st.integers(0, 5), length=st.integers(1, 6 * SIZE), salt=st.sampled_from("ab"))
    def put(self, n: int, length: int, salt: str) -> None:
        self.now += 3
        put(self.store, f"m{n}", chain(range(n % 2, length), salt), salt)

    @rule(n=st.integers(0, 1), length=st.integers(1, 6 * SIZE), salt=st.sampled_from("ab"))
    def get(self, n: int, length: int, salt: str) -> None:
        get(self.store, chain(range(n, length), salt))

    @rule(n=st.integers(0, 5))
    def drop(self, n: int) -> None:
        assert self.store.drop([f"m{n}"])

    @rule(count=st.integers(1, 1 << 16))
    def evict(self, count: int) -> None:
        self.now += 100
        self.store.make_room(count)

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = open_store(Path(self.folder.name) / "kv", self.CAP, now=lambda: self.now)
        self.store.allow(f"m{n}" for n in range(6))

    @invariant()
    def within_bounds(self) -> None:
        assert self.store.index.used() <= self.CAP
        assert_sound(self.store)


TestRandom = Random.TestCase
TestRandom.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)


def test_the_size_of_a_chunk_here_is_three_blocks() -> None:
    (span,) = chain(range(SIZE))
    content = kv_files.blank(span, MODEL, SIZE * BYTES_PER_TOKEN)
    fill(span, content[-SIZE * BYTES_PER_TOKEN :])
    assert -(-len(content) // 4096) * 4096 == 12288
