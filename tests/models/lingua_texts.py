"""English and Chinese text, tokenizers of both families trained on it, and texts that try to confuse a compressor."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.models import tiny_encoder
from tests.models.tiny_encoder import Family

# The package tells the families apart by these words in the path.
FOLDERS: dict[Family, str] = {"bert": "bert-base-multilingual-cased", "xlm-roberta": "xlm-roberta-large"}

ENGLISH = (
    "Caroline moved to Denver on 8 May 2023, and she isn't unhappy about the mountains.",
    "Did you remember the self-care workshop? It's on Tuesday at 10:30 (really).",
    "He painted; she photographed. They walked, talked and remembered unforgettable evenings!",
    "My sister adopted a grey puppy last winter, and it has eaten three pairs of shoes since then.",
    "I would rather take the 7:45 train than drive, because the pass is closed after heavy snow.",
    "The doctor said that I should sleep more, drink less coffee and stop reading mail at night.",
    "We planted tomatoes, beans and basil behind the house; only the beans survived the hail.",
    "Nobody told me that the meeting had moved to room 214, so I waited alone for forty minutes.",
    "If the rent goes up again in October, we'll look for something smaller near the harbour.",
    "Her first novel sold 12,000 copies in a month, which surprised her publisher more than her.",
    "Could you send me that recipe with chickpeas and lemon? I promised it to my neighbours.",
    "After the exam he slept for eleven hours, woke up, ate an apple and went back to bed.",
    "The old bicycle still works, although the brakes squeal and the bell fell off years ago.",
    "They met at a language course in Lisbon, lost sight of each other and met again in Oslo.",
    "Please don't call before nine; the children are asleep and the dog barks at every ring.",
    "Our team won 3-2 in the last minute, and my voice was gone for the rest of the week.",
)
CHINESE = (
    "我上个星期搬到了成都，新的房子离公司很近，走路只要十分钟。",
    "她的妹妹去年冬天收养了一只小狗，名字叫豆豆，今年已经三岁了。",
    "昨天晚上我们一起吃了火锅，后来又去河边散步，聊了很久以前的事情。",
    "如果明天下雨，会议就改到星期五下午两点半，请大家提前通知客户。",
    "他说他不喜欢喝咖啡，因为喝了以后晚上睡不着，第二天工作没有精神。",
    "请把那本书还给图书馆，借书证在桌子左边的抽屉里，密码是2468。",
    "我们计划明年春天去北京旅行，看看长城，也看看住在那里的老朋友。",
    "医生让他少吃盐，多运动，每天至少走一万步，三个月以后再来检查。",
    "孩子们在院子里种了西红柿和豆角，可是上周的冰雹把它们都打坏了。",
    "这家店的面条很好吃，价格也不贵，只是周末人太多，要排很长的队。",
)
_ODD = (
    *(
        "\u2603",
        "\U0001f600\U0001f44d\U0001f3fd",
        "\u200b",
        "龘靐齉",
        "ﬁne",
        "naïve",
        "e\u0301te\u0301",
        "½",
        "١٢٣",
        "\u00a0",
    ),
    *(
        "[NEW3]",
        "[NEW17]",
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "<unk>",
        "</s>",
        "<pad>",
        "##ing",
        "#",
        "###",
        "\u2581",
        "<|endoftext|>",
    ),
    *(
        "\n",
        "\n\n",
        "\t",
        "   ",
        "...",
        "?!",
        "()",
        "--",
        "' s",
        "n't",
        "it's.",
        " .",
        " ,",
        "#5",
        "$3.50",
        "100%",
        "a1b2",
    ),
)


@cache
def tokenizer(family: Family) -> Any:
    """Of all of the above. English takes about as many tokens as with a real vocabulary of BERT's, or twice as many."""
    return tiny_encoder.tokenizer(family, (*ENGLISH, *CHINESE), vocab_size=1300 if family == "bert" else 500)


def save(folder: Path, family: Family) -> Path:
    """A tiny random LLMLingua-2 checkpoint in a folder whose name tells the package its family."""
    return tiny_encoder.save(folder / FOLDERS[family], family, labels=2, words=tokenizer(family))


def message(rng: random.Random) -> str:
    """Mostly what people write; some of it long, odd, or nothing a tokenizer knows."""
    kind = rng.random()
    if kind < 0.04:
        return rng.choice(("", " ", "\n", "\u2603\u2603", "\U0001f600", "x" * 130, "\u2603 " * 5, ".", "\u200b"))
    size = rng.randint(40, 130) if kind < 0.10 else rng.randint(1, 6)
    return _joined(rng, [_part(rng) for _ in range(size)])


def _part(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.14:
        return rng.choice(_ODD)
    if kind < 0.17:
        return rng.choice("abcdefg") * rng.randint(20, 140)
    words = rng.choice(ENGLISH if kind < 0.75 else CHINESE)
    if rng.random() < 0.5:
        first = rng.randrange(len(words))
        words = words[first : first + rng.randint(1, 40)]
    return words if rng.random() < 0.85 else words.replace(".", "").replace("。", "")


def _joined(rng: random.Random, parts: list[str]) -> str:
    return "".join(part + rng.choice((" ", " ", " ", "", "\n", ". ")) for part in parts)


def gpt_tokens(text: str) -> int:
    """Stands for GPT-3.5's count where its table is not at hand."""
    return -(-len(text.encode()) // 4)


def package(folder: Path, monkeypatch: pytest.MonkeyPatch, device: str = "cpu") -> Any:
    """The published compressor over a checkpoint, its network access cut off, counting with `gpt_tokens`."""
    llmlingua = pytest.importorskip("llmlingua", reason="the published package is a test extra")
    import tiktoken
    import torch

    def encode(text: str, **_: object) -> list[int]:
        return [0] * gpt_tokens(text)

    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda _: SimpleNamespace(encode=encode))
    state = torch.random.get_rng_state()
    try:
        return llmlingua.PromptCompressor(str(folder), device_map=device, use_llmlingua2=True)
    finally:
        torch.random.set_rng_state(state)
