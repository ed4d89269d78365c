"""Rows for what `lightmem-engine eval` measures.

    python -m bench.bench_quality locomo FILE             # run the evaluation and keep its rows
    python -m bench.bench_quality locomo --result OUT     # keep the rows of a run, from what `eval --json` printed

One row per group (`main`, `credited`, a baseline, ...) and metric in bench/results/quality.csv.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.harness import Table, parser_of, table_of
from lightmem_engine.config import EngineConfig
from lightmem_engine.evaluation.run import Judged, evaluate_file

KINDS = ("locomo", "beam", "longmemeval", "segmentation", "compression")


def figures(result: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, str, float]]:
    """(group, metric, value) of every number in a result, in its order."""
    for name, value in result.items():
        if isinstance(value, Mapping):
            yield from figures(value, (*path, name))
        else:
            yield "/".join(path), name, float(value)


def record(table: Table, what: str, data: str, result: Mapping[str, Any]) -> None:
    """All figures of one evaluation."""
    for group, metric, value in figures(result):
        table.value({"eval": what, "data": data, "group": group}, metric, "", value)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one evaluation, or take one that was run."""
    parser = parser_of(__doc__)
    parser.add_argument("what", choices=KINDS)
    parser.add_argument("file", nargs="?", help="the data, for measuring only")
    parser.add_argument("--result", type=Path, help="output of `lightmem-engine eval --json` on this commit")
    parser.add_argument("--data", default="", help="name of the data in the rows; the file's own by default")
    args = parser.parse_args(argv)
    if (args.file is None) == (args.result is None):
        parser.error("give either a data file or --result")
    table = table_of("quality", args)
    if args.result is not None:
        result = json.loads(args.result.read_text(encoding="utf-8").strip().splitlines()[-1])
    else:
        result = asyncio.run(evaluate_file(args.what, [args.file], EngineConfig(), Judged(), lambda text: None))
    record(table, args.what, args.data or Path(args.file or args.result).name, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
