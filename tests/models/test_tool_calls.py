import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.models.tool_calls import OutputParser, Piece, Spoken, ToolCall, parse_call

CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "</tool_call"}}\n</tool_call>'
LOOK = ToolCall("look", '{"at": "</tool_call"}')


def read(text: str, cuts: list[int], tools: bool = True) -> list[Piece]:
    parser = OutputParser(tools=tools)
    ends = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    found = [piece for a, b in itertools.pairwise(ends) for piece in parser.push(text[a:b])]
    joined: list[Piece] = []
    for piece in [*found, *parser.finish()]:
        last = joined[-1] if joined else None
        if isinstance(piece, Spoken) and isinstance(last, Spoken) and last.kind == piece.kind:
            joined[-1] = Spoken(piece.kind, last.text + piece.text)
        else:
            joined.append(piece)
    return joined


@pytest.mark.parametrize(
    ("text", "tools", "expected"),
    [
        ("Hello there.\n", True, [Spoken("content", "Hello there.\n")]),
        ("", True, []),
        ("<think>\nhm\n</think>\n\nYes", False, [Spoken("reasoning", "hm"), Spoken("content", "Yes")]),
        ("\n<think>hm", False, [Spoken("reasoning", "hm")]),
        ("<think>\n\n</think>\n\nYes", False, [Spoken("content", "Yes")]),
        ("I think <think> so", False, [Spoken("content", "I think <think> so")]),
        (CALL, True, [LOOK]),
        (CALL, False, [Spoken("content", CALL)]),
        (f"Let me see.\n\n{CALL}\n{CALL}", True, [Spoken("content", "Let me see."), LOOK, LOOK]),
        (f"<think>a</think>{CALL} end", True, [Spoken("reasoning", "a"), LOOK, Spoken("content", "end")]),
        ("<tool_call>not json</tool_call>", True, [Spoken("content", "<tool_call>not json</tool_call>")]),
        ('<tool_call>{"name": 1', True, [Spoken("content", '<tool_call>{"name": 1')]),
        ("a < b <tool", True, [Spoken("content", "a < b <tool")]),
    ],
)
@given(cuts=st.lists(st.integers(0, 200), max_size=12))
def test_pieces_are_the_same_however_the_text_is_cut(
    text: str, tools: bool, expected: list[Piece], cuts: list[int]
) -> None:
    assert read(text, cuts, tools) == expected


@given(st.text(alphabet='<tool_cal>/think {}"\n', max_size=60), st.lists(st.integers(0, 60), max_size=8))
def test_any_text_reads_the_same_in_any_pieces(text: str, cuts: list[int]) -> None:
    assert read(text, cuts) == read(text, [])


def test_half_a_mark_is_never_given_out() -> None:
    parser = OutputParser(tools=True)
    given_out = "".join(
        piece.text for sign in f"Well {CALL}" for piece in parser.push(sign) if isinstance(piece, Spoken)
    )
    assert given_out == "Well"
    assert parser.num_calls == 1


def test_arguments_are_json_text_whichever_way_they_were_written() -> None:
    assert parse_call('{"name": "f", "arguments": "{\\"a\\": 1}"}') == ToolCall("f", '{"a": 1}')
    assert parse_call('{"name": "f"}') == ToolCall("f", "{}")
    assert parse_call(json.dumps({"name": 3})) is None
    assert parse_call("[" * 100_000) is None
