"""The rows of the serving bench for people: a picture, and a table of one block per number of clients."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.chart import Panel, svg
from bench.harness import Row, Table, cpu_model, gpu_name

MODES = ("alone", "off", "on", "on + sleep")


def panels(rows: Sequence[Row]) -> list[Panel]:
    """One panel per figure: groups are numbers of clients, bars are modes."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for title, clients, mode, figure in _figures(rows):
        found.setdefault(title, {}).setdefault(f"{clients} clients", {})[mode] = float(figure)
    return [Panel(title, bars) for title, bars in found.items()]


def plot(table: Table, path: Path, model: str) -> None:
    """The rows as a picture."""
    heading = f"{model or 'packaged model'} on {gpu_name() or cpu_model()}: vLLM alone, and with memory"
    path.write_text(svg(heading, panels(table.rows), MODES), "utf-8")
    print(f"the picture is {path}")


def printed(rows: Sequence[Row]) -> str:
    """A Markdown table per number of clients: a line per figure, a column per mode."""
    blocks: dict[int, dict[str, dict[str, str]]] = {}
    for title, clients, mode, figure in _figures(rows):
        blocks.setdefault(clients, {}).setdefault(title, {})[mode] = figure
    modes = [mode for mode in MODES if any(mode in line for block in blocks.values() for line in block.values())]
    lines: list[str] = []
    for clients, block in blocks.items():
        lines += ["", f"| {clients} clients | {' | '.join(modes)} |", f"|---|{'---|' * len(modes)}"]
        lines += [f"| {title} | {' | '.join(line.get(mode, '') for mode in modes)} |" for title, line in block.items()]
    return "\n".join(lines)


def _figures(rows: Sequence[Row]) -> Iterator[tuple[str, int, str, str]]:
    """Title with unit, clients, mode and figure of each row; p50 and p99 of those that are distributions."""
    for row in rows:
        case = json.loads(str(row["case"]))
        for name in ("value", "p50", "p99"):
            if name in row:
                title = f"{row['metric']}{'' if name == 'value' else f', {name}'} [{row['unit']}]"
                yield title, int(case["clients"]), str(case["memory"]), str(row[name])
