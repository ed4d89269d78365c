"""Many at once: threads and processes over one directory."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.kv.chains import SIZE, assert_sound, chain, files, get, open_store, put
from tests.support.kv_crash import CAP

_PUT = (
    "import sys; from pathlib import Path; from tests.kv.chains import *;"
    "s = open_store(Path(sys.argv[1])); print(put(s, sys.argv[2], chain(range(80)))); s.close()"
)


def test_processes_that_write_the_same_leave_one_whole_value(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", _PUT, str(tmp_path / "kv"), f"m{n}"], stdout=subprocess.PIPE)
        for n in range(4)
    ]
    kept = [int(writer.communicate(timeout=60)[0]) for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 4
    assert max(kept) == 5
    store = open_store(tmp_path / "kv")
    store.allow(f"m{n}" for n in range(4))
    assert len(get(store, chain(range(80)))) == 5
    assert len(files(store.root)) == 5
    assert_sound(store)
    store.close()


def test_a_cleaner_beside_writers_takes_nothing_of_theirs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.kv_crash", str(tmp_path / "kv")]
    writers = [subprocess.Popen([*command, str(seed)]) for seed in (1, 2)]
    while any(writer.poll() is None for writer in writers):
        open_store(tmp_path / "kv", CAP).close()
    assert [writer.returncode for writer in writers] == [0, 0]
    store = open_store(tmp_path / "kv", CAP)
    assert_sound(store)
    store.close()


def test_readers_while_chunks_come_and_go_see_right_bytes_or_none(tmp_path: Path) -> None:
    now = [0.0]
    store = open_store(tmp_path / "kv", 8 * 12288, now=lambda: now[0])
    stop = threading.Event()
    chains = [chain(range(n, n + 3 * SIZE)) for n in range(4)]

    def write() -> None:
        for step in range(60):
            now[0] += 100
            put(store, f"m{step % 4}", chains[step % 4])
            if step % 5 == 4:
                store.drop([f"m{(step + 2) % 4}"])
        stop.set()

    def read() -> int:
        found = 0
        while not stop.is_set():
            for spans in chains:
                found += len(get(store, spans))
        return found

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        pool.submit(write).result(60)
        assert sum(reader.result(60) for reader in readers) > 0
    assert store.sweep()
    assert_sound(store)
    store.close()
