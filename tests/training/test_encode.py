"""Token ids are those of the chat template; what is learned is the answers and nothing else."""

import random
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import pytest

from lightmem_engine.prompts import v1
from lightmem_engine.training import tokenizer as tokenizers
from lightmem_engine.training.encode import Encoder, batches
from lightmem_engine.training.examples import LEVELS
from lightmem_engine.training.tasks import example


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tokenizers.build("1", size=1024, num_examples=150)


@pytest.mark.parametrize("task", ["chat", "plain", "decide", "extract"])
def test_encoding_equals_the_chat_template(tokenizer: Any, task: str) -> None:
    encoder = Encoder(tokenizer)
    for i in range(25):
        made = example(task, str(i), "train", LEVELS[3])
        if made.is_live:
            continue
        *before, answer = made.messages
        prompt = tokenizer.apply_chat_template(
            before, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        ids = tokenizer(f"{prompt}{answer['content']}<|im_end|>\n", add_special_tokens=False)["input_ids"]
        assert encoder.encode(made).ids == tuple(ids)


def test_what_is_learned_are_the_answers_with_their_end(tokenizer: Any) -> None:
    encoder = Encoder(tokenizer)
    for i in range(25):
        made = example("chat", str(i), "train", LEVELS[3])
        encoded = encoder.encode(made)
        said = [m["content"] for m in made.messages if m["role"] == "assistant"]
        learned = [tokenizer.decode(encoded.ids[start:end]) for start, end, _ in encoded.answers]
        assert learned == [f"{answer}<|im_end|>" for answer in said]


def test_the_prompt_opens_the_answer_with_an_empty_thought(tokenizer: Any) -> None:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_tools_are_written_as_qwen_reads_them(tokenizer: Any) -> None:
    tool = {"type": "function", "function": {"name": "clock", "parameters": {}}}
    call = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "12:00"},
    ]
    prompt = tokenizer.apply_chat_template(messages, tools=[tool], tokenize=False)
    assert prompt.count("<|im_start|>system") == 1
    assert '"name": "clock"' in prompt
    assert '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>' in prompt
    assert "<tool_response>\n12:00\n</tool_response>" in prompt


def test_every_fixed_instruction_is_one_token(tokenizer: Any) -> None:
    turn = v1.Numbered("user", "x", datetime(2023, 5, 8, tzinfo=UTC))
    for text in (v1.extract([turn])[0]["content"], v1.memory_text(["x"]).partition("x")[0]):
        assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == 1


def test_any_text_survives_the_tokenizer(tokenizer: Any) -> None:
    text = "Zoë paid 3.50 € at 12:30 in 東京 👩‍🚀,  twice.\n\tYes"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_equal_seeds_build_equal_tokenizers(tokenizer: Any) -> None:
    assert tokenizers.build("1", size=1024, num_examples=150).get_vocab() == tokenizer.get_vocab()


def test_batches_are_seeded_and_within_their_budget(tokenizer: Any) -> None:
    encoder = Encoder(tokenizer)
    one, two = (list(islice(batches(encoder, "5", 2, 1024), 12)) for _ in range(2))
    assert all(a.ids.equal(b.ids) and a.answers == b.answers for a, b in zip(one, two, strict=True))
    assert all(batch.ids.numel() <= 1024 or len(batch.ids) == 1 for batch in one)


def test_a_repeated_sequence_is_learned_from_its_second_time_on(tokenizer: Any) -> None:
    encoded = Encoder(tokenizer).repeated(random.Random(1))
    ((start, end, _),) = encoded.answers
    assert end == len(encoded.ids)
    length = start - 1
    assert encoded.ids[:length] * (len(encoded.ids) // length) == encoded.ids
