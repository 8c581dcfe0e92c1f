"""Raw text is split into words as Unicode defines them, in every script.

Source: Unicode Standard Annex 29, "Unicode Text Segmentation", section 4, the default word boundaries. As the annex
advises, one thing is changed for scripts without spaces between words, such as Thai: the default rules would cut after
every letter, and finding the words needs a dictionary. There, a run of letters is one word.
"""

import itertools
import unicodedata

import regex

_BOUNDARY = regex.compile(r"\b", regex.WORD)
_NO_SPACES = regex.compile(r"\p{Line_Break=Complex_Context}")


def word_spans(text: str) -> list[tuple[int, int]]:
    """Returns (start, end) of each word of a text; each punctuation mark and symbol is a word too.

    >>> text = "It can't rain: 3.5 mm."
    >>> [text[start:end] for start, end in word_spans(text)]
    ['It', "can't", 'rain', ':', '3.5', 'mm', '.']
    """
    cuts = [match.start() for match in _BOUNDARY.finditer(text)]
    inside = [i for i in cuts if not (0 < i < len(text) and all(map(_NO_SPACES.match, text[i - 1 : i + 1])))]
    spans = []
    for start, end in itertools.pairwise(inside):
        word = text[start:end]
        # What only has spaces, marks and control characters is not a word.
        if any(unicodedata.category(c)[0] in "LNPS" for c in word):
            start += len(word) - len(word.lstrip())
            spans.append((start, start + len(word.strip())))
    return spans
