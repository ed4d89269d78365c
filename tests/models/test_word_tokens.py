"""Tokens put together from words met before equal those of the whole text."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, normalizers

from lightmem_engine.models.word_tokens import WordTokens
from lightmem_engine.text import forget_words
from tests.models import lingua_texts
from tests.models.tiny_encoder import Family

FAMILIES: tuple[Family, ...] = ("bert", "xlm-roberta")
ODD = (" ", " ", "\n", "\t", "\r", "\x1c", "\x00", "\u0085", "\u00a0", "\u2028", "\u0301", "\u200b", "a", "Ab", "[UNK]")


def backend(family: Family) -> Any:
    return Tokenizer.from_str(lingua_texts.tokenizer(family).backend_tokenizer.to_str())


def texts() -> list[str]:
    """What people write, and runs of characters that no tokenizer was made for."""
    rng = random.Random(5)
    strange = [
        "".join(rng.choice((*ODD, chr(rng.randrange(0x3000)))) for _ in range(rng.randint(0, 40))) for _ in range(600)
    ]
    return [*(lingua_texts.message(rng) for _ in range(300)), *strange]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("uncased", [False, True], ids=["cased", "uncased"])
def test_tokens_and_their_places_equal_the_tokenizers(family: Family, uncased: bool) -> None:
    whole = backend(family)
    if uncased and family == "bert":
        whole.normalizer = normalizers.BertNormalizer(lowercase=True)
    whole.add_special_tokens([AddedToken("[NEW1]", special=True, normalized=False)])
    words = WordTokens(whole)
    assert words.is_wordwise == (family == "bert")
    given = texts()
    expected = whole.encode_batch(given, add_special_tokens=False)
    for _ in range(2):  # the second time from memory
        assert words.ids(given) == [own.ids for own in expected]
        for (ids, offsets), own in zip(words.with_offsets(given), expected, strict=True):
            assert ids == own.ids
            assert [*map(tuple, offsets.tolist())] == own.offsets
    assert words.ids([]) == []
    assert words.with_offsets([]) == []


@pytest.mark.parametrize(
    "added",
    [
        AddedToken("New York", special=True, normalized=False),
        AddedToken("[X]", special=True, normalized=False, rstrip=True),
        AddedToken("plain", normalized=True),
    ],
    ids=["space inside", "takes space", "normalized"],
)
def test_added_tokens_that_look_across_white_space_are_left_to_the_tokenizer(added: AddedToken) -> None:
    whole = backend("bert")
    whole.add_tokens([added])
    assert not WordTokens(whole).is_wordwise


def test_words_are_forgotten_when_somebody_is() -> None:
    words = WordTokens(backend("bert"))
    words.ids(["Caroline moved"])
    assert words._word.cache_info().currsize
    forget_words()
    assert not words._word.cache_info().currsize
