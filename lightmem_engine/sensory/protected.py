"""Words that must not fall, because without them a sentence says something else. Pure."""

from __future__ import annotations

from lightmem_engine.people import NO_OWNERS, PEOPLE

_NEGATIONS = "no not nor never none nobody nothing nowhere neither cannot without"
NEGATIONS = frozenset(_NEGATIONS.split())


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
