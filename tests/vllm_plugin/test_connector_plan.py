from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lightmem_engine.errors import ConfigError
from lightmem_engine.kv.keys import Span, as_tokens
from lightmem_engine.kv.rates import Rates
from lightmem_engine.kv.store import KVStore
from lightmem_engine.vllm_plugin.kept.options import ConnectorOptions
from lightmem_engine.vllm_plugin.kept.plan import Planner, Save
from tests.kv.chains import open_store

BLOCK = 4
MODEL = b"m" * 32
HASHES = [bytes([n]) * 32 for n in range(6)]
OWNER = {"lightmem": {"tenant": "t", "user": "ann", "thread": 1, "link": 1}}


class Plans:
    """A planner over a store, and a way to keep what it plans."""

    def __init__(self, root: Path, *, rates: Rates | None = None, min_tokens: int = 1, block_bytes: int = 0) -> None:
        self.store: KVStore = open_store(root)
        self.valid = True
        self.planner = Planner(
            self.store,
            MODEL,
            BLOCK,
            rates or Rates(1.0, 1e12),
            lambda: self.valid,
            min_tokens=min_tokens,
            block_bytes=block_bytes,
        )

    def keep(self, save: Save | None) -> None:
        assert save is not None
        spans = [Span(key, b"p" * 32, place, as_tokens([])) for place, key in enumerate(save.keys)]
        assert self.store.put(save.manifest, "t", MODEL, spans, lambda _: 8, lambda _, out: out.fill(1), lambda _: 1.0)
        self.store.allow([save.manifest])

    def new(self, id: str, num_prompt: int = 14, salt: str | None = "salt", params: Any = OWNER) -> None:
        self.planner.add(id, HASHES[: num_prompt // BLOCK], num_prompt, salt, params)


@pytest.fixture
def plans(tmp_path: Path) -> Any:
    found = Plans(tmp_path / "kv")
    yield found
    found.store.close()


def test_whole_blocks_of_the_prompt_are_kept_once_it_is_computed(plans: Plans) -> None:
    plans.new("a")
    assert plans.planner.scheduled("a", [7, 8], 8, anew=True) is None
    save = plans.planner.scheduled("a", [9, 3], 14, anew=False)
    assert save is not None
    assert (save.blocks, len(save.keys), save.owner["user"]) == ((7, 8, 9), 3, "ann")
    assert plans.planner.scheduled("a", [], 15, anew=False) is None


def test_where_only_what_pays_is_kept_the_speeds_of_now_decide(tmp_path: Path) -> None:
    rates = Rates(1000.0, 1e6, overhead=0.0)  # a token takes a millisecond, and so do a thousand bytes
    plans = Plans(tmp_path / "kv", rates=rates, block_bytes=5000)
    plans.new("a")
    assert plans.planner.scheduled("a", [7, 8, 9, 3], 14, anew=True) is None
    assert plans.store.counters.snapshot()["totals"]["stores_skipped"] == {"slower": 1}
    rates.follow(100.0, 1e6)
    plans.new("b")
    assert plans.planner.scheduled("b", [7, 8, 9, 3], 14, anew=True) is not None
    plans.store.close()


def test_a_resumed_request_has_other_blocks(plans: Plans) -> None:
    plans.new("a")
    plans.planner.scheduled("a", [7, 8], 8, anew=True)
    save = plans.planner.scheduled("a", [1, 2, 3, 4], 14, anew=True)
    assert save is not None
    assert save.blocks == (1, 2, 3)


@pytest.mark.parametrize(("salt", "params"), [(None, OWNER), ("salt", None), ("salt", {"do_remote_prefill": True})])
def test_without_salt_or_owner_nothing_is_kept(plans: Plans, salt: str | None, params: Any) -> None:
    plans.new("a", salt=salt, params=params)
    assert plans.planner.scheduled("a", [7, 8, 9, 3], 14, anew=True) is None


def test_what_is_kept_is_matched_by_blocks_and_one_token_is_left(plans: Plans) -> None:
    plans.new("a")
    plans.keep(plans.planner.scheduled("a", [7, 8, 9, 3], 14, anew=True))
    plans.new("b", 20)
    assert plans.planner.matched("b", 20, 0) == 12
    assert plans.planner.matched("b", 20, 8) == 4
    assert plans.planner.matched("b", 20, 0) == 12  # asking changes nothing
    assert plans.planner.matched("b", 12, 0) == 8
    plans.planner.allocated("b", [20, 21, 22, 23, 24], 8)
    (load,) = plans.planner.take_loads()
    assert (load.request, load.blocks, len(load.keys)) == ("b", (20, 21), 2)
    assert plans.planner.take_loads() == []
    assert plans.planner.matched("b", 20, 0) == 0  # whether it succeeded or not: once


def test_places_follow_what_is_computed_already(plans: Plans) -> None:
    plans.new("a")
    plans.keep(plans.planner.scheduled("a", [7, 8, 9, 3], 14, anew=True))
    plans.new("b", 20)
    assert plans.planner.matched("b", 20, 4) == 8
    plans.planner.allocated("b", [20, 21, 22, 23, 24], 8)
    assert plans.planner.take_loads()[0].blocks == (21, 22)


def test_nothing_is_found_while_the_owner_is_away_or_after_it_has_ended(plans: Plans) -> None:
    plans.new("a")
    save = plans.planner.scheduled("a", [7, 8, 9, 3], 14, anew=True)
    plans.keep(save)
    plans.new("b")
    plans.valid = False
    assert plans.planner.matched("b", 14, 0) == 0
    plans.valid = True
    assert plans.planner.matched("b", 14, 0) == 12
    assert save is not None
    plans.store.forbid([save.manifest])
    assert plans.planner.matched("b", 14, 0) == 0


def test_a_request_without_salt_is_not_looked_up(plans: Plans) -> None:
    plans.new("a")
    plans.keep(plans.planner.scheduled("a", [7, 8, 9, 3], 14, anew=True))
    plans.new("b", salt=None)
    assert plans.planner.matched("b", 14, 0) == 0
    plans.planner.remove("b")
    assert plans.planner.matched("b", 14, 0) == 0


def test_a_load_that_cannot_pay_or_is_too_short_is_not_planned(tmp_path: Path) -> None:
    for number, options in enumerate([{"rates": Rates(1e9, 1.0)}, {"min_tokens": 13}]):
        plans = Plans(tmp_path / str(number), **options)  # type: ignore[arg-type]
        plans.new("a")
        save = plans.planner.scheduled("a", [7, 8, 9, 3], 14, anew=True)
        if save is not None:
            plans.keep(save)
        plans.new("b")
        assert plans.planner.matched("b", 14, 0) == 0
        plans.store.close()


def test_unknown_options_are_named() -> None:
    with pytest.raises(ConfigError, match="colour"):
        ConnectorOptions.of({"root": "a", "socket": "b", "max_bytes": 1, "colour": "green"})
