"""The same text as the published package, given the same probabilities: thousands of cases, both families."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lightmem_engine.errors import InvalidInput
from lightmem_engine.models.lingua_options import LinguaOptions
from lightmem_engine.models.lingua_plan import Chunk, Plan, Planner
from lightmem_engine.models.lingua_select import Compressed, select
from lightmem_engine.models.lingua_tables import LinguaVocabulary
from tests.models import lingua_texts
from tests.models.lingua_texts import gpt_tokens, message
from tests.models.tiny_encoder import Family

FAMILIES: tuple[Family, ...] = ("bert", "xlm-roberta")
SETS_PER_FAMILY, CALLS_PER_SET = 65, 40
# 0.8 and 0.55 make percentiles that binary fractions round down.
RATES = (0.8, 0.55, 0.66, 0.9, 0.5, 0.33, 0.6, 0.7, 0.05, 0.99, 1.0, 1.5)
FORCED = (
    "\n",
    ".",
    "?",
    "!",
    ",",
    "the",
    "Denver",
    "\u2581the",
    "##ing",
    "5",
    "。",
    "isn't",
    "ing",
    "[NEW3]",
    "\u2603",
    "self-care",
)


class Oracle:
    """The package with a stub for its model, whose probabilities depend on token, place and seed; it notes them."""

    def __init__(self, theirs: Any) -> None:
        self.theirs = theirs
        self.pad = theirs.tokenizer.convert_tokens_to_ids("[PAD]")
        self.noted: dict[bytes, np.ndarray[Any, Any]] = {}
        self.reseed(0, coarse=False)
        theirs.model = self._model

    def reseed(self, seed: int, *, coarse: bool) -> None:
        """`coarse`: few distinct values, so that ties abound, exactly 0 and 1 among them."""
        torch.manual_seed(seed)
        logits = torch.randn(4093, 2) * 3
        self._table = (logits.round() * torch.tensor([40.0, 0.5])[torch.randint(2, (4093, 1))]) if coarse else logits
        self.noted.clear()

    def _model(self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        places = torch.arange(input_ids.shape[1])
        logits = self._table[(input_ids * 31 + places * 17) % 4093]
        for ids, kept in zip(input_ids, F.softmax(logits, dim=-1)[..., 1], strict=True):
            self.noted[ids.numpy().tobytes()] = kept.numpy()
        return SimpleNamespace(loss=None, logits=logits)

    def probabilities(self, chunk: Chunk) -> Any:
        """What the package's model was told of this very chunk."""
        ids = np.full(512, self.pad, np.int64)
        ids[: len(chunk.ids)] = chunk.ids
        return self.noted[ids.tobytes()][: len(chunk.ids)]

    def compress(self, contexts: list[str], options: LinguaOptions) -> Any:
        """The package's answer, or None where it raises."""
        arguments = {name: getattr(options, name) for name in LinguaOptions.__slots__}
        arguments |= {name: list(arguments[name]) for name in ("force_tokens", "chunk_end_tokens", "force_context_ids")}
        try:
            return self.theirs.compress_prompt(list(contexts), return_word_label=True, **arguments)
        except (IndexError, ZeroDivisionError):
            return None


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


@pytest.fixture(scope="module")
def oracle(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    with pytest.MonkeyPatch.context() as patch:
        return Oracle(lingua_texts.package(lingua_texts.save(tmp_path_factory.mktemp("oracle"), family), patch))


@pytest.fixture(scope="module")
def planner(family: Family) -> Planner:
    return Planner(LinguaVocabulary(lingua_texts.tokenizer(family), family), gpt_tokens)


def options_of(rng: random.Random, number: int) -> LinguaOptions:
    forced = tuple(rng.sample(FORCED, rng.choice((0, 0, 1, 3, 6))))
    return LinguaOptions(
        rate=RATES[number % len(RATES)],
        target_token=rng.choice((-1, -1, -1, 1, 7, 30, 200)),
        use_token_level_filter=rng.random() > 0.05,
        token_to_word=rng.choice(("mean", "mean", "first")),
        force_tokens=forced,
        force_reserve_digit=rng.random() < 0.3,
        drop_consecutive=bool(forced) and rng.random() < 0.5,
        chunk_end_tokens=rng.choice(((".", "\n"), (".", "\n"), ("。", ","), ())),
        use_context_level_filter=rng.random() < 0.7,
        target_context=rng.choice((-1, -1, -1, 1, 2)),
        context_level_rate=rng.choice((1.0, 1.0, 0.5)),
        context_level_target_token=rng.choice((-1, -1, 60)),
        force_context_ids=rng.choice(((), (), (1,))),
    )


def answers(planner: Planner, oracle: Oracle, plans: list[Plan], options: LinguaOptions) -> list[Compressed]:
    return [
        select(planner, plan, [[oracle.probabilities(c) for c in chunks] for chunks in plan.chunks], options)
        for plan in plans
    ]


@pytest.mark.filterwarnings("ignore")
def test_thousands_of_texts_come_out_as_the_packages(planner: Planner, oracle: Oracle) -> None:
    cases = texts = refused = 0
    for number in range(SETS_PER_FAMILY):
        rng = random.Random(number)
        options = options_of(rng, number)
        oracle.reseed(number, coarse=number % 3 == 0)
        calls = [
            [message(rng) for _ in range(1 if rng.random() < 0.9 else rng.randint(2, 4))] for _ in range(CALLS_PER_SET)
        ]
        theirs = [oracle.compress(call, options) for call in calls]
        known = [i for i, answer in enumerate(theirs) if answer is not None]
        plans = planner.plan(calls, options)
        for call, plan, answer in zip(calls, plans, theirs, strict=True):
            cases += 1
            if answer is None:
                refused += 1
                read = [[_or_zeros(oracle, c) for c in chunks] for chunks in plan.chunks]
                found = select(planner, plan, read, options)
                assert found.status != "compressed"
                assert found.text == "\n\n".join(call)
        for i, found in zip(known, answers(planner, oracle, [plans[i] for i in known], options), strict=True):
            assert found.text == theirs[i]["compressed_prompt"], (options, calls[i])
            assert list(found.contexts) == theirs[i]["compressed_prompt_list"]
            assert found.status == ("compressed" if found.text else "empty")
            texts += bool(found.text)
    assert cases == SETS_PER_FAMILY * CALLS_PER_SET
    assert texts > 0.9 * cases
    assert refused > 10


def _or_zeros(oracle: Oracle, chunk: Chunk) -> Any:
    try:
        return oracle.probabilities(chunk)
    except KeyError:  # the package gave up before it ran the model
        return np.zeros(len(chunk.ids), np.float32)


@pytest.mark.filterwarnings("ignore")
def test_labels_say_which_words_stayed(planner: Planner, oracle: Oracle) -> None:
    options = LinguaOptions(rate=0.6)
    call = [lingua_texts.ENGLISH[0] + " " + lingua_texts.CHINESE[0]]
    theirs = oracle.compress(call, options)["fn_labeled_original_prompt"]
    (found,) = answers(planner, oracle, planner.plan([call], options), options)
    assert "\t\t|\t\t".join(f"{word} {int(kept)}" for word, kept in found.labels[0]) == theirs


def test_a_text_of_unknown_characters_has_a_clear_outcome(planner: Planner, family: Family) -> None:
    options = LinguaOptions()
    (plan,) = planner.plan([["\u2603"]], options)
    found = select(planner, plan, [[np.zeros(len(c.ids), np.float32) for c in own] for own in plan.chunks], options)
    # SentencePiece reads a space before them, and that is a word.
    assert (found.text, found.status) == (("\u2603", "no words") if family == "bert" else ("", "empty"))


def test_nothing_gives_nothing(planner: Planner) -> None:
    assert planner.plan([], LinguaOptions()) == []
    (plan,) = planner.plan([[""]], LinguaOptions())
    assert select(planner, plan, [[]], LinguaOptions()) == Compressed("", ("",), "empty")


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": 0.0},
        {"rate": float("nan")},
        {"target_token": 0},
        {"force_tokens": ("",)},
        {"force_tokens": tuple(itertools.repeat("a", 101))},
        {"context_level_rate": 1.5},
        {"context_level_target_token": float("inf")},
        {"token_to_word": "last"},
    ],
)
def test_impossible_options_are_refused(wrong: Any) -> None:
    with pytest.raises(InvalidInput):
        LinguaOptions(**wrong)


def test_a_model_of_its_own_special_tokens(tmp_path: Path) -> None:
    words = lingua_texts.tokenizer("xlm-roberta")
    package, fixed = (LinguaVocabulary(words, "xlm-roberta", special_tokens=kind) for kind in ("package", "fixed"))
    assert package.begin == package.end == words.unk_token_id
    assert (fixed.begin, fixed.end, fixed.pad) == (words.cls_token_id, words.sep_token_id, "<pad>")
    assert len(words) == len(package) - 100
