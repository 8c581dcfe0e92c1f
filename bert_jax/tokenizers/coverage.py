"""What a tokenizer does to the text that it was trained on: unknown characters and tokens, removed vowel signs."""

import unicodedata
from collections import Counter
from collections.abc import Sequence

from bert_jax.tokenizers.base import Tokenizer

# Scripts whose combining marks are letters, as first and last code points: Thaana; Devanagari to Myanmar (the scripts
# of India, Thai, Lao, Tibetan); of the Philippines, Khmer; Limbu to Lepcha; the voicing marks of kana; Syloti Nagri to
# Meetei Mayek; the other Brahmic scripts. Without its marks a word of these is another word, or none.
_SCRIPTS = (
    (0x07A6, 0x07B0),
    (0x0900, 0x109F),
    (0x1700, 0x17FF),
    (0x1920, 0x1AAF),
    (0x1B00, 0x1CCF),
    (0x3099, 0x309A),
    (0xA800, 0xABFF),
    (0x11000, 0x11FFF),
)
VOWEL_SIGNS = 0.001  # share of the characters from which on a text counts as written with vowel signs
TOO_UNKNOWN = 0.01  # share of characters or tokens from which on a warning is due


def vowel_signs(text: str) -> str:
    """Returns the marks in a text that are letters: vowel signs, viramas, voicing marks; not accents."""
    marks = (c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c)[0] == "M")
    return "".join(c for c in marks if any(first <= ord(c) <= last for first, last in _SCRIPTS))


def is_written_with_vowel_signs(texts: Sequence[str]) -> bool:
    """Whether the text would be destroyed without its vowel signs: at least the share VOWEL_SIGNS has them."""
    return _vowel_signs(_characters(texts)).total() > VOWEL_SIGNS * sum(map(len, texts))


def _characters(texts: Sequence[str]) -> Counter[str]:
    """Counts the characters of texts other than white space."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    return Counter({c: n for c, n in counts.items() if not c.isspace()})


def _vowel_signs(characters: Counter[str]) -> Counter[str]:
    """Returns the characters that are or contain vowel signs."""
    return Counter({c: n for c, n in characters.items() if not c.isascii() and vowel_signs(c)})


def describe_training(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns lines for the user: what the tokenizer does to case and accents, and how much of its texts is unknown.

    Returns:
      The lines, and the warnings.
    """
    characters = _characters(texts)
    unknown = Counter({c: n for c, n in characters.items() if tokenizer.unk_id in tokenizer.encode_ids([c])[0]})
    tokens = unknown_tokens = 0
    for chunk in _chunks(texts):
        ids, _ = tokenizer.encode_flat(chunk)
        tokens += len(ids)
        unknown_tokens += int((ids == tokenizer.unk_id).sum())
    of_characters = unknown.total() / max(1, characters.total())
    of_tokens = unknown_tokens / max(1, tokens)
    lines = [
        f"text is {'lowercased' if tokenizer.lowercase else 'not lowercased'}, "
        f"accents are {'removed' if tokenizer.strip_accents else 'kept'}",
        f"unknown in this text: {of_characters:.2%} of the characters, {of_tokens:.2%} of the tokens",
    ]
    warnings = []
    if max(of_characters, of_tokens) > TOO_UNKNOWN:
        such = f", such as {' '.join(c for c, _ in unknown.most_common(8))}" if unknown else ""
        warnings.append(
            f"{of_characters:.1%} of the characters of this text and {of_tokens:.1%} of its tokens are unknown{such}; "
            "raise the vocabulary size or the alphabet limit"
        )
    if tokenizer.strip_accents and (signs := _vowel_signs(characters)):
        warnings.append(
            f"{signs.total():,} characters of this text lose a vowel sign, such as "
            f"{' '.join(c for c, _ in signs.most_common(4))}; keep accents if they matter"
        )
    return lines, warnings


def _chunks(texts: Sequence[str], size: int = 1000) -> list[Sequence[str]]:
    return [texts[start : start + size] for start in range(0, len(texts), size)]
