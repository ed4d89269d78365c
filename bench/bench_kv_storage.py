"""Kept KV caches in a byte a number: how far keys, values and the next token are off, and what becomes of answers.

    python -m bench.bench_kv_storage [--models 0.6b,packaged] [--tokens 512] [--following 32] [--exam 1.0]

Caches of prompts are kept and restored in each way; then the same tokens follow behind the exact cache and behind the
restored one. 0.6b is bench_kv's Qwen3 of random weights over random tokens, bfloat16; packaged is the packaged model
over prompts of its exam, float32. A relative error is that of the mean, or the largest, difference to the mean, or the
largest, number; "computed at once" is what another order of the same arithmetic does to the logits. The exam of the
packaged model is then sat twice: computed, and with every prompt's front loaded from the disk. Rows in
bench/results/kv.csv.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.bench_kv import CHUNK, OWNER, build, keep, kept
from bench.harness import Table, parser_of, table_of
from lightmem_engine.models.kv_bytes import layout_of, restore
from lightmem_engine.models.kv_storage import Exact, Kind, Storage, storage_of
from lightmem_engine.models.packaged import packaged_micro_qwen
from lightmem_engine.models.qwen import QwenModel
from lightmem_engine.training import evaluate
from lightmem_engine.types import Priority, Prompt, Sampling

KINDS: tuple[Kind, ...] = ("exact", "int8", "fp8")
PROMPTS = 4  # whose caches are set against each other


class Error:
    """Differences and numbers, gathered over many tensors."""

    def __init__(self) -> None:
        self._off: list[float] = []
        self._size: list[float] = []
        self._most = self._largest = 0.0

    def add(self, found: torch.Tensor, wanted: torch.Tensor) -> None:
        """One more pair."""
        off = (found.float() - wanted.float()).abs()
        self._off.append(float(off.mean()))
        self._size.append(float(wanted.float().abs().mean()))
        self._most = max(self._most, float(off.max()))
        self._largest = max(self._largest, float(wanted.float().abs().max()))

    def record(self, table: Table, case: Any, what: str) -> None:
        """Two rows."""
        table.value(case, f"relative error of {what}, mean", "", float(np.mean(self._off) / np.mean(self._size)))
        table.value(case, f"relative error of {what}, largest", "", self._most / self._largest)


@torch.inference_mode()
def errors(model: Any, prompts: Sequence[list[int]], following: int, table: Table, name: str) -> None:
    """How far off each way is. prompts: token ids, of which the last `following` are read behind what was kept."""
    layout = layout_of(model)
    plain = Exact(layout)
    found: dict[Kind, dict[str, Error]] = {
        kind: {part: Error() for part in ("keys", "values", "next-token logits")} for kind in KINDS
    }
    same: dict[Kind, list[float]] = {kind: [] for kind in KINDS}
    at_once, same_at_once = Error(), list[float]()
    for ids in prompts:
        front, rest = ids[:-following], torch.tensor([ids[-following:]])
        cache = model(input_ids=torch.tensor([front]), use_cache=True, logits_to_keep=1).past_key_values
        expected = None
        for kind in KINDS:
            storage = storage_of(kind, layout)
            chunks = [
                (at, there_and_back(storage, cache, at, min(CHUNK, len(front) - at)))
                for at in range(0, len(front), CHUNK)
            ]
            again = restore(layout, None, 0, chunks, len(front), model.device)
            for mine, theirs in zip(again.layers, cache.layers, strict=True):
                found[kind]["keys"].add(mine.keys, theirs.keys[:, :, : len(front)])
                found[kind]["values"].add(mine.values, theirs.values[:, :, : len(front)])
            logits = model(input_ids=rest, past_key_values=again, use_cache=True).logits[0]
            expected = logits if kind == plain.kind else expected
            assert expected is not None
            found[kind]["next-token logits"].add(logits, expected)
            same[kind].append(alike(logits, expected))
        assert expected is not None
        logits = model(input_ids=torch.tensor([ids]), use_cache=False, logits_to_keep=following).logits[0]
        at_once.add(logits, expected)
        same_at_once.append(alike(logits, expected))
    num_tokens = int(np.mean([len(ids) for ids in prompts])) - following
    case = {"model": name, "storage": "none: computed at once", "tokens": num_tokens}
    at_once.record(table, case, "next-token logits")
    table.value(case, "the same next token", "share", float(np.mean(same_at_once)))
    for kind in KINDS:
        case = {"model": name, "storage": kind, "tokens": num_tokens}
        size = storage_of(kind, layout).size(CHUNK)
        table.value(case, "bytes a token", "bytes", size / CHUNK)
        table.value(case, "bytes by exact", "x", size / plain.size(CHUNK))
        for part, error in found[kind].items():
            error.record(table, case, part)
        table.value(case, "the same next token", "share", float(np.mean(same[kind])))


def alike(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The share of places with the same most likely token."""
    return float((found.argmax(-1) == wanted.argmax(-1)).float().mean())


def there_and_back(storage: Storage, cache: Any, start: int, num_tokens: int) -> Any:
    """A chunk's bytes as they come back."""
    payload = np.empty(storage.size(num_tokens), np.uint8)
    storage.pack(cache, start, payload)
    return storage.unpack(payload)


async def exam(model: QwenModel, size: float, table: Table) -> None:
    """The packaged model's answers, computed and loaded."""
    items = evaluate.items(size, "1")
    computed = await evaluate.sit(model, items)
    for kind in KINDS:
        loaded: list[evaluate.Answered] = []
        read = known = 0
        with tempfile.TemporaryDirectory() as directory:
            async with kept(model, Path(directory) / "kv", always=True, kind=kind) as tier:
                for number, plain in enumerate(computed):
                    prompt = Prompt(plain.item.messages, plain.item.schema, salt=f"exam {number}", owner=OWNER)
                    await keep(model, tier, prompt)
                    limit = evaluate.longest(plain.item)
                    (answer,) = await model.generate(
                        [prompt], sampling=Sampling(max_tokens=limit), priority=Priority.FOREGROUND
                    )
                    loaded.append(evaluate.Answered(plain.item, answer.text, answer.finish_reason == "length"))
                    read += answer.usage.prompt_tokens
                    known += answer.usage.cached_tokens
        case = {"model": "packaged", "storage": kind, "exam": len(items)}
        texts = [one.text == other.text for one, other in zip(computed, loaded, strict=True)]
        table.value(case, "tokens not computed", "share", known / read)
        table.value(case, "answers word for word as computed", "share", float(np.mean(texts)))
        before, after = evaluate.marks(computed), evaluate.marks(loaded)
        changes = [abs(mark - before[name]) for name, mark in after.items() if not name.startswith("num_")]
        table.value(case, "largest change of a mark of the exam", "share", max(changes))


async def run(args: argparse.Namespace, table: Table) -> None:
    """Record all rows."""
    names = args.models.split(",")
    for shape in (name for name in names if name != "packaged"):
        model = build(shape)
        rng = np.random.default_rng(0)
        limit = min(model._model.config.vocab_size, 400)
        rows = [rng.integers(3, limit, args.tokens + args.following).tolist() for _ in range(PROMPTS)]
        await asyncio.to_thread(errors, model._model, rows, args.following, table, f"qwen3-{shape}-random")
        await model.aclose()
    if "packaged" in names:
        model = QwenModel.load(str(packaged_micro_qwen().directory), cache_bytes=0)
        prompts = [Prompt(item.messages, item.schema) for item in evaluate.items(args.exam, "1")]
        rows = [model._encode(prompt) for prompt in prompts]
        await asyncio.to_thread(errors, model._model, rows, args.following, table, "packaged")
        await exam(model, args.exam, table)
        await model.aclose()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and keep the rows."""
    parser = parser_of(__doc__)
    parser.add_argument("--models", default="0.6b,packaged")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--following", type=int, default=32)
    parser.add_argument("--exam", type=float, default=1.0, help="how much of the exam; 1 is all")
    args = parser.parse_args(argv)
    asyncio.run(run(args, table_of("kv", args)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
