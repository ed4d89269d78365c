"""What a run of sleep does to invented users with corrections, repetitions and look-alikes.

    python -m bench.bench_sleep [--users 100] [--noise 0.0] [--stub-encoders] [--lm-url URL --lm-model NAME] [--dry]

Without a model, rules decide. Rows: of questions about corrected facts, the share whose hits hold the new message and
not the old one, before and after, over all corrections and over those that say that something changed; of repetitions,
the share that became one entry; of facts that were neither corrected nor repeated, the share that is out of sight;
entries destroyed; whether a rollback gives back what was. The sentences are made from the phrases of
`lightmem_engine.training.phrases`, in part of the shapes that the rules know: people talk in more ways.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.harness import Table, parser_of, table_of
from bench.planted import Planted, life
from lightmem_engine.config import EngineConfig, replace
from lightmem_engine.memory import AsyncMemory
from lightmem_engine.types import MemoryEntry, SleepReport

TOP_K = 10


@dataclass(slots=True)
class Outcome:
    """Counts over all users. asked, found: of corrections, without and with a word of change."""

    asked: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})
    before: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})
    after: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})
    repeated: int = 0
    united: int = 0
    untouched: int = 0
    hidden: list[str] = field(default_factory=list)  # untouched facts that are out of sight
    entries: int = 0
    destroyed: int = 0
    unlisted: int = 0  # changed entries that the diff does not name
    restored: bool = True
    seconds: float = 0.0
    report: SleepReport | None = None


async def measure(config: EngineConfig, lives: dict[str, list[Planted]]) -> Outcome:
    """Tell, sleep, ask, roll back."""
    outcome = Outcome()
    async with AsyncMemory(config) as memory:
        for user, told in lives.items():
            for said in told:
                message = {"role": "user", "content": said.text, "id": said.id, "timestamp": said.when.isoformat()}
                await memory.add(message, user_id=user, session_id=said.when.date().isoformat())
        await memory.flush()
        stored = {user: await memory.get_all(user_id=user) for user in lives}
        outcome.before = await _retrieved(memory, lives, outcome.asked)
        started = time.perf_counter()
        run = await memory.sleep()
        outcome.seconds = time.perf_counter() - started
        outcome.report = await memory.sleep_run(run.id)
        outcome.after = await _retrieved(memory, lives, None)
        for user, told in lives.items():
            _compare(outcome, told, stored[user], await memory.get_all(user_id=user))
        await memory.rollback(run.id)
        for user in lives:
            outcome.restored &= await memory.get_all(user_id=user) == stored[user]
    return outcome


async def _retrieved(
    memory: AsyncMemory, lives: dict[str, list[Planted]], asked: dict[bool, int] | None
) -> dict[bool, int]:
    """Questions whose hits hold the new message and not the old one."""
    found = {False: 0, True: 0}
    for user, told in lives.items():
        for said in told:
            if said.fate == "correction":
                hits = await memory.search(said.question, user_id=user, top_k=TOP_K)
                sources = {id for hit in hits for id in hit.source_ids}
                found[said.is_marked] += said.id in sources and said.of not in sources
                if asked is not None:
                    asked[said.is_marked] += 1
    return found


def _compare(outcome: Outcome, told: list[Planted], before: list[MemoryEntry], after: list[MemoryEntry]) -> None:
    now = {entry.id: entry for entry in after}
    first = {id: entry.id for entry in before for id in entry.source_ids}
    outcome.entries += len(before)
    outcome.destroyed += sum(entry.id not in now for entry in before)
    assert outcome.report is not None
    listed = {change.entry for change in outcome.report.changes}
    changed = {entry.id for entry in before if now.get(entry.id) != entry}
    outcome.unlisted += len(changed - listed)
    for said in told:
        entry = now[first[said.id]]
        if said.fate == "repetition":
            outcome.repeated += 1
            outcome.united += {said.id, said.of} <= set(entry.source_ids)
        elif said.fate == "untouched":
            outcome.untouched += 1
            if entry.state != "active":
                outcome.hidden.append(said.text)


def run(config: EngineConfig, users: int, noise: float, table: Table) -> Outcome:
    """Record all rows."""
    lives = {f"user{seed}": life(seed, noise=noise) for seed in range(users)}
    with tempfile.TemporaryDirectory() as directory:
        outcome = asyncio.run(measure(replace(config, data_dir=directory), lives))
    assert outcome.report is not None
    report = outcome.report.run
    case: dict[str, object] = {"users": users, "noise": noise, "mode": report.mode, "top_k": TOP_K}
    total = sum(outcome.asked.values())
    table.value(case, "corrections planted", "count", total)
    table.value(case, "repetitions planted", "count", outcome.repeated)
    table.value(case, "new and not old, before", "share", sum(outcome.before.values()) / total)
    table.value(case, "new and not old, after", "share", sum(outcome.after.values()) / total)
    if outcome.asked[True]:
        marked = outcome.after[True] / outcome.asked[True]
        table.value(case, "new and not old, after, with a word of change", "share", marked)
    table.value(case, "repetitions united", "share", outcome.united / outcome.repeated)
    table.value(case, "untouched facts out of sight", "share", len(outcome.hidden) / outcome.untouched)
    table.value(case, "entries destroyed", "count", outcome.destroyed)
    table.value(case, "changes not in the diff", "count", outcome.unlisted)
    table.value(case, "rollback exact", "yes is 1", int(outcome.restored))
    table.value(case, "calls", "count", report.calls)
    table.value(case, "entries looked at", "per second", outcome.entries / outcome.seconds)
    return outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and keep the rows."""
    parser = parser_of(__doc__)
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--stub-encoders", action="store_true", help="hash words instead of running a model")
    parser.add_argument("--lm-url", default="", help="a model server that decides; without one, rules do")
    parser.add_argument("--lm-model", default="", help="the model to ask the server for")
    parser.add_argument("--lm-path", default="", help="a Qwen checkpoint that decides in this process")
    parser.add_argument("--packaged", action="store_true", help="the packaged model decides")
    parser.add_argument("--threshold", type=float, default=None, help="sleep.threshold")
    parser.add_argument("--show", action="store_true", help="print untouched facts that went out of sight")
    args = parser.parse_args(argv)
    options: dict[str, object] = {"extract.mode": "extractive"}
    if args.stub_encoders:
        options |= {"embedder.stub": True, "classifier.source": "stub"}
    if args.lm_url:
        options |= {"lm.url": args.lm_url, "lm.model": args.lm_model}
    if args.lm_path:
        options |= {"lm.model": args.lm_path}
    if args.packaged:
        options["sleep.mode"] = "llm"
    if args.threshold is not None:
        options["sleep.threshold"] = args.threshold
    table = table_of("sleep", args)
    outcome = run(replace(EngineConfig(), **options), args.users, args.noise, table)
    for text in outcome.hidden if args.show else ():
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
