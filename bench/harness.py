"""What every bench shares: rows that say what they were measured on, and timing that is fair between variants.

One CSV per bench in bench/results, one row per figure. `case` is a JSON object: the settings that were measured.
A figure is either one `value` or a distribution (p20, p50, p80, p99 of `count` samples), in `unit`.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
PERCENTILES = (20, 50, 80, 99)
LIBRARIES = ("torch", "numpy", "faiss-cpu", "transformers", "uvicorn", "httpx")
FIELDS = (
    *("bench", "case", "metric", "unit", "value", "p20", "p50", "p80", "p99", "count"),
    *("cpu", "cores", "gpu", "load", "commit", "dirty", "time", "versions"),
)

Row = dict[str, object]


class Table:
    """The rows of one bench. Each is printed and, unless `directory` is None, appended to `<bench>.csv` at once."""

    def __init__(self, bench: str, directory: Path | None = RESULTS) -> None:
        self._bench = bench
        self._code = revision(ROOT)  # that runs, whatever becomes of the files meanwhile
        self._path = None if directory is None else directory / f"{bench}.csv"
        self.rows: list[Row] = []

    def value(self, case: Mapping[str, object], metric: str, unit: str, value: float) -> None:
        """One figure."""
        self._add(case, metric, unit, {"value": rounded(value)})

    def spread(self, case: Mapping[str, object], metric: str, unit: str, samples: Sequence[float]) -> None:
        """Many measurements of the same thing; none at all make no row."""
        if len(samples):
            found = np.percentile(np.asarray(samples, float), PERCENTILES)
            figures = {f"p{name}": rounded(value) for name, value in zip(PERCENTILES, found, strict=True)}
            self._add(case, metric, unit, {**figures, "count": len(samples)})

    def _add(self, case: Mapping[str, object], metric: str, unit: str, figures: Mapping[str, object]) -> None:
        row: Row = {"bench": self._bench, "case": json.dumps(case), "metric": metric, "unit": unit, **figures}
        row |= surroundings(self._code)
        self.rows.append(row)
        if self._path is not None:
            append(self._path, [row])
        shown = " ".join(f"{name} {value}" for name, value in figures.items())
        print(f"{self._bench} {row['case']} {metric}: {shown.removeprefix('value ')} {unit}", flush=True)


def parser_of(about: str | None) -> argparse.ArgumentParser:
    """A bench's command line. about: its docstring, shown as it stands."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="print the rows, store none")
    return parser


def table_of(bench: str, args: argparse.Namespace) -> Table:
    """The rows of a bench with these arguments, as `parser_of` reads them."""
    return Table(bench, None if args.dry else RESULTS)


def append(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Add rows to a CSV, which keeps its header; a file with other columns is a `ValueError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists() or path.stat().st_size == 0
    if not is_new:
        with path.open(newline="") as file:
            header = next(csv.reader(file))
        if tuple(header) != FIELDS:
            raise ValueError(f"{path} has other columns: {', '.join(header)}")
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def interleaved(
    variants: Mapping[str, Callable[[], object]], rounds: int, *, warmup: int = 1
) -> dict[str, list[float]]:
    """Milliseconds of each call. Variants take turns, another one first each round, so that drift of the machine
    and order hit all of them alike."""
    names = list(variants)
    times: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(-warmup, rounds):
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            started = time.perf_counter()
            variants[name]()
            elapsed = (time.perf_counter() - started) * 1000
            if round_ >= 0:
                times[name].append(elapsed)
    return times


def surroundings(code: tuple[str, str]) -> Row:
    """What figures depend on: machine, its load (above the number of cores, times are others' too), `code` as from
    `revision`, libraries."""
    commit, dirty = code
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": gpu_name(),
        "load": round(os.getloadavg()[0], 2),
        "commit": commit,
        "dirty": dirty,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": json.dumps({"python": platform.python_version(), **versions()}),
    }


def revision(root: Path) -> tuple[str, str]:
    """The commit and whether the code differs from it ("true", "false"); fresh results do not count as code.

    BENCH_COMMIT, e.g. `0123456789 false`, says it for a copy of the tree on another machine, whose repository may be
    older than its files or absent; without either, both are empty.
    """
    told, _, dirty = os.environ.get("BENCH_COMMIT", "").partition(" ")
    if told:
        return told, dirty
    commit = _output("git", "-C", str(root), "rev-parse", "--short=10", "HEAD")
    if not commit:
        return "", ""
    changed = _output("git", "-C", str(root), "status", "--porcelain", "--", ".", ":!bench/results")
    return commit, "true" if changed else "false"


@cache
def cpu_model() -> str:
    """The processor's name, or its architecture if it has none."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@cache
def gpu_name() -> str:
    """The first GPU's name; empty without one."""
    return _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").partition("\n")[0]


@cache
def versions() -> dict[str, str]:
    """Of the libraries that do the work; those that are not installed are absent."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def rounded(value: float) -> str:
    """Four significant digits; whole numbers stay whole."""
    return str(round(value)) if abs(value) >= 1000 or float(value).is_integer() else f"{value:.4g}"


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
