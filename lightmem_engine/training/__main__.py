"""`python -m lightmem_engine.training --out DIR --minutes N --seed S`: train the micro model, or train it on."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lightmem_engine.errors import LightMemError
from lightmem_engine.training.trainer import Plan, Trainer


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; the log goes to `train.jsonl` in the folder. Returns the exit code."""
    default = Plan()
    parser = argparse.ArgumentParser(prog="python -m lightmem_engine.training", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint; one that exists is resumed")
    for name, value in asdict(default).items():
        if not isinstance(value, bool):
            option = f"--{name.replace('_', '-')}"
            parser.add_argument(option, type=type(value), default=value, help=f"default {value}")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=default.bf16)
    options = vars(parser.parse_args(arguments))
    folder = options.pop("out")
    try:
        progress = Trainer(folder, Plan(**options), commit()).run()
    except LightMemError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(progress)
    return 0


def commit() -> str:
    """The commit of the source tree, "unknown" outside of one."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
