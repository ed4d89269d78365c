"""Who and what an entry speaks of, and what it says of them: the edges of the memory graph, by rules alone. Pure.

Names are runs of capitalised words that a sentence does not merely begin with; claims are the few shapes of statement
that `claims` knows. Where a language model has named entities and relations, they are taken as it gave them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lightmem_engine.claims import sentences
from lightmem_engine.text import STOPWORDS

MENTIONS = "mentions"
MAX_EDGES = 16  # of one entry
MAX_NAME_WORDS = 6

_WORD = re.compile(r"[^\W_]+")
_NAME = r"[A-ZÀ-ÖØ-Þ][^\W_]*(?:[-'’][^\W\d_]{2,})*"
_RUN = re.compile(rf"{_NAME}(?: (?:of |the |de |von |& )*{_NAME})*")
_OPENS = re.compile(r"(?:^|[.!?:;\n]|[\"“(\[])\s*$")
# Capitalised, but nobody's and nothing's name: what dates are made of, and what every sentence may hold.
_NO_NAME_TEXT = """
monday tuesday wednesday thursday friday saturday sunday january february march april may june july august september
october november december yesterday today tomorrow tonight last yes no ok okay hey hi hello wow thanks thank mom dad
"""
_NO_NAMES = STOPWORDS | frozenset(_NO_NAME_TEXT.split())


@dataclass(frozen=True, slots=True)
class Edge:
    """`relation` leads from `subject` to `object`. Names are keys: see `key`."""

    subject: str
    relation: str
    object: str


def key(name: str) -> str:
    """A name as edges have it: its words, case-folded, without punctuation; at most `MAX_NAME_WORDS`."""
    return " ".join(words(name)[:MAX_NAME_WORDS])


def words(text: str) -> list[str]:
    """The words of which keys are made."""
    return _WORD.findall(re.sub(r"['’]s\b", "", text).casefold())


def names_in(text: str) -> list[str]:
    """Keys of what a text names, in order of appearance, each once."""
    found: dict[str, None] = {}
    for match in _RUN.finditer(text):
        run = match.group().split(" ")
        opens = bool(_OPENS.search(text[: match.start()]))
        if opens and (len(run) == 1 or run[0].casefold() in _NO_NAMES):
            run = run[1:]
        while run and key(run[0]) in _NO_NAMES:
            run = run[1:]
        while run and key(run[-1]) in _NO_NAMES:
            run = run[:-1]
        name = key(" ".join(run))
        if len(name) > 1:
            found[name] = None
    return list(found)


def edges_of(speaker: str, said: str, metadata: Mapping[str, Any]) -> tuple[Edge, ...]:
    """What an entry adds to the graph, at most `MAX_EDGES`, each once; the plainest first.

    said: its words without the speaker.   metadata: of the entry; `subject`, `relation` and `object` of a relation and
    the `entities` of a fact are what a language model found.
    """
    return tuple(dict.fromkeys(edge for edge in _edges(speaker, said, metadata) if _is_whole(edge)))[:MAX_EDGES]


def names_of(speaker: str, edges: Iterable[Edge]) -> tuple[str, ...]:
    """Keys of what edges lead from and to, but for the speaker himself, each once."""
    found = dict.fromkeys(name for edge in edges for name in (edge.subject, edge.object))
    return tuple(name for name in found if name != key(speaker))


def _edges(speaker: str, said: str, metadata: Mapping[str, Any]) -> Iterator[Edge]:
    who = key(speaker)
    parts = [metadata.get(part) for part in ("subject", "relation", "object")]
    if all(isinstance(part, str) for part in parts):
        subject, relation, thing = map(str, parts)
        yield Edge(key(subject), " ".join(relation.casefold().split()), key(thing))
    for sentence in sentences(said):
        for claim in sentence.claims:
            if claim.is_single and not claim.is_negated:
                holder = who if claim.holder in ("", "i") else key(claim.holder)
                yield Edge(holder, claim.attribute, key(claim.value))
    entities = metadata.get("entities")
    named = [key(name) for name in entities if isinstance(name, str)] if isinstance(entities, list) else []
    for name in [*named, *names_in(said)]:
        yield Edge(who, MENTIONS, name)


def _is_whole(edge: Edge) -> bool:
    return bool(edge.subject and edge.relation and edge.object) and edge.subject != edge.object
