"""The schemas are JSON Schema, and grammars made from them accept exactly compact answers."""

import json
from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest
import xgrammar

from lightmem_engine.prompts.v1 import DECIDE, EXTRACT, SUMMARY, bounded

FACT = {"source": 1, "fact": 'Ann\'s "cat" is 3 – naïve'}
RELATION = {"source": 2, "subject": "Ann", "relation": "supports", "object": "Bob"}
ENTITY = {"source": 2, "name": "Rome", "type": "place"}
SPLIT = {"entry": 3, "action": "split", "texts": ["a", "b"]}
UPDATE = {"entry": 1, "action": "update", "by": 2, "text": "x"}
GOOD: list[tuple[Mapping[str, Any], object]] = [
    (EXTRACT["flat"], {"facts": []}),
    (EXTRACT["flat"], {"facts": [FACT, FACT]}),
    (EXTRACT["event"], {"facts": [FACT], "relations": [RELATION], "entities": [ENTITY, ENTITY]}),
    (EXTRACT["event"], {"facts": [], "relations": [], "entities": []}),
    (DECIDE, {"decisions": [{"entry": 1, "action": "ignore"}, UPDATE, SPLIT]}),
    (DECIDE, {"decisions": [{"entry": 1, "action": "supersede", "by": 2}]}),
    (DECIDE, {"decisions": [{"entry": 1, "action": "duplicate", "by": 12}]}),
    (SUMMARY, {"summary": "x", "sources": [1, 12]}),
]
BAD: list[tuple[Mapping[str, Any], object]] = [
    (EXTRACT["flat"], {"facts": [{"source": 0, "fact": "x"}]}),
    (EXTRACT["flat"], {"facts": [{"fact": "x"}]}),
    (EXTRACT["flat"], {"facts": [], "more": 1}),
    (EXTRACT["event"], {"facts": [], "relations": []}),
    (EXTRACT["event"], {"facts": [], "relations": [], "entities": [{"source": 1, "name": "x", "type": "god"}]}),
    (DECIDE, {"decisions": [{"entry": 1, "action": "delete"}]}),
    (DECIDE, {"decisions": [{"entry": 1, "action": "supersede"}]}),
    (DECIDE, {"decisions": [{"entry": 1, "action": "split", "texts": ["a"]}]}),
    (SUMMARY, {"summary": "x", "sources": []}),
]


def accepts(schema: Mapping[str, Any], text: str) -> bool:
    """Whether a grammar compiled as the in-process model compiles it takes the text as a whole."""
    vocabulary = [bytes([byte]) for byte in range(256)] + [b"<end>"]
    info = xgrammar.TokenizerInfo(vocabulary, stop_token_ids=[256])
    compiler = xgrammar.GrammarCompiler(info, max_threads=1)
    grammar = compiler.compile_json_schema(json.dumps(schema), any_whitespace=False, separators=(",", ":"))
    matcher = xgrammar.GrammarMatcher(grammar)
    return bool(matcher.accept_string(text) and matcher.accept_token(256))


def compact(answer: object) -> str:
    return json.dumps(answer, separators=(",", ":"), ensure_ascii=False)


@pytest.mark.parametrize("schema", [*EXTRACT.values(), DECIDE, SUMMARY], ids=lambda schema: str(schema["title"]))
def test_schema_is_valid(schema: Mapping[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(("schema", "answer"), GOOD)
def test_right_answers_pass_schema_and_grammar(schema: Mapping[str, Any], answer: object) -> None:
    jsonschema.validate(answer, schema)
    assert accepts(schema, compact(answer))


@pytest.mark.parametrize(("schema", "answer"), BAD)
def test_wrong_answers_fail_schema_and_grammar(schema: Mapping[str, Any], answer: object) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(answer, schema)
    assert not accepts(schema, compact(answer))


def test_the_grammar_leaves_no_room_for_white_space() -> None:
    assert not accepts(EXTRACT["flat"], json.dumps({"facts": [FACT]}, indent=1))


def test_a_bounded_schema_knows_its_turns_and_ends() -> None:
    schema = bounded("flat", ["One, two: three!", "four five six seven"])
    assert accepts(schema, compact({"facts": [{"source": 2, "fact": "x"}] * 4}))
    assert not accepts(schema, compact({"facts": [{"source": 3, "fact": "x"}]}))
    assert not accepts(schema, compact({"facts": [{"source": 1, "fact": "x"}] * 5}))
    event = bounded("event", ["我住在柏林，我妹妹住在罗马。"])["properties"]
    assert {name: part["maxItems"] for name, part in event.items()} == {"facts": 8, "relations": 8, "entities": 8}
    assert "maxItems" not in EXTRACT["event"]["properties"]["facts"], "the schema itself is frozen"
