"""Words that must not fall, because without them a sentence says something else. Pure."""

from __future__ import annotations

_NEGATIONS = "no not nor never none nobody nothing nowhere neither cannot without"
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

NEGATIONS = frozenset(_NEGATIONS.split())
PEOPLE = frozenset(f"{_FAMILY} {_OTHERS}".split())
NO_OWNERS = frozenset(_IS_IN_SHORT.split())


def is_protected(written: str, begins_sentence: bool, protect: frozenset[str], names: frozenset[str]) -> bool:
    """Whether a word is of one of the kinds in `protect`.

    numbers: any with a digit.   negations: "not", "never", "don't".   names: those given in `names` (case-folded), and
    capitalised words that do not begin a sentence.   people: whose it is and who did it ("husband", "the boss's"); a
    note of "my husband's marathon" must not become one of "my marathon".
    """
    folded = written.casefold().replace("’", "'")
    if "numbers" in protect and any(c.isdigit() for c in written):
        return True
    if "negations" in protect and (folded in NEGATIONS or folded.endswith("n't")):
        return True
    base = folded.removesuffix("'s")
    if "people" in protect and (base in PEOPLE or (base != folded and base not in NO_OWNERS)):
        return True
    if "names" not in protect:
        return False
    if folded in names or base in names:
        return True
    return not begins_sentence and written[0].isupper() and folded.split("'")[0] != "i"
