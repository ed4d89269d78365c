import pytest
import torch

from lightmem_engine.errors import InvalidInput
from lightmem_engine.models.decoding import Grammars, Sampler, TextStream
from lightmem_engine.types import Sampling
from tests.models import tiny_qwen

TOKENIZER = tiny_qwen.tokenizer()


def streamed(text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    stream, pieces = TextStream(TOKENIZER, stop), list[str]()
    for token in TOKENIZER(text)["input_ids"]:
        pieces.append(stream.push(token))
        if stream.stopped:
            break
    pieces.append(stream.finish())
    return pieces, stream.stopped


@pytest.mark.parametrize("text", ["Boston and Denver", "naïve 日本語 👩‍🔬 end", "", " leading", "a\n\n b"])
def test_pieces_join_to_the_text_and_never_hold_half_a_character(text: str) -> None:
    pieces, _ = streamed(text)
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize(
    ("stop", "expected"), [(("Denver",), "Boston and "), (("and", "Boston and"), ""), (("x", ""), "Boston and Denver")]
)
def test_text_ends_before_the_first_stop_string(stop: tuple[str, ...], expected: str) -> None:
    pieces, stopped = streamed("Boston and Denver", stop)
    assert "".join(pieces) == expected
    assert stopped == (expected != "Boston and Denver")


def test_a_stop_string_that_only_begins_is_given_out_in_the_end() -> None:
    pieces, stopped = streamed("Boston and Den", ("Denver",))
    assert ("".join(pieces), stopped) == ("Boston and Den", False)


def test_broken_bytes_at_the_end_are_not_lost_silently() -> None:
    stream = TextStream(TOKENIZER, ())
    first = TOKENIZER("é")["input_ids"][0]
    assert stream.push(first) == ""
    assert stream.finish() == "\ufffd"


def test_temperature_zero_takes_the_best() -> None:
    assert Sampler(Sampling()).draw(torch.tensor([0.1, 3.0, 2.9])) == 1


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    sampler = Sampler(Sampling(temperature=1.0, top_p=0.6, seed=1))
    assert {sampler.draw(logits) for _ in range(200)} == {0, 1}


def test_a_schema_that_cannot_be_enforced_is_the_callers_fault() -> None:
    grammars = Grammars(TOKENIZER, len(TOKENIZER), [TOKENIZER.eos_token_id])
    with pytest.raises(InvalidInput, match="cannot be enforced"):
        grammars.matcher({"type": "no such type"})
