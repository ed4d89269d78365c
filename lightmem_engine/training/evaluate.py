"""`python -m lightmem_engine.training.evaluate DIR`: the held-out exam of a checkpoint, through the serving code."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jsonschema

from lightmem_engine.errors import LightMemError
from lightmem_engine.models.qwen import QwenModel
from lightmem_engine.training import exam
from lightmem_engine.training.examples import LEVELS
from lightmem_engine.types import Priority, Prompt, Sampling

_MAX_TOKENS = {"extract": 600, "decide": 300, "alike": 300}
_MAX_ANSWER_TOKENS = 48


@dataclass(frozen=True, slots=True)
class Answered:
    """An item with what the model said; `is_cut` if it did not come to its end."""

    item: exam.Item
    text: str
    is_cut: bool


def longest(item: exam.Item) -> int:
    """Tokens that an answer may have."""
    return _MAX_TOKENS.get(item.section, _MAX_ANSWER_TOKENS)


async def sit(model: QwenModel, items: Iterable[exam.Item]) -> list[Answered]:
    """The model's greedy answers, in order; those with a schema under constrained decoding."""
    answers = []
    for item in items:
        sampling = Sampling(max_tokens=longest(item))
        prompt = Prompt(item.messages, item.schema)
        (completion,) = await model.generate([prompt], sampling=sampling, priority=Priority.FOREGROUND)
        answers.append(Answered(item, completion.text, completion.finish_reason == "length"))
    return answers


def items(size: float, seed: str) -> list[exam.Item]:
    """The exam; size 1 takes well under a minute on one CPU core."""

    def many(count: int) -> int:
        return max(1, round(count * size))

    level = LEVELS[3]
    return [
        *exam.questions(10, many(60), known=True, seed=seed),
        *exam.questions(20, many(60), known=True, seed=seed),
        *exam.questions(10, many(40), known=False, seed=seed),
        *exam.questions(20, many(30), known=False, seed=seed),
        *exam.structured("decide", many(30), seed=seed, level=level),
        *exam.structured("extract", many(20), seed=seed, level=level),
        *exam.structured("alike", many(40), seed=seed, level=level),
    ]


def marks(answers: Sequence[Answered]) -> dict[str, float]:
    """Every figure a share from 0 to 1; `num_*` are counts."""
    sections: dict[str, list[Answered]] = {}
    for answer in answers:
        sections.setdefault(answer.item.section, []).append(answer)
    result: dict[str, float] = {}
    for section, some in sections.items():
        if section in _MAX_TOKENS:
            continue
        result[section] = _share(answer.text == answer.item.wanted for answer in some)
        updated = [answer for answer in some if answer.item.is_updated]
        if updated:
            result[f"{section} updated"] = _share(answer.text == answer.item.wanted for answer in updated)
    for section in ("decide", "alike"):
        result |= _decisions(section, sections.get(section, []))
    return result | _facts(sections.get("extract", []))


def _decisions(section: str, answers: Sequence[Answered]) -> dict[str, float]:
    right = acted = wanted = valid = 0
    for answer in answers:
        parsed = _parsed(answer)
        valid += parsed is not None
        here, asked = exam.match_decisions(parsed or {"decisions": []}, answer.item.wanted)
        right, wanted = right + here, wanted + asked
        acted += exam.match_actions(parsed or {"decisions": []}, answer.item.wanted)
    if not answers:
        return {}
    return {
        f"{section} actions": acted / wanted,
        f"{section} exact": right / wanted,
        f"{section} valid": valid / len(answers),
        f"num_{section}": wanted,
    }


def _facts(answers: Sequence[Answered]) -> dict[str, float]:
    right = said = wanted = valid = grounded = told = 0
    for answer in answers:
        parsed = _parsed(answer)
        valid += parsed is not None
        parsed = parsed or {"facts": []}
        counts = exam.match_facts(parsed, answer.item.wanted)
        right, said, wanted = right + counts[0], said + counts[1], wanted + counts[2]
        found = exam.grounded(parsed, answer.item.messages)
        grounded, told = grounded + found[0], told + found[1]
    if not answers:
        return {}
    return {
        "facts F1": 2 * right / max(1, said + wanted),
        "facts grounded": grounded / max(1, told),
        "facts valid": valid / len(answers),
        "num_facts": wanted,
    }


def _parsed(answer: Answered) -> Any:
    """The JSON value, or None if it is cut off or not what the schema says."""
    try:
        value = json.loads(answer.text)
        jsonschema.validate(value, dict(answer.item.schema or {}))
    except (ValueError, jsonschema.ValidationError):
        return None
    return None if answer.is_cut else value


def _share(found: Iterable[bool]) -> float:
    values = list(found)
    return sum(values) / len(values)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one JSON object of marks; with `--show`, wrong answers before it. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lightmem_engine.training.evaluate", description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--size", type=float, default=1.0, help="how long the exam is; 1 is the usual one")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--show", type=int, default=0, help="so many wrong answers of each section")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        model = QwenModel.load(options.checkpoint)
        answers = asyncio.run(_examine(model, items(options.size, options.seed)))
    except LightMemError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _show(answers, options.show)
    result = {name: round(value, 3) for name, value in marks(answers).items()}
    print(json.dumps({**result, "seconds": round(time.monotonic() - started, 1)}))
    return 0


async def _examine(model: QwenModel, some: Sequence[exam.Item]) -> list[Answered]:
    try:
        return await sit(model, some)
    finally:
        await model.aclose()


def _show(answers: Sequence[Answered], most: int) -> None:
    shown: dict[str, int] = {}
    for answer in answers:
        section = answer.item.section
        if answer.text != answer.item.wanted and shown.get(section, 0) < most:
            shown[section] = shown.get(section, 0) + 1
            print(f"--- {section}\n{answer.item.messages[-1]['content']}\n>>> {answer.text}\n=== {answer.item.wanted}")


if __name__ == "__main__":
    sys.exit(main())
