"""Keys turned to another place: what is exact about it, what is not, and for which models it is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from lightmem_engine.errors import ConfigError
from lightmem_engine.models.kv_rotate import Rotation

SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 40_000,
    "initializer_range": 0.2,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192, "rope_theta": 10_000.0}
CHUNK = torch.arange(7, 31)


def build(kind: str, rope: dict[str, Any] | None = None) -> Any:
    torch.manual_seed(0)
    more: dict[str, Any] = {} if rope is None else {"rope_parameters": rope}
    if kind == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**SIZES, **more)).eval()
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16, **more)).eval()


@torch.inference_mode()
def read(model: Any, ids: torch.Tensor, first: int = 0) -> Any:
    """The cache of these tokens at the places from `first` on."""
    places = torch.arange(first, first + len(ids))[None]
    return model(input_ids=ids[None], position_ids=places, use_cache=True).past_key_values


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The relative error."""
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


@pytest.mark.parametrize("rope", [None, YARN], ids=["plain", "yarn"])
@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
@pytest.mark.parametrize(("source", "place"), [(0, 1), (0, 300), (300, 0), (5, 8000), (0, 30_000)])
def test_text_by_itself_is_right_in_every_layer(kind: str, rope: Any, source: int, place: int) -> None:
    model = build(kind, rope)
    rotation = Rotation.of(model)
    stored, wanted = read(model, CHUNK, source), read(model, CHUNK, place)
    allowed = 1e-5 if max(source, place) <= 300 else 2e-3  # the model's own angles are rounded far from the beginning
    for mine, theirs in zip(stored.layers, wanted.layers, strict=True):
        assert apart(rotation.turn(mine.keys, place - source), theirs.keys) < allowed
        assert apart(mine.values, theirs.values) < allowed
        if abs(place - source) > 1:
            assert apart(mine.keys, theirs.keys) > 0.1, "without a turn they are others"


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_behind_other_text_only_the_first_layer_is_right(kind: str) -> None:
    model = build(kind)
    before = torch.arange(100, 150)
    whole = read(model, torch.cat((before, CHUNK)))
    alone = read(model, CHUNK)
    errors = [
        (
            apart(Rotation.of(model).turn(mine.keys, len(before)), theirs.keys[:, :, len(before) :]),
            apart(mine.values, theirs.values[:, :, len(before) :]),
        )
        for mine, theirs in zip(alone.layers, whole.layers, strict=True)
    ]
    assert max(errors[0]) < 1e-5
    assert all(min(error) > 0.01 for error in errors[1:]), errors


def test_the_frequencies_are_the_models_own() -> None:
    """A cast rounds them; by the formula keys would be far off at a distance."""
    model = build("qwen3").to(torch.bfloat16)
    by_formula = Rotation(build("qwen3").model.rotary_emb.inv_freq)
    own = Rotation.of(model)
    assert own._frequencies.dtype == model.model.rotary_emb.inv_freq.dtype
    stored, wanted = (read(model, CHUNK, place).layers[0].keys for place in (0, 8000))
    assert apart(own.turn(stored, 8000), wanted) < 0.02
    if model.model.rotary_emb.inv_freq.dtype is torch.bfloat16:
        assert apart(by_formula.turn(stored, 8000), wanted) > 0.1


def test_there_and_back_is_the_same() -> None:
    rotation = Rotation.of(build("qwen3"))
    keys = torch.randn(1, 2, 10, 16)
    assert torch.allclose(rotation.turn(rotation.turn(keys, 4321), -4321), keys, atol=1e-5)
    assert torch.equal(rotation.turn(keys, 0), keys)
    assert rotation.turn(keys.bfloat16(), 3).dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "type dynamic"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "type longrope"),
        ({"rope_parameters": {"rope_type": "something new"}}, "something new"),
        ({"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}}, "several dimensions"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "a part of the channels"),
        ({"partial_rotary_factor": 0.25}, "a part of the channels"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
    ],
)
def test_other_embeddings_are_refused(changed: dict[str, Any], complaint: str) -> None:
    config = SimpleNamespace(**({"rope_parameters": {"rope_type": "default"}, "layer_types": None} | changed))
    with pytest.raises(ConfigError, match=rf"kv\.reuse = approximate cannot .*{complaint}"):
        Rotation.of(SimpleNamespace(config=config))
