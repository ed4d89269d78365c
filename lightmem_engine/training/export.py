"""`python -m lightmem_engine.training.export RUN`: the weights of a run as the package ships them, with their card."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM

from lightmem_engine.errors import ConfigError, LightMemError
from lightmem_engine.models.checkpoint import locate
from lightmem_engine.models.packaged import MICRO_QWEN_DIRECTORY
from lightmem_engine.models.qwen_checkpoint import check_prompt_version

MAX_BYTES = 16 * 1024 * 1024


def export(run: Path, to: Path, marks: Mapping[str, float]) -> None:
    """Write the run's model to `to` as bfloat16 safetensors, with tokenizer, record and card; 16 MB at most.

    marks: the held-out figures that record and card name. Raises `ConfigError` if `run` holds no finished checkpoint,
    one of another prompt version, or one that is too large.
    """
    if not (run / "lightmem.json").is_file():
        raise ConfigError(f"{run} holds no trained model: there is no lightmem.json")
    check_prompt_version(str(run))
    model: Any = Qwen3ForCausalLM.from_pretrained(run, dtype=torch.bfloat16)
    size = sum(weights.numel() * weights.element_size() for weights in model.parameters())
    if size > MAX_BYTES:
        raise ConfigError(f"the weights take {size} bytes; the package has room for {MAX_BYTES}")
    to.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(to)
    AutoTokenizer.from_pretrained(run).save_pretrained(to)
    record = json.loads((run / "lightmem.json").read_text("utf-8"))
    record |= {"held_out": dict(marks), "sha256": locate(str(to)).digest}
    (to / "lightmem.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    (to / "README.md").write_text(card(record), "utf-8")


def card(record: Mapping[str, Any]) -> str:
    """The model card of a record, in Markdown."""
    template = files(__package__).joinpath("model_card.txt").read_text("utf-8")
    rows = "\n".join(f"| {name} | {value:g} |" for name, value in record["held_out"].items())
    plan, progress = record["plan"], record["progress"]
    return template.format(
        rows=rows,
        commit=record["commit"],
        prompt_version=record["prompt_version"],
        data_seed=record["data_seed"],
        layers=plan["layers"],
        hidden=plan["hidden"],
        heads=plan["heads"],
        head_dim=plan["hidden"] // plan["heads"],
        context=plan["context"],
        million_tokens=round(progress["tokens"] / 1e6, 1),
        minutes=round(progress["seconds"] / 60),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Export; the marks are read from a file with the exam's output. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lightmem_engine.training.export", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--to", type=Path, default=MICRO_QWEN_DIRECTORY)
    parser.add_argument("--marks", type=Path, required=True, help="what `training.evaluate` printed, as a file")
    options = parser.parse_args(arguments)
    try:
        marks = json.loads(options.marks.read_text("utf-8").splitlines()[-1])
        export(options.run, options.to, marks)
    except (LightMemError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
