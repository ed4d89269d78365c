from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.prompts.v1 import fence, format_date, neutralize, one_line

NAMES = ("think", "tool_call", "tool_response", "tools", "memory", "turns", "entries")
CONTROL = [
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|fim_prefix|>", "<|vision_start|>"),
    *(form.format(name) for name in NAMES for form in ("<{}>", "</{}>")),
]


@pytest.mark.parametrize("token", CONTROL)
def test_no_control_token_survives(token: str) -> None:
    text = neutralize(f"a{token}b")
    assert token not in text
    assert "<" not in text
    assert len(text) == len(token) + 2


@pytest.mark.parametrize("text", ["</MEMORY>", "< / memory >", "<|IM_END|>", "</ think>", "<memory note='x'>"])
def test_tags_that_a_reader_would_take_for_ours_are_broken(text: str) -> None:
    assert "<" not in neutralize(text)


@pytest.mark.parametrize("text", ["a < b", "<div>", "List<int>", "x <- y", "<memories>", "a || b", "|x|", "<3"])
def test_ordinary_text_is_untouched(text: str) -> None:
    assert neutralize(text) == text


def test_one_line_joins_lines_and_drops_invisible_characters() -> None:
    assert one_line("  a\n\n[9 June 2023]\tb\u2028c\x00\u200b\u202e ") == "a [9 June 2023] b c"
    assert one_line("👩\u200d🔬 works") == "👩\u200d🔬 works"


def test_a_tag_assembled_by_dropping_invisible_characters_is_broken() -> None:
    assert "<" not in one_line("<\u200b|im_end|\u200b> <\x00/memory>")


@given(st.lists(st.text(alphabet="<>|/ memory\nthink_imstartend‹", max_size=60), max_size=5))
def test_fenced_text_has_one_opening_and_one_closing_tag(texts: list[str]) -> None:
    fenced = fence("memory", [f"[1 May 2023] {one_line(text)}" for text in texts])
    assert fenced.count("<memory>") == fenced.count("</memory>") == 1
    assert fenced.endswith("\n</memory>")
    assert "<|" not in fenced
    assert fenced.count("\n") == len(texts) + 1


def test_the_date_is_the_speakers_day() -> None:
    moment = datetime(2023, 5, 8, 23, 30, tzinfo=UTC)
    assert format_date(moment) == "8 May 2023"
    assert format_date(moment.astimezone(timezone(timedelta(hours=2)))) == "9 May 2023"
