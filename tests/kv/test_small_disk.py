"""A file system that is really full: misses, no wrong bytes, no leak."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kv.chains import SIZE, assert_sound, chain, get, open_store, put


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("knows", [True, False])
def test_a_full_disk_makes_room_and_goes_on(small: Path, knows: bool) -> None:
    now = [0.0]
    free: dict[str, Any] = (
        {} if knows else {"free_bytes": lambda _: 1 << 40}
    )  # others may fill it between a look and a write
    store = open_store(small / "kv", now=lambda: now[0], **free)
    kept = []
    for number in range(20):
        now[0] += 10
        spans = chain(range(number * 1000, number * 1000 + 10 * SIZE))
        kept.append(put(store, f"m{number}", spans))
        get(store, spans)  # what is found is right
    assert knows or min(kept) < 10  # who sees it coming makes room first
    assert store.counters.get("evictions", "free_space" if knows else "disk_full") > 0
    now[0] += 100
    store.make_room(1 << 20)
    spans = chain(range(5 * SIZE))
    assert put(store, "again", spans) == 5
    assert len(get(store, spans)) == 5
    assert_sound(store)
    store.close()
    store = open_store(small / "kv")
    assert_sound(store)
    store.close()
