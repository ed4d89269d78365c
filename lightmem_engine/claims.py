"""What a sentence claims: an attribute of somebody and its value, in a few common shapes of English. Pure.

Meant to be right when it finds something, not to find everything: a sentence of any other shape claims nothing.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Literal

from lightmem_engine.people import OWN
from lightmem_engine.text import STOPWORDS

Shape = Literal["figure", "name", "words"]
MOST_VALUE_WORDS = 5

_TOKEN = re.compile(r"\d+(?:[.,:]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)*|[^\W_]+")
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
# What says that things changed: `strong` also where a statement might merely add to an earlier one.
_STRONG = (
    *("things changed", "things have changed", "i was wrong", "that was wrong", "not any more", "not anymore"),
    *("actually", "correction", "instead"),
)
_WEAK = ("as of today", "from now on", "these days", "update", "news", "now", "currently")
# What opens a sentence without saying anything.
_FILLERS = (
    *("just so you know", "for your notes", "i forgot to say", "by the way", "something else", "quick note"),
    *("guess what", "funny thing", "you know", "hi there", "good morning", "oh and", "hello", "hey", "hi", "well"),
    *("so", "okay", "ok", "listen", "oh", "and", "yes", "no", "also"),
)
# Openings of sentences that are no loss when the statement beside them is superseded, if nothing is named in them.
_IDLE = frozenset(
    (
        *("it", "that", "this", "there", "please", "more", "see", "thanks", "thank"),
        *("nice", "anyway", "hi", "hey", "hello", "good", "great", "okay", "ok"),
        *("well", "wow", "sorry", "yes", "no", "sure", "bye", "not"),
    )
)

_WHO = r"(?P<who>i|we|(?:my|our) \w+|(?!it\b|that\b|this\b|there\b|the\b|he\b|she\b|they\b|you\b)\w+(?:'s \w+)?)"
_WHOSE = r"(?P<whose>my|our|(?:my |our )\w+'s|(?!that's\b|it's\b|there's\b|what's\b)\w+'s(?: \w+'s)?)"
_VALUE = r"(?P<value>.+)"
_NOUN = r"(?P<noun>\w+(?: \w+){0,2}?)"
_PATTERNS = tuple(
    (re.compile(pattern.format(who=_WHO, whose=_WHOSE, value=_VALUE, noun=_NOUN)), attribute)
    for pattern, attribute in (
        (r"{who} lives? in {value}", "home"),
        (r"{who} (?:(?:have|has) )?moved to {value}", "home"),
        (r"{who} (?:have|has) a (?:flat|house|home|apartment) in {value}", "home"),
        (r"{whose} home is in {value}", "home"),
        (r"{who} works? as an? {value}", "job"),
        (r"{who} (?:am|is) an? {value} by profession", "job"),
        (r"{whose} (?:job|profession) is (?:an? )?{value}", "job"),
        (r"{who} works? (?:for|at) {value}", "employer"),
        (r"{who} got a job at {value}", "employer"),
        (r"{who} (?:am|is) employed (?:by|at) {value}", "employer"),
        (r"{whose} employer is {value}", "employer"),
        (r"{who} was born in {value}", "birthplace"),
        (r"{who} comes? from {value} originally", "birthplace"),
        (r"{who} drives? an? {value}", "car"),
        (r"{who} got an? {value} to drive", "car"),
        (r"{whose} car is an? {value}", "car"),
        (r"the {noun} {who} (?:likes?|loves?) (?:best|most) is {value}", "favourite {noun}"),
        (r"as {noun} {who} prefers? {value}", "favourite {noun}"),
        (r"{whose} favou?rite {noun} is {value}", "favourite {noun}"),
        (r"the name of {whose} {noun} is {value}", "{noun}"),
        (r"{whose} {noun} (?:is|are) (?:called|named) {value}", "{noun}"),
        (r"{who} (?:have|has) an? {noun} (?:called|named) {value}", "{noun}"),
        (r"{who} (?:have|has) an? {noun} (?:on|at) (?P<value>.*\d.*)", "{noun}"),  # an exam, not a house
        (r"(?:i|we) named {whose} {noun} {value}", "{noun}"),
        (r"{who} must be at the {noun} at {value}", "{noun}"),
        (r"{whose} {noun} (?:is|starts) at {value}", "{noun}"),
        (r"{whose} {noun} (?:is|falls) on {value}", "{noun}"),
        (r"{whose} {noun} is planned for {value}", "{noun}"),
        (r"{whose} {noun} is {value}", "{noun}"),
    )
)
_SINGLE = frozenset(("home", "job", "employer", "birthplace", "car"))
_CONNECTORS = frozenset(
    (
        *("in", "at", "to", "for", "on", "as", "by", "from", "of"),
        *("with", "called", "named", "eat", "take", "takes", "collect", "hate", "hates"),
    )
)


@dataclass(frozen=True, slots=True)
class Claim:
    """`attribute` of `holder` is `value`. is_single: it has one value at a time, as far as words can tell.

    is_negated: it is said to hold no longer.
    """

    holder: str
    attribute: str
    value: str
    shape: Shape
    is_single: bool
    is_negated: bool = False


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence without its marks of change and its fillers. force: 2 for a strong mark, 1 for a weak one."""

    words: tuple[str, ...]
    claims: tuple[Claim, ...]
    force: int
    is_question: bool
    is_idle: bool


def plain(text: str) -> tuple[str, ...]:
    """The words of a text, lower-cased, without punctuation."""
    return tuple(match.group().casefold().replace("’", "'") for match in _TOKEN.finditer(text))


def sentences(text: str) -> list[Sentence]:
    """What a text says, sentence by sentence."""
    return [_read(part) for part in _SENTENCE.split(text) if plain(part)]


def _read(part: str) -> Sentence:
    tokens = [match.group() for match in _TOKEN.finditer(part)]
    words = list(plain(part))
    is_question = part.rstrip().endswith(("?", "？", "؟"))
    force, is_negated = 0, False
    while True:
        before = len(words)
        for phrase, strength in (*((p, 2) for p in _STRONG), *((p, 1) for p in _WEAK), *((p, 0) for p in _FILLERS)):
            length = len(phrase.split())
            if " ".join(words[:length]) == phrase and len(words) >= length:
                del words[:length], tokens[:length]
                force = max(force, strength)
            elif strength and len(words) > length and " ".join(words[-length:]) == phrase:
                del words[-length:], tokens[-length:]
                force = max(force, strength)
        if len(words) == before:
            break
    for mark, strength in (("actually", 2), ("now", 1)):
        if mark in words[1:3]:
            place = words.index(mark, 1)
            del words[place], tokens[place]
            force = max(force, strength)
    for first, second in itertools.pairwise(words):
        if (first, second) == ("no", "longer"):
            place = words.index("no")
            del words[place : place + 2], tokens[place : place + 2]
            force, is_negated = 2, True
            break
    if words[-2:] == ["any", "more"] or words[-1:] == ["anymore"]:
        is_negated, force = True, 2
    moved = "moved" in words or "changed" in words
    named = any(token[:1].isupper() for token in tokens[1:] if token != "I") or any(map(_has_digit, words))
    idle = not words or (words[0] in _IDLE and not named and not OWN.intersection(words))
    claims = () if is_question else _claims(words, tokens, is_negated)
    return Sentence(tuple(words), claims, max(force, int(moved)), is_question, idle)


def _claims(words: list[str], tokens: list[str], is_negated: bool) -> tuple[Claim, ...]:
    said = " ".join(words)
    for pattern, attribute in _PATTERNS:
        match = pattern.fullmatch(said)
        if match is None:
            continue
        found = match.groupdict()
        value = found["value"]
        length = len(value.split())
        shape = _shape(_tokens_of(value, words, tokens))
        name = attribute.format(noun=found.get("noun", ""))
        is_single = name in _SINGLE or name.startswith("favourite ")
        if length > MOST_VALUE_WORDS or (shape == "words" and not is_single):
            return ()
        holder = _holder(found.get("who") or found.get("whose") or "")
        return (Claim(holder, name, value, shape, True, is_negated),)
    return tuple(_aligned(words, tokens))


def _aligned(words: list[str], tokens: list[str]) -> list[Claim]:
    """The sentence cut after its last connecting word: what stands before is the attribute, what follows the value."""
    places = [place for place, word in enumerate(words) if word in _CONNECTORS]
    if not places:
        return []
    cut = places[-1] + 1
    head, value = words[:cut], words[cut:]
    has_content = any(word not in STOPWORDS for word in head)
    if len(head) < 3 or not has_content or not 0 < len(value) <= MOST_VALUE_WORDS:
        return []
    return [Claim("", " ".join(head), " ".join(value), _shape(tokens[cut:]), False)]


def _tokens_of(value: str, words: list[str], tokens: list[str]) -> list[str]:
    """The value as it was written."""
    parts = value.split()
    for start in range(len(words) - len(parts), -1, -1):
        if words[start : start + len(parts)] == parts:
            return tokens[start : start + len(parts)]
    return parts


def _shape(tokens: list[str]) -> Shape:
    if any(map(_has_digit, tokens)):
        return "figure"
    return "name" if any(token[:1].isupper() for token in tokens) else "words"


def _has_digit(word: str) -> bool:
    return any(map(str.isdigit, word))


def _holder(who: str) -> str:
    """One name for "I" and "my", for "my sister" and "my sister's"."""
    who = who.removesuffix("'s")
    if who in ("i", "my", "we", "our"):
        return "i"
    return re.sub(r"^(?:my|our) ", "", who)
