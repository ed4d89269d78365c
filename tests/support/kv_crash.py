"""`python -m tests.support.kv_crash ROOT SEED [FAILPOINT]`: put, read and drop chains until killed or done."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from lightmem_engine.runtime.failpoints import Failpoints
from tests.kv.chains import chain, get, open_store, put

CAP = 12 * 12288


def main(root: str, seed: str, failpoint: str = "") -> None:
    """Sixty steps over a store with room for twelve chunks."""
    random_ = random.Random(int(seed))
    now = 0.0

    def clock() -> float:
        return now

    store = open_store(Path(root), CAP, now=clock, failpoints=Failpoints(failpoint))
    store.allow(f"m{n}" for n in range(6))
    for _ in range(60):
        now += 10
        spans = chain(range(random_.randint(0, 1), random_.randint(2, 90)), random_.choice("ab"))
        match random_.randint(0, 3):
            case 0:
                get(store, spans)
            case 1:
                store.drop([f"m{random_.randint(0, 5)}"])
            case _:
                put(store, f"m{random_.randint(0, 5)}", spans)
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
