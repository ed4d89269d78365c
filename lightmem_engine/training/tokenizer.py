"""The micro model's tokenizer: a small byte-level BPE with Qwen's special tokens, for which our prompts are short.

What every prompt repeats word for word (instructions, fences, the joints of the JSON answers) is one token each, so
that a small model spends its reading on what differs. Invented words stay several tokens long: they must be copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lightmem_engine.prompts import v1
from lightmem_engine.training.examples import LEVELS
from lightmem_engine.training.lives import Line
from lightmem_engine.training.tasks import any_example

VOCABULARY = 2048
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_BARE = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_JOINTS = (
    *('{"facts":[', '{"source":', ',"fact":"', '"},', '"}]}', "]}", '{"decisions":[', '{"entry":', ',"action":"', "},"),
    *('","by":', ',"text":"', '","texts":["', '","', '"]}', "}]}"),
)
# Qwen's own pattern, but digits come in pairs: a year is two tokens, a code several.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def build(seed: str, *, size: int = VOCABULARY, num_examples: int = 4000) -> Any:
    """A `PreTrainedTokenizerFast` of at most `size` tokens, trained on rendered examples. Equal seeds, equal tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    fixed = [*_BARE, *_instructions(), *_JOINTS]
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(fixed),
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_without(fixed, _texts(seed, num_examples)), trainer)
    bpe.add_tokens([AddedToken(text, normalized=False, special=False) for text in fixed])
    template = files(__package__).joinpath("chat_template.jinja").read_text("utf-8")
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def _instructions() -> list[str]:
    """Everything that prompts v1 say in the same words each time, taken from their renderings."""
    line = Line(datetime(2023, 5, 8, tzinfo=UTC), "text")
    turn = v1.Numbered("user", "text", line.event_time)
    opening = v1.memory_text(["text"]).partition("text")[0]
    asked = [v1.extract([turn]), v1.extract([turn], "event"), v1.decide([line], [1]), v1.summarize([line])]
    fences = ["\n</memory>", "<turns>\n", "\n</turns>", "<entries>\n", "\n</entries>"]
    return [opening, *(messages[0]["content"] for messages in asked), *fences]


def _texts(seed: str, count: int) -> Iterator[str]:
    for i in range(count):
        example = any_example(f"tokenizer {seed} {i}", LEVELS[2 + i % 3])
        if example is not None:
            yield from (f"{message['role']}\n{message['content']}" for message in example.messages)


def _without(fixed: Iterable[str], texts: Iterator[str]) -> Iterator[str]:
    """The texts as BPE will see them: what has a token of its own is cut out."""
    ordered = sorted(fixed, key=len, reverse=True)
    for text in texts:
        pieces = [text]
        for part in ordered:
            pieces = [piece for whole in pieces for piece in whole.split(part)]
        yield from (piece for piece in pieces if piece)
