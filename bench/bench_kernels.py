"""The kernels against what else could compute the same, and the encoder against the machine's arithmetic.

    python -m bench.bench_kernels [--device cuda] [--small] [--dry]

For each case, milliseconds of one layer's reduction:
    triton     our kernel (CUDA only)
    library    attention over one-hot values, by torch's own kernels
    naive      the whole map, then sums; where the map fits
and, beside the ratios, what the machine needs at least: the larger of its products at the measured matmul rate and of
its inputs at the measured copy rate. Peak memory is above the inputs. The encoder rows are the packed forward of the
shapes of mBERT and XLM-R large on full windows: tokens per second, and the share of the measured matmul rate
(operations of the layers, embeddings left out). The choice of words is timed for a batch of full chunks: our kernel,
the same in torch, and numpy chunk by chunk. Rows in bench/results/kernels.csv.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel

from bench import chosen_words
from bench.harness import Table, parser_of, table_of
from lightmem_engine.models.packed import PackedBody
from lightmem_kernels import library, reference

SEGMENT = 32  # tokens
NAIVE_BYTES = 8e9  # no map larger than this is made
GOALS = {("encoder", "triton"): 6.0}  # milliseconds of four layers of 1,000 sequences
SHAPES = {"mBERT": (12, 768, 12, 3072), "XLM-R large": (24, 1024, 16, 4096)}  # layers, width, heads, inner


@dataclass(frozen=True, slots=True)
class Case:
    """Sequences of one length. layers: how many such reductions the goal counts."""

    name: str
    sequences: int
    tokens: int
    heads: tuple[int, int]
    dim: int
    causal: bool
    layers: int = 4

    @property
    def operations(self) -> float:
        """Of q kᵀ over the pairs that matter: below the diagonal."""
        return self.sequences * self.heads[0] * self.tokens**2 / 2 * 2 * self.dim

    @property
    def bytes(self) -> float:
        """Of q and k in two-byte numbers."""
        return 2.0 * self.sequences * self.tokens * sum(self.heads) * self.dim


CASES = (
    Case("encoder", 1000, 512, (12, 12), 64, causal=False),
    Case("prefill 8k", 1, 8192, (28, 4), 128, causal=True),
    Case("prefill 32k", 1, 32768, (28, 4), 128, causal=True),
)
SMALL = (
    Case("encoder", 8, 256, (12, 12), 64, causal=False),
    Case("prefill 1k", 1, 1024, (28, 4), 128, causal=True),
)


TINY = (Case("encoder", 2, 64, (2, 2), 16, causal=False), Case("prefill", 1, 96, (4, 2), 16, causal=True))


class Clock:
    """Milliseconds of a call, on the device's own clock where it has one."""

    def __init__(self, device: str) -> None:
        self.is_cuda = device == "cuda"

    def times(self, call: Callable[[], object], rounds: int) -> list[float]:
        """After two calls that do not count."""
        call()
        call()
        return [self._one(call) for _ in range(rounds)]

    def _one(self, call: Callable[[], object]) -> float:
        if not self.is_cuda:
            started = time.perf_counter()
            call()
            return (time.perf_counter() - started) * 1000
        cuda: Any = torch.cuda  # its events are not typed
        begin, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))


def matmul_rate(device: str, dtype: torch.dtype, clock: Clock) -> float:
    """Operations per second of one large square product."""
    size = 8192 if device == "cuda" else 1024
    a = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / (min(clock.times(lambda: a @ a, 10)) / 1000)


def copy_rate(device: str, clock: Clock) -> float:
    """Bytes read and written per second."""
    source = torch.empty(2**30 if device == "cuda" else 2**26, dtype=torch.uint8, device=device)
    into = torch.empty_like(source)
    return 2 * source.numel() / (min(clock.times(lambda: into.copy_(source), 10)) / 1000)


def variants(case: Case, device: str, dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
    """What can compute the case here."""
    torch.manual_seed(0)
    total = case.sequences * case.tokens
    q = torch.randn(total, case.heads[0], case.dim, device=device).to(dtype)
    k = torch.randn(total, case.heads[1], case.dim, device=device).to(dtype)
    segments = (torch.arange(case.tokens, device=device) // SEGMENT).repeat(case.sequences)
    bounds = torch.arange(case.sequences + 1) * case.tokens
    common = (q, k, None, segments, segments, bounds, bounds)
    if device == "cuda":
        from lightmem_kernels import triton_attention

        yield "triton", partial(triton_attention.segment_attention, *common, causal=case.causal, mode="matrix")
    yield "library", partial(library.segment_attention, *common, causal=case.causal, mode="matrix")
    if case.sequences * case.heads[0] * case.tokens**2 * 4 <= NAIVE_BYTES:
        yield "naive", partial(reference.segment_attention, *common, causal=case.causal, mode="matrix")


def peak_megabytes(call: Callable[[], object]) -> float:
    """Above what is held already; CUDA only."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def attention(args: argparse.Namespace, table: Table, clock: Clock, dtype: torch.dtype) -> list[str]:
    """The cases; returns the goals that were missed."""
    rate, copied = matmul_rate(args.device, dtype, clock), copy_rate(args.device, clock)
    machine = {"device": args.device, "dtype": str(dtype).removeprefix("torch.")}
    table.value(machine, "matmul rate", "TFLOP/s", rate / 1e12)
    table.value(machine, "copy rate", "GB/s", copied / 1e9)
    missed = []
    for case in TINY if args.tiny else SMALL if args.small else CASES:
        shape = {**machine, "case": case.name, "sequences": case.sequences, "tokens": case.tokens, "heads": case.heads}
        least = 1000 * max(case.operations / rate, case.bytes / copied)
        table.value(shape, "what the machine needs at least", "ms", least)
        medians = {}
        for name, call in variants(case, args.device, dtype):
            found = clock.times(call, args.rounds)
            medians[name] = float(np.median(found))
            table.spread(shape, name, "ms", found)
            table.value(shape, f"{name}, share of the machine", "share", least / medians[name])
            if args.device == "cuda":
                table.value(shape, f"{name}, peak memory above the inputs", "MB", peak_megabytes(call))
            goal = GOALS.get((case.name, name))
            if goal and not args.small and case.layers * medians[name] > goal:
                missed.append(f"{case.name}: {case.layers * medians[name]:.1f} ms, goal {goal}")
        ours = "triton" if "triton" in medians else "library"
        for name in medians.keys() - {ours}:
            table.value(shape, f"{ours}, times {name}", "x", medians[name] / medians[ours])
    return missed


def encoders(args: argparse.Namespace, table: Table, clock: Clock, dtype: torch.dtype) -> None:
    """The packed forward on full windows."""
    rate = matmul_rate(args.device, dtype, clock)
    for name, (layers, width, heads, inner) in SHAPES.items():
        layers = 2 if args.small else layers
        if args.tiny:
            width, heads, inner = 32, 2, 64
        config = BertConfig(
            vocab_size=1000, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
            intermediate_size=inner,
        )  # fmt: skip
        body = PackedBody(
            BertModel(config, add_pooling_layer=False).to(args.device, dtype).eval().requires_grad_(False)
        )
        for num_sequences in (4,) if args.small else (16, 128):
            lengths = [512] * num_sequences
            ids = torch.randint(5, 900, (sum(lengths),), device=args.device)
            with torch.inference_mode():
                found = clock.times(partial(body.run, ids, lengths), args.rounds)
            per_token = layers * (2 * (4 * width**2 + 2 * width * inner) + 4 * 512 * width)
            seconds = float(np.median(found)) / 1000
            case = {"device": args.device, "dtype": str(dtype).removeprefix("torch."), "shape": name, "layers": layers}
            case["sequences"] = num_sequences
            table.value(case, "packed forward", "tokens/s", len(ids) / seconds)
            table.value(
                case, "packed forward, share of the matmul rate", "share", per_token * len(ids) / seconds / rate
            )
        del body


def selection(args: argparse.Namespace, table: Table, clock: Clock) -> None:
    """LLMLingua-2's choice of words."""
    num_chunks = 16 if args.tiny else 200 if args.small else 5000
    case = {"device": args.device, "case": "choice of words", "chunks": num_chunks, "tokens": chosen_words.CHUNK_TOKENS}
    medians = {}
    for name, call in chosen_words.variants(num_chunks, args.device):
        found = clock.times(call, 3 if name == "numpy" else args.rounds)
        medians[name] = float(np.median(found))
        table.spread(case, name, "ms", found)
    ours, *others = medians
    for name in others:
        table.value(case, f"{ours}, times {name}", "x", medians[name] / medians[ours])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; exit code 1 if a goal was missed on CUDA."""
    parser = parser_of(__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--small", action="store_true", help="shapes for a machine without a GPU")
    parser.add_argument("--tiny", action="store_true", help="shapes that measure nothing")
    args = parser.parse_args(argv)
    args.small |= args.device == "cpu"
    clock = Clock(args.device)
    dtypes = (torch.float16, torch.bfloat16) if args.device == "cuda" else (torch.float32,)
    missed: list[str] = []
    table = table_of("kernels", args)
    for dtype in dtypes:
        missed += attention(args, table, clock, dtype)
        encoders(args, table, clock, dtype)
    selection(args, table, clock)
    for problem in missed:
        print(f"bench_kernels: missed: {problem}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
