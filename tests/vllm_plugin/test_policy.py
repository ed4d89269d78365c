"""Which of a request's fields reach vLLM."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.types import OpenTurn
from lightmem_engine.vllm_plugin.attention.plan import TURNS
from lightmem_engine.vllm_plugin.policy import FIELDS, cleaned, stamped

TURN = OpenTurn("t", ({"role": "user", "content": "hello"},), salt="ann's", kv_params={"keep": 1})


def test_a_chat_with_memory_bears_our_fields_and_nobody_elses() -> None:
    body = {
        "model": "m",
        "messages": [],
        "memory": {},
        "priority": -9,
        "cache_salt": "x",
        "kv_transfer_params": {"y": 1},
    }
    sent = json.loads(stamped({**body, "logit_bias": {"1": 2}}, TURN))
    assert sent == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "logit_bias": {"1": 2},
        "priority": 0,
        "cache_salt": "ann's",
        "kv_transfer_params": {"keep": 1},
    }


def test_where_attention_is_wanted_a_chat_names_its_turns() -> None:
    messages = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": [{"type": "text", "text": "in parts"}]},
        {"role": "user", "content": "again"},
    )
    turn = OpenTurn("t", messages, kv_params={"keep": 1})
    sent = json.loads(stamped({}, turn, attention=True))
    assert sent["kv_transfer_params"] == {"keep": 1, TURNS: ["hello", "again"]}


def test_without_salt_and_kv_there_are_none() -> None:
    sent = json.loads(stamped({"cache_salt": "x", "kv_transfer_params": {}}, OpenTurn("t", ())))
    assert sent == {"messages": [], "priority": 0}


def test_other_bodies_go_through_byte_for_byte() -> None:
    for raw in (b'{ "model" : "m" }', b"no json at all", b"", b'{"prompt": "\\u00e9"}', b'{"prompt": "my priority"}'):
        assert cleaned(raw, "red") == raw


def test_priority_and_kv_are_dropped_however_they_are_written() -> None:
    assert json.loads(cleaned(b'{"a": 1, "priority": -1, "kv_transfer_params": {}}', "red")) == {"a": 1}
    assert json.loads(cleaned(b'{"a": 1, "\\u0070riority": -1}', "red")) == {"a": 1}


def test_a_salt_stays_one_within_its_tenant() -> None:
    raw = b'{"cache_salt": "mine"}'
    red, again, blue = (json.loads(cleaned(raw, tenant))["cache_salt"] for tenant in ("red", "red", "blue"))
    assert red == again != blue
    assert red != "mine"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
)


@given(st.dictionaries(st.text() | st.sampled_from(sorted(FIELDS)), JSON), st.booleans())
def test_no_body_carries_a_field_of_ours_through(body: dict[str, object], ascii_only: bool) -> None:
    raw = json.dumps(body, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    found = json.loads(cleaned(raw, "red").decode("utf-8", "surrogatepass"))
    assert not {"priority", "kv_transfer_params"} & found.keys()
    rest = {name: value for name, value in body.items() if name not in FIELDS}
    if not any(0xD800 <= ord(char) < 0xE000 for char in raw.decode("utf-8", "surrogatepass")):
        assert {name: value for name, value in found.items() if name != "cache_salt"} == rest
