"""A language model by script: a real server whose answers are rules, where only what the engine does with them counts.

Decisions: of two notes in much the same words the older is a duplicate; where a good part of the rarer words is shared,
what the newer one says besides is added to the older. Extraction: of each turn with two words of content or more those
words that fewest others have, as many as make the answer `share` of the tokens shown. Summaries: the first words of
each note.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from lightmem_engine.text import num_tokens, search_terms

SAME, NEAR = 0.8, 0.3
MIN_TERMS = 2  # of a turn that says something
_NOTE = re.compile(r"^(\d+) (?:\[[^\]]*\] )?(?:([^:\n]{1,40}): )?(.*)$", re.MULTILINE)


def reply(request: dict[str, Any], share: float = 0.4) -> str:
    """The answer to a prompt of the engine, told apart by its instruction."""
    system, asked = (str(request["messages"][place]["content"]) for place in (0, -1))
    if system.startswith("Notes are listed"):
        return json.dumps({"decisions": decisions(asked)})
    notes = {int(number): (speaker, text) for number, speaker, text in _NOTE.findall(asked)}
    if system.startswith("Summarise"):
        said = " ".join(" ".join(text.split()[:12]) + "." for _, text in notes.values())
        return json.dumps({"summary": said or "Nothing was said.", "sources": sorted(notes)})
    return json.dumps(facts(notes, share, is_event="entities" in system), ensure_ascii=False)


def decisions(asked: str) -> list[dict[str, Any]]:
    """One for each target: what the newer note most like it does to it."""
    listed, _, targets = asked.rpartition("Decide: ")
    notes = {int(number): (speaker, text) for number, speaker, text in _NOTE.findall(listed)}
    terms = {number: set(search_terms(text)) for number, (_, text) in notes.items()}
    found: list[dict[str, Any]] = []
    taken: set[int] = set()
    for target in map(int, targets.split()):
        newer = [other for other in notes if other > target and notes[other][0] == notes[target][0]]
        score, by = max(((_overlap(terms[target], terms[other]), other) for other in newer), default=(0.0, 0))
        if score < NEAR or {target, by} & taken:
            found.append({"entry": target, "action": "ignore"})
            continue
        taken |= {target, by}
        if score >= SAME:
            found.append({"entry": target, "action": "duplicate", "by": by})
        else:
            more = [word for word in notes[by][1].split() if not set(search_terms(word)) <= terms[target]]
            text = f"{notes[target][1].rstrip(' .')}; {' '.join(more)}"
            found.append({"entry": target, "action": "update", "by": by, "text": text})
    return found


def facts(notes: dict[int, tuple[str, str]], share: float, *, is_event: bool) -> dict[str, Any]:
    """At least one fact of each turn with content, of about `share` of its tokens with all that stands around it."""
    terms = {number: set(search_terms(text)) for number, (_, text) in notes.items()}
    common = Counter(term for own in terms.values() for term in own)
    found: list[dict[str, Any]] = []
    for number, (speaker, text) in notes.items():
        if len(terms[number]) < MIN_TERMS:
            continue
        budget = max(4, int(share * num_tokens(text)) - 8)  # what JSON puts around a fact counts, too
        words = text.split()
        rarest = sorted(range(len(words)), key=lambda place: _rarity(words[place], common))[:budget]
        found.append({"source": number, "fact": f"{speaker}: {' '.join(words[place] for place in sorted(rarest))}"})
    return {"facts": found, **({"relations": [], "entities": []} if is_event else {})}


def _rarity(word: str, common: Counter[str]) -> tuple[bool, int]:
    """Sorts words of content before others, and those of few turns before those of many."""
    own = search_terms(word)
    return not own, min((common[term] for term in own), default=0)


def _overlap(one: set[str], other: set[str]) -> float:
    return len(one & other) / max(1, min(len(one), len(other)))
