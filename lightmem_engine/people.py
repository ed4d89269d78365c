"""English words for people, and whom a sentence is about. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lightmem_engine.text import STOPWORDS

_FAMILY = """
    mother mum mom father dad parent parents grandmother grandma granny grandfather grandpa grandparents sister brother
    sibling siblings twin daughter son child children kid kids baby grandson granddaughter grandchild grandchildren aunt
    uncle cousin nephew niece husband wife spouse partner fiance fiancé fiancee fiancée girlfriend boyfriend ex widow
    stepmother stepfather stepson stepdaughter stepbrother stepsister godmother godfather godchild godson goddaughter
"""
_OTHERS = """
    friend friends neighbour neighbours neighbor neighbors roommate flatmate housemate colleague colleagues coworker
    boss manager supervisor employee assistant teacher professor student tutor coach mentor doctor dentist therapist
    lawyer landlord landlady tenant client customer guest
"""
# "it's", "who's": an "is" in short, nobody's possession.
_IS_IN_SHORT = "it that this he she what who where here there let how when why everything something"

FAMILY = frozenset(_FAMILY.split())
PEOPLE = FAMILY.union(_OTHERS.split())
NO_OWNERS = frozenset(_IS_IN_SHORT.split())
# What opens a sentence before a verb and is no name.
_NOBODY = "someone somebody anyone anybody everyone everybody people nothing something"
_VERB = re.compile(
    r"\w+(?:ed|s)|has|had|went|got|took|can|cannot|will|must|may|left|came|gave|bought|paid|saw|met|told|said"
)
# "My boss is ill" is about the boss, but "my doctor is called Kim" may be said of oneself.
_NAMED = frozenset(("", "is", "was", "are", "called", "named"))
_DETERMINERS = frozenset(("my", "our", "the", "a", "an"))
_NO_NAMES = STOPWORDS.union(_NOBODY.split())
OWN = frozenset(("i", "my", "me", "mine", "we", "our", "us"))


def subject(words: Sequence[str]) -> str | None:
    """Whom a sentence is about, as far as single words tell: "i", somebody of the family ("sister", "anna's sister"),
    somebody with a name ("anna's car", "anna went"); None if it names nobody.

    words: lower-cased, without punctuation. Who says "I" first is the one it is about, whoever else comes in.
    """
    if words and words[0] in ("i", "we"):
        return "i"
    for before, word, after in zip(("", *words), words, (*words[1:], ""), strict=False):
        person = word.removesuffix("'s")
        if before in ("my", "our") and (person in FAMILY or (person in PEOPLE and after not in _NAMED)):
            return person
        if person in FAMILY and _owns(before):
            return f"{before} {person}"
        if _owns(word) and before not in _DETERMINERS and after.removesuffix("'s") not in FAMILY:
            return person
    if OWN.intersection(words):
        return "i"
    return words[0] if len(words) > 2 and words[0] not in _NO_NAMES and _VERB.fullmatch(words[1]) else None


def _owns(word: str) -> bool:
    return word.endswith("'s") and word.removesuffix("'s") not in NO_OWNERS
