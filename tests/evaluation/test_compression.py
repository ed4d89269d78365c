"""Compression metrics: by hand, against the reference, and through the real stage."""

from __future__ import annotations

import random
from typing import Any

import pytest

from lightmem_engine.config_sensory import CompressConfig
from lightmem_engine.evaluation import compression
from tests.evaluation.stub_stage import stub_stage
from tests.reference import load_evalkit

SENTENCE = """Ada painted a harbour at sunrise with her sister in Bergen and it was raining the whole week but the
ferry never came so they didn't leave before the 14th of March when a fisherman offered 3 places on his boat"""
WORDS = SENTENCE.split()


def conversation(seed: int) -> dict[str, Any]:
    """Sessions of random turns, and questions about words in some of them."""
    drawn = random.Random(seed)
    body: dict[str, Any] = {"speaker_a": "Ada", "speaker_b": "Bo", "session_2_date_time": "8 May 2023"}
    texts = {}
    for number in (10, 1, 2):
        turns = []
        for i in range(12):
            turn = {
                "speaker": ("Ada", "Bo")[i % 2],
                "dia_id": f"D{number}:{i}",
                "text": " ".join(drawn.sample(WORDS, 9)),
            }
            if i == 5:
                turn["blip_caption"] = "a boat, moored"
            texts[turn["dia_id"]] = turn["text"]
            turns.append(turn)
        body[f"session_{number}"] = turns
    qa = []
    for i in range(20):
        evidence = drawn.sample(sorted(texts), 2)
        answer = " ".join(drawn.sample(texts[evidence[0]].split(), 3))
        qa.append(
            {
                "question": " ".join(drawn.sample(texts[evidence[0]].split(), 4)),
                "answer": answer if i else 14,
                "category": i % 5 + 1,
                "evidence_ids": evidence if i % 7 else [],
            }
        )
    return {"conversation": body, "qa": qa}


def test_turns_come_in_order_of_sessions_with_their_captions() -> None:
    turns = compression.said(conversation(0))
    assert [turn.session for turn in turns] == [1] * 12 + [2] * 12 + [10] * 12
    assert turns[5].text.endswith("[shares a photo: a boat, moored]")


def test_nothing_lost_is_nothing_lost() -> None:
    whole = conversation(1)
    found = compression.report([whole], [[turn.text for turn in compression.said(whole)]])
    assert (found["kept"], found["survival"], found["intact"]) == (1, 1, 1)


def test_metrics_and_baselines_equal_the_reference() -> None:
    evalkit = load_evalkit()
    conversations = [conversation(seed) for seed in range(4)]
    ours = compression.baselines(conversations, rates=(0.5, 0.3))
    methods = {
        "stopwords": evalkit.stopword_drop,
        "rarest 0.5": lambda raw: evalkit.idf_keep(raw, 0.5),
        "rarest 0.3": lambda raw: evalkit.idf_keep(raw, 0.3),
        "random 0.5": compression.keep_random(0.5),
        "random 0.3": compression.keep_random(0.3),
    }
    assert ours.keys() == methods.keys()
    for name, method in methods.items():
        theirs = evalkit.compression_report(conversations, method)
        assert ours[name].keys() == theirs.keys()
        for metric, value in theirs.items():
            assert ours[name][metric] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("live", [False, True], ids=["by session", "by turn"])
@pytest.mark.parametrize("rate", [1.0, 0.5, 0.3])
async def test_the_real_stage_keeps_the_rate(live: bool, rate: float) -> None:
    conversations = [conversation(5), conversation(6)]
    stage = stub_stage(CompressConfig(rate=rate, protect=(), whole_words=0))
    short = await compression.compress_conversations(conversations, stage, live=live)
    assert [len(texts) for texts in short] == [36, 36]
    found = compression.report(conversations, short)
    assert found["kept"] == pytest.approx(rate, abs=0.06)
    if rate == 1:
        assert short[0] == [turn.text for turn in compression.said(conversations[0])]
