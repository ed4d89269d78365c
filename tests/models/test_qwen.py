import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest
import pytest_asyncio
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightmem_engine.errors import BackendUnavailable, ConfigError, InvalidInput
from lightmem_engine.models.qwen import QwenModel
from lightmem_engine.prompts import v1
from lightmem_engine.types import Completion, Priority, Prompt, Sampling
from tests.models import tiny_qwen

CHAT = Prompt(({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is Caroline?"}))
GREEDY = Sampling(max_tokens=24)
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["cat", "dog"]}, "legs": {"type": "integer", "minimum": 1, "maximum": 99}},
    "required": ["kind", "legs"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=["qwen2", "qwen3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind: Literal["qwen2", "qwen3"] = request.param
    return tiny_qwen.save(tmp_path_factory.mktemp(kind), kind)


@pytest_asyncio.fixture
async def model(folder: Path) -> AsyncIterator[QwenModel]:
    loaded = QwenModel.load(str(folder), cache_bytes=10_000_000)
    yield loaded
    await loaded.aclose()


async def ask(model: QwenModel, prompt: Prompt, sampling: Sampling = GREEDY) -> Completion:
    return (await model.generate([prompt], sampling=sampling, priority=Priority.FOREGROUND))[0]


async def collect(model: QwenModel, prompt: Prompt, sampling: Sampling) -> tuple[list[str], Completion]:
    deltas = [delta async for delta in model.stream(prompt, sampling=sampling, priority=Priority.FOREGROUND)]
    assert deltas[-1].finish_reason is not None
    assert deltas[-1].usage is not None
    assert all(delta.finish_reason is None for delta in deltas[:-1])
    texts = [delta.text for delta in deltas]
    return texts, Completion("".join(texts), deltas[-1].finish_reason, deltas[-1].usage)


async def test_greedy_text_is_that_of_transformers_own_generate(folder: Path, model: QwenModel) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    plain: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    text = tokenizer.apply_chat_template(
        list(CHAT.messages), tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert text.endswith("<think>\n\n</think>\n\n")
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    output = plain.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids["input_ids"].shape[1] :]
    answer = await ask(model, CHAT)
    assert answer.text == tokenizer.decode(output, skip_special_tokens=True)
    assert answer.usage.prompt_tokens == ids["input_ids"].shape[1] == model.count(CHAT)
    assert answer.usage.completion_tokens == len(output)


async def test_stream_and_generate_agree(model: QwenModel) -> None:
    texts, streamed = await collect(model, CHAT, GREEDY)
    assert len(texts) > 1
    whole = await ask(model, CHAT)
    assert (whole.text, whole.finish_reason) == (streamed.text, streamed.finish_reason)


async def test_an_unchanged_prefix_is_read_once_and_changes_nothing(folder: Path, model: QwenModel) -> None:
    uncached = QwenModel.load(str(folder), cache_bytes=0)
    messages: list[dict[str, str]] = [{"role": "system", "content": "Be brief. " * 30}]
    expected_cached = 0
    for turn in range(4):
        messages.append({"role": "user", "content": f"Question {turn} about Boston?"})
        prompt = Prompt(tuple(messages))
        first, second = await ask(model, prompt), await ask(uncached, prompt)
        assert first.text == second.text
        assert second.usage.cached_tokens == 0
        assert first.usage.cached_tokens >= expected_cached
        expected_cached = first.usage.prompt_tokens - 10  # all but the live turn's generation prompt
        messages.append({"role": "assistant", "content": first.text})
    await uncached.aclose()


async def test_the_same_prompt_again_computes_one_token_of_it(model: QwenModel) -> None:
    first = await ask(model, CHAT)
    again = await ask(model, CHAT)
    assert first.usage.cached_tokens == 0
    assert again.usage.cached_tokens == again.usage.prompt_tokens - 1
    assert again.text == first.text


async def test_forgetting_drops_the_prefix_caches(model: QwenModel) -> None:
    await ask(model, CHAT)
    await model.forget()
    assert (await ask(model, CHAT)).usage.cached_tokens == 0


async def test_equal_seeds_give_equal_samples_and_others_differ(model: QwenModel) -> None:
    def sampling(seed: int) -> Sampling:
        return Sampling(max_tokens=24, temperature=1.5, top_p=0.95, seed=seed)

    answers = [(await ask(model, CHAT, sampling(seed))).text for seed in (1, 1, 2, 3)]
    assert answers[0] == answers[1]
    assert len(set(answers)) > 1


async def test_stop_strings_end_the_text_before_them(model: QwenModel) -> None:
    whole = (await ask(model, CHAT)).text
    stop = whole[5:8]
    texts, answer = await collect(model, CHAT, Sampling(max_tokens=24, stop=(stop,)))
    assert answer.text == whole[: whole.index(stop)] == "".join(texts)
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize("max_tokens", [1, 7])
async def test_length_ends_the_text(model: QwenModel, max_tokens: int) -> None:
    answer = await ask(model, CHAT, Sampling(max_tokens=max_tokens))
    assert answer.finish_reason == "length"
    assert answer.usage.completion_tokens == max_tokens


@pytest.mark.parametrize("temperature", [0.0, 1.3])
async def test_a_schema_is_enforced(model: QwenModel, temperature: float) -> None:
    prompt = Prompt(CHAT.messages, SCHEMA)
    for seed in range(5):
        answer = await ask(model, prompt, Sampling(max_tokens=200, temperature=temperature, seed=seed))
        assert answer.finish_reason == "stop"
        jsonschema.validate(json.loads(answer.text), SCHEMA)
        assert answer.text == json.dumps(json.loads(answer.text), separators=(",", ":"))


async def test_our_own_schemas_start_as_demanded(model: QwenModel) -> None:
    starts = {"facts": v1.EXTRACT["flat"], "decisions": v1.DECIDE, "summary": v1.SUMMARY}
    for key, schema in starts.items():
        answer = await ask(model, Prompt(CHAT.messages, schema), Sampling(max_tokens=30))
        assert answer.text.startswith(f'{{"{key}":')


async def test_a_prompt_beyond_the_context_is_refused(tmp_path: Path) -> None:
    small = QwenModel.load(str(tiny_qwen.save(tmp_path, context=64)))
    with pytest.raises(InvalidInput, match="reads at most 63"):
        await ask(small, Prompt(({"role": "user", "content": "word " * 100},)))
    answer = await ask(small, Prompt(({"role": "user", "content": "hi"},)), Sampling())
    assert answer.usage.prompt_tokens + answer.usage.completion_tokens <= 64
    await small.aclose()


@pytest.mark.parametrize(
    "sampling",
    [Sampling(max_tokens=0), Sampling(temperature=-1), Sampling(top_p=0), Sampling(temperature=float("nan"))],
)
async def test_bad_sampling_is_refused(model: QwenModel, sampling: Sampling) -> None:
    with pytest.raises(InvalidInput):
        await ask(model, CHAT, sampling)


@pytest.mark.parametrize("messages", [[], [{"content": "x"}], [{"role": "user", "content": [{"type": "image_url"}]}]])
async def test_bad_messages_are_refused(model: QwenModel, messages: Sequence[dict[str, Any]]) -> None:
    with pytest.raises(InvalidInput):
        await ask(model, Prompt(tuple(messages)))


async def test_text_parts_read_like_plain_text(model: QwenModel) -> None:
    parts = [{"type": "text", "text": "Where is "}, {"type": "text", "text": "Caroline?"}]
    assert model.count(Prompt((CHAT.messages[0], {"role": "user", "content": parts}))) == model.count(CHAT)


async def test_a_cancelled_stream_frees_the_worker(model: QwenModel) -> None:
    stream = model.stream(CHAT, sampling=Sampling(max_tokens=1500), priority=Priority.FOREGROUND)
    await anext(stream)
    await stream.aclose()
    task = asyncio.create_task(ask(model, CHAT, Sampling(max_tokens=1500)))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await asyncio.wait_for(ask(model, CHAT), 20)).usage.cached_tokens > 0


async def test_an_urgent_request_overtakes_background_work(model: QwenModel) -> None:
    background = asyncio.create_task(
        model.generate([CHAT] * 3, sampling=Sampling(max_tokens=300, stop=("\0",)), priority=Priority.SLEEP)
    )
    await asyncio.sleep(0.05)
    await ask(model, CHAT, Sampling(max_tokens=3))
    assert not background.done()
    background.cancel()


async def test_after_close_a_request_is_refused(folder: Path) -> None:
    closed = QwenModel.load(str(folder))
    await closed.aclose()
    await closed.aclose()
    with pytest.raises(BackendUnavailable):
        await ask(closed, CHAT)


def test_loading_draws_no_progress_bar_in_a_pipe(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    QwenModel.load(str(folder))
    assert capfd.readouterr() == ("", "")


def test_a_missing_checkpoint_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot load"):
        QwenModel.load(str(tmp_path / "nothing"))


def test_another_architecture_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ConfigError, match="gpt2"):
        QwenModel.load(str(tmp_path))


def test_a_checkpoint_of_other_prompts_names_the_remedy(tmp_path: Path) -> None:
    tiny_qwen.save(tmp_path)
    (tmp_path / "lightmem.json").write_text(json.dumps({"prompt_version": "v0"}))
    with pytest.raises(ConfigError, match=r"prompts v0.*train it again"):
        QwenModel.load(str(tmp_path))
