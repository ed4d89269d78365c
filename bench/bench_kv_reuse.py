"""`kv.reuse = approximate` on the packaged model: what it saves, and what it costs in answers.

    python -m bench.bench_kv_reuse [--count 60]

Questions of the packaged model's exam, over ten and twenty lines of memory. A prompt is read; then the same one without
its first line of memory, so that all that follows stands elsewhere: computed, and with the keys turned to their new
place. Divergence is that of the next token's distribution from the computed one. Rows in bench/results/kv.csv.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bench.harness import Table, parser_of, table_of
from lightmem_engine.models.kv_rotate import Rotation
from lightmem_engine.models.packaged import packaged_micro_qwen
from lightmem_engine.models.prefix_cache import common_prefix
from lightmem_engine.models.qwen import QwenModel
from lightmem_engine.models.shifted import COMPUTED, find
from lightmem_engine.training import exam
from lightmem_engine.types import Priority, Prompt, Sampling

LINE = "\n["  # of memory, at its date


def without_first_line(messages: Sequence[Any]) -> tuple[Any, ...] | None:
    """The same prompt, one line of memory shorter; None if it has none."""
    for place, message in enumerate(messages):
        parts = message["content"].split(LINE)
        if len(parts) > 2:
            shorter = {**message, "content": LINE.join([parts[0], *parts[2:]])}
            return (*messages[:place], shorter, *messages[place + 1 :])
    return None


def divergence(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Of Kullback and Leibler, in nats."""
    theirs = wanted.double().log_softmax(-1)
    return float((theirs.exp() * (theirs - found.double().log_softmax(-1))).sum())


@torch.inference_mode()
def turned(model: Any, first: list[int], second: list[int]) -> float | None:
    """How far the next token's distribution is off; None if nothing could be taken."""
    stored = model(input_ids=torch.tensor([first]), use_cache=True).past_key_values
    wanted = model(input_ids=torch.tensor([second])).logits[0, -1]
    stretch = find(np.array(second), common_prefix(first, second), np.array(first), stored)
    if stretch is None:
        return None
    cache = model(input_ids=torch.tensor([second[: stretch.start + COMPUTED]]), use_cache=True).past_key_values
    stretch.copy_into(cache, Rotation.of(model))
    rest = torch.tensor([second[stretch.stop :]])
    return divergence(model(input_ids=rest, past_key_values=cache).logits[0, -1], wanted)


async def run(args: argparse.Namespace, table: Table) -> None:
    """Record all rows."""
    model = QwenModel.load(str(packaged_micro_qwen().directory), cache_bytes=1 << 28)
    sampling = Sampling(max_tokens=48)

    async def ask(messages: Sequence[Any], salt: str) -> tuple[str, int, int]:
        (answer,) = await model.generate(
            [Prompt(tuple(messages), salt=salt)], sampling=sampling, priority=Priority.FOREGROUND
        )
        return answer.text, answer.usage.cached_tokens, answer.usage.prompt_tokens

    for num_lines in (10, 20):
        items = list(exam.questions(num_lines, args.count, known=True, seed="1"))
        apart, texts, right, known = [], [], {"computed": 0, "approximate": 0}, []
        for number, item in enumerate(items):
            second = without_first_line(item.messages)
            if second is None:
                continue
            encoded = [model._encode(Prompt(tuple(one))) for one in (item.messages, second)]
            off = await asyncio.to_thread(turned, model._model, *encoded)
            apart += [] if off is None else [off]
            said = {}
            for name in right:
                await model.forget()
                model.rotation = None
                await ask(item.messages, f"{number}")
                if name == "approximate":
                    model.reuse_approximately()
                said[name], cached, size = await ask(second, f"{number}")
                right[name] += said[name] == item.wanted
                known += [cached / size] if name == "approximate" else []
            texts.append(said["computed"] == said["approximate"])
        case = {"model": "packaged", "reuse": "approximate", "lines": num_lines, "questions": len(texts)}
        table.value(case, "tokens not computed", "share", float(np.mean(known)))
        table.spread(case, "divergence of the next token", "nats", apart)
        table.value(case, "answers word for word as computed", "share", float(np.mean(texts)))
        for name, count in right.items():
            table.value(case, f"right answers, {name}", "share", count / len(texts))
    await model.aclose()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and keep the rows."""
    parser = parser_of(__doc__)
    parser.add_argument("--count", type=int, default=60, help="questions of each length")
    args = parser.parse_args(argv)
    asyncio.run(run(args, table_of("kv", args)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
