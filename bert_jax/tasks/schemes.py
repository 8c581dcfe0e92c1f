"""Which scheme of entity tags a set of tags follows, and which tags are not of it."""

import re
from collections.abc import Collection
from typing import NamedTuple

# The letters of each scheme, without O. IOB1, IOB2 and IO differ only in when an entity begins with B.
SCHEMES = {"IOB": "BI", "BIOES": "BIES", "BILOU": "BILU", "BMES": "BMES"}
_ENTITY_TAG = re.compile(r"([BIESLUM])(-.+)?")


class Scheme(NamedTuple):
    """How a set of tags is read."""

    name: str  # key of SCHEMES, or "" for plain tags
    kinds: tuple[str, ...]  # of entities; ("",) if the tags are bare letters
    others: tuple[str, ...]  # tags that are not of the scheme, although most tags are; then these are plain tags

    @property
    def entities(self) -> bool:
        """Whether the tags mark entities."""
        return bool(self.name) and not self.others

    def __str__(self) -> str:
        if self.entities and self.kinds == ("",):
            return f"entities of one kind without a name, in {self.name}"
        if self.entities:
            return f"entities of the kinds {', '.join(self.kinds)}, in {self.name}"
        if self.others:
            return f"plain tags, scored one by one: no entities in {self.name}, because of {self.shown_others()}"
        return "plain tags, scored one by one"

    def shown_others(self) -> str:
        """Returns the names of the tags that are not of the scheme."""
        return ", ".join(map(repr, self.others))


def scheme(tags: Collection[str]) -> Scheme:
    """Finds the scheme of `tags`, the different tags of a data set.

    Tags are of a scheme if they are a letter and a kind (B-LOC), or all of them only a letter. If at least half of the
    tags are, with B or I among them, the rest are its `others`. Otherwise all are plain tags, such as parts of speech.

    >>> str(scheme(["B-LOC", "L-LOC", "O", "U-PER"])), str(scheme(["B", "I", "O"]))
    ('entities of the kinds LOC, PER, in BILOU', 'entities of one kind without a name, in IOB')
    >>> scheme(["B-LOC", "I-LOC", "0"]).others, scheme(["NN", "S-BAR", "O"]).name
    (('0',), '')
    """
    tagged = sorted(set(tags) - {"O"})
    matches = {tag: match for tag in tagged if (match := _ENTITY_TAG.fullmatch(tag))}
    bare = bool(matches) and all(match[2] is None for match in matches.values())
    if bare and not _letters_are_a_scheme(set(tags), len(matches) < len(tagged)):
        return Scheme("", (), ())
    letters = {tag: match[1] for tag, match in matches.items() if bare or match[2] is not None}
    name = max(SCHEMES, key=lambda name: sum(letter in SCHEMES[name] for letter in letters.values()))
    own = [tag for tag, letter in letters.items() if letter in SCHEMES[name]]
    others = tuple(tag for tag in tagged if tag not in own)
    if not own or len(own) < len(others) or (others and not any(letters[tag] in "BI" for tag in own)):
        return Scheme("", (), ())
    return Scheme(name, tuple(sorted({tag[2:] for tag in own})), others)


def _letters_are_a_scheme(tags: set[str], others: bool) -> bool:
    """Whether tags with only a letter mark entities; B and S alone, for example, do not."""
    if others:
        return {"B", "I", "O"} <= tags
    return ("B" in tags and bool(tags & set("IOEL"))) or {"I", "O"} <= tags
