"""Answers from memory over HTTP: invented people, told and corrected in four sessions, asked in a fifth.

All of it has become entries, shortened as memory keeps them, before they are asked.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.bench_people import KINDS, person, run


@pytest.mark.parametrize("count", [4, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.timeout(1800)
def test_the_packaged_model_answers_from_memory_and_only_from_it(tmp_path: Path, count: int) -> None:
    people = [person(number, "test") for number in range(count)]
    figures = run(people, tmp_path / "data", "", KINDS, 0)
    assert figures["with"]["exact"] >= 0.8
    assert figures["without"]["exact"] <= 0.1
    assert figures["restarted"]["exact"] >= 0.8
