"""Whole blocks there and back, over tensors on the CPU."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lightmem_engine.kv.choice import PATIENCE_SECONDS, NetBenefit
from lightmem_engine.kv.rates import Rates
from lightmem_engine.kv.store import KVStore
from lightmem_engine.vllm_plugin.kept.blocks import BlockMover
from lightmem_engine.vllm_plugin.kept.plan import Load, Planner, Save
from tests.kv.chains import files, open_store

KEYS = tuple(bytes([n]) * 32 for n in (1, 2, 3))
OWNER = {"tenant": "t", "user": "ann", "thread": 1, "link": 1}


class Link:
    """An owner for whom all stands, until it is told otherwise."""

    def __init__(self, store: KVStore) -> None:
        self.store = store
        self.answers = {"stands": True, "bind": True}
        self.bound: list[dict[str, Any]] = []

    def stands(self, owner: dict[str, Any]) -> bool:
        return self.answers["stands"]

    def bind(self, manifest: dict[str, Any]) -> bool:
        self.bound.append(manifest)
        self.store.allow([manifest["id"]])
        return self.answers["bind"]


def _caches(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {f"layer{n}": torch.randn(8, 2, 4, 6).to(torch.bfloat16 if n else torch.float32) for n in range(3)}


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[tuple[BlockMover, Link, dict[str, torch.Tensor]]]:
    store = open_store(tmp_path / "kv")
    link, caches = Link(store), _caches(0)
    mover = BlockMover(store, link, b"m" * 32, Rates(1.0, 1e12), caches, 4)  # type: ignore[arg-type]
    yield mover, link, caches
    mover.close()
    store.close()


def _loaded(mover: BlockMover, load: Load) -> None:
    mover.load(load)
    deadline = time.monotonic() + 20
    while load.request not in mover.finished():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_blocks_come_back_to_the_bit_in_other_places(parts: Any) -> None:
    mover, link, caches = parts
    mover.save(Save("m", OWNER, KEYS, (5, 0, 3)))
    kept = {name: cache.clone() for name, cache in caches.items()}
    for cache in caches.values():
        cache.zero_()  # freed and used again, right after it was copied
    mover.settle()
    assert link.bound[0]["num_bytes"] == 3 * mover.block_bytes
    assert link.bound[0]["num_tokens"] == 3 * 4
    _loaded(mover, Load("r", KEYS, (1, 2, 6)))
    assert mover.failed() == set()
    for name, cache in caches.items():
        for old, new in ((5, 1), (0, 2), (3, 6)):
            assert torch.equal(cache[new], kept[name][old])
        assert not cache[7].any()


def test_a_step_goes_on_where_there_is_no_memory_to_copy_into(
    parts: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mover, link, _ = parts

    def full(_: Any) -> Any:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(mover._copies, "take", full)
    mover.save(Save("m", OWNER, KEYS, (5, 0, 3)))
    mover.settle()
    assert link.bound == []
    assert link.store.counters.snapshot()["totals"]["stores_skipped"] == {"memory": 1}
    assert "could not be copied" in caplog.text


def test_a_block_that_cannot_be_loaded_is_reported_with_those_behind_it(parts: Any) -> None:
    mover, link, _ = parts
    mover.save(Save("m", OWNER, KEYS, (5, 0, 3)))
    mover.settle()
    path = link.store.files.path(KEYS[1])
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    _loaded(mover, Load("r", KEYS, (1, 2, 6)))
    assert mover.failed() == {2, 6}
    assert mover.failed() == set()
    assert link.store.find(KEYS[1]) is None


def test_damage_at_the_front_does_not_pass_for_a_disk_without_speed(parts: Any) -> None:
    mover, link, _ = parts
    mover.save(Save("m", OWNER, KEYS, (5, 0, 3)))
    mover.settle()
    before = mover._rates.shown()[1]
    path = link.store.files.path(KEYS[0])
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    _loaded(mover, Load("r", KEYS, (1, 2, 6)))
    assert mover.failed() == {1, 2, 6}
    assert mover._rates.shown()[1] == pytest.approx(before, rel=0.5)


def test_what_is_kept_already_is_held_not_written_again(parts: Any) -> None:
    mover, link, _ = parts
    mover.save(Save("m", OWNER, KEYS[:2], (5, 0)))
    mover.settle()
    written = link.store.counters.get("bytes_written")
    mover.save(Save("n", OWNER, KEYS, (5, 0, 3)))
    mover.settle()
    assert link.store.counters.get("bytes_written") == written * 3 / 2
    link.store.drop(["m"])
    assert len(files(link.store.root)) == 3


@pytest.mark.parametrize("answer", ["stands", "bind"])
def test_what_the_owner_refuses_leaves_no_file(parts: Any, answer: str) -> None:
    mover, link, _ = parts
    link.answers[answer] = False
    mover.save(Save("m", OWNER, KEYS, (5, 0, 3)))
    mover.settle()
    assert files(link.store.root) == []
    assert link.store.counters.get("bytes_written") == (0 if answer == "stands" else 3 * (mover.block_bytes + 128))


def test_a_chunk_of_another_shape_is_not_believed(parts: Any, tmp_path: Path) -> None:
    mover, link, _ = parts
    mover.save(Save("m", OWNER, KEYS, (5, 0, 3)))
    mover.settle()
    other = BlockMover(link.store, link, b"m" * 32, Rates(1.0, 1e12), {"a": torch.zeros(8, 2, 4, 7)}, 4)
    _loaded(other, Load("r", KEYS, (1, 2, 6)))
    assert other.failed() == {1, 2, 6}
    other.close()


@pytest.mark.parametrize("may_give_up", [True, False])
def test_loads_that_keep_costing_more_than_they_save_end_where_that_is_left_to_us(
    tmp_path: Path, may_give_up: bool, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(tmp_path / "kv")
    rates = Rates(tokens=1.0, bytes=1e12, may_give_up=may_give_up)
    mover = BlockMover(store, Link(store), b"m" * 32, rates, _caches(0), 4)  # type: ignore[arg-type]
    now = [0.0]
    mover.balance.benefit = NetBenefit(lambda: now[0])
    mover.save(Save("m", OWNER, KEYS, (5, 0, 3)))
    mover.settle()
    rates.follow(1e12, 1e12)  # computing takes no time: whatever a load takes is lost, and it is late at once
    for number in range(3):
        _loaded(mover, Load(f"r{number}", KEYS, (1, 2, 6)))
        assert rates.has_given_up == (may_give_up and number > 0)
        now[0] += PATIENCE_SECONDS
    assert store.counters.get("losses", "off" if may_give_up else "persist") == 1
    assert [record for record in caplog.records if "cost more than they saved" in record.getMessage()] != []
    planner = Planner(store, b"m" * 32, 4, rates, lambda: True)
    planner.add("r", [b"h"] * 3, 12, "salt", {"lightmem": OWNER})
    assert (planner.scheduled("r", [1, 2, 3], 12, anew=True) is None) == may_give_up
    mover.close()
    store.close()
