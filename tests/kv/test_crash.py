"""kill -9 at every named place: afterwards no wrong byte, nothing left over, and the charge is what the disk holds."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightmem_engine.kv.remains import left_by_dead
from tests.kv.chains import SIZE, assert_sound, chain, files, get, open_store, put
from tests.support.kv_crash import CAP
from tests.support.process import python

FAILPOINTS = ("kv.reserve", "kv.write", "kv.rename", "kv.renamed", "kv.commit", "kv.evict", "kv.recover")


@pytest.mark.parametrize("name", FAILPOINTS)
def test_killed_at(tmp_path: Path, name: str) -> None:
    root, random_ = tmp_path / "kv", random.Random(name)
    for round_ in range(3):
        passes = 1 if name == "kv.recover" else random_.randint(1, 12)
        done = python("-m", "tests.support.kv_crash", str(root), str(round_), f"{name}:{passes}")
        assert done.returncode in (-signal.SIGKILL, 0), done.stderr
        assert round_ or done.returncode == -signal.SIGKILL
        store = open_store(root, CAP)
        store.allow(f"m{n}" for n in range(6))
        assert_sound(store)
        assert store.index.used() <= CAP
        for salt in "ab":
            for first in (0, 1):
                get(store, chain(range(first, 90), salt))
        store.close()


@pytest.mark.parametrize("name", [name for name in FAILPOINTS if name not in ("kv.evict", "kv.recover")])
def test_what_a_dead_writer_left_can_go_while_others_work(tmp_path: Path, name: str) -> None:
    root = tmp_path / "kv"
    store = open_store(root, CAP)
    own = chain(range(SIZE), "own")
    put(store, "own", own)
    done = python("-m", "tests.support.kv_crash", str(root), "1", f"{name}:3")
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = left_by_dead(store)
    assert "own" not in left
    assert store.drop(left)
    assert files(root) == [store.files.path(own[0].key)]
    assert_sound(store)
    assert left_by_dead(store) == set()
    store.close()


def test_killed_at_any_moment(tmp_path: Path) -> None:
    root = tmp_path / "kv"
    random_ = random.Random(1)
    for seed in range(4):
        process = subprocess.Popen([sys.executable, "-m", "tests.support.kv_crash", str(root), str(seed)])
        time.sleep(random_.uniform(0.15, 0.6))
        process.kill()
        process.wait(10)
        store = open_store(root, CAP)
        assert_sound(store)
        store.close()


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    first = open_store(tmp_path / "kv")
    span = chain(range(SIZE))[0]
    first.index.reserve(span, b"f", b"t", "m", 5000, 1.0, first.bounds.caps, first._writer.id, 0.0)
    (first.files.temporary / f"{first._writer.id}-0").write_bytes(b"half")
    second = open_store(tmp_path / "kv")
    assert left_by_dead(second) == set()
    assert [state for _, state, _, _ in second.index.all()] == ["writing"]
    assert len(files(second.root)) == 1
    second.close()
    first.close()
    third = open_store(tmp_path / "kv")
    assert_sound(third)
    assert put(third, "m", chain(range(SIZE))) == 1
    third.close()
