"""Made-up lines of many scripts, and ids and offsets compared with those of transformers."""

import math
import random
import unicodedata
from collections import Counter

import pytest
import transformers

from bert_jax.tokenizers import base, sentencepiece

SENTENCES = """
the cat sat on a mat while the other cats were sitting near the window and unbelievably nobody believed them
running runner runs ran quickly slower slowest 1,000 2,5 3.14 naïve café Über straße 日本 語 中国
état Привет мир ελληνικά العربية हिन्दी 한국어 😀 isn't "quoted" ``old'' (x) [y] mother-in-law e.g. Ωmega
"""
ALPHABETS = [
    "abcdefgh ,.'\"`-",
    "ABCXYZ éíóúüñçÅßœ",
    "世界你好日本語漢字",
    "가각국어한",
    "\x00\x01\x07\x1b\x7f\x80\x9f\u200b\u200d\ufeff\xad\u2028",
    "😀👨‍👩‍👧🏳️‍🌈👍🏽🇩🇪",
    "שלוםעִברית",
    "مرحباالعَربيةﷺ",
    "हिन्दीक्षिสวัสดีខ្មែរ",
    "ﬁ①½㎏\uff21\uff42\u3000",
    " \t\r\n\xa0\u2009\x85\x1c",
    "ıİẞſﬀǅΣς",
    "0123456789,.",
]


def corpus(lines: int = 400, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    words = SENTENCES.split()
    syllables = [a + b for a in "bdfgklmnprstvw" for b in "aeiou"]
    words += ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(400)]
    return [" ".join(rng.choices(words, k=12)) for _ in range(lines)]


def fuzz(lines: int, seed: int) -> list[str]:
    """Lines of a few alphabets each: accents, CJK, control characters, emoji, right to left, long words, nothing."""
    rng = random.Random(seed)
    made = ["", " ", "a" * 150, "é" * 99, "a" * 100 + " " + "b" * 101, "x" + "\u0301" * 40]
    while len(made) < lines:
        alphabets = rng.sample(ALPHABETS, rng.randint(1, 4))
        length = rng.choice([1, 3, 10, 30, 120])
        made.append("".join(rng.choice(rng.choice(alphabets)) for _ in range(length)))
    return made


def unigram(tokenizer: sentencepiece.SentencePiece, family: str):
    """XLM-R's or CamemBERT's tokenizer in transformers, with the pieces of a model that was trained here.

    As these families have them: other special tokens, other ids, and pieces that are never used.
    """
    pieces = [(piece.piece, piece.score) for piece in tokenizer._model.pieces][len(base.SPECIAL_ROLES) :]
    starts = {
        "XLMRoberta": ["<s>", "<pad>", "</s>", "<unk>"],
        "Camembert": ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"],
    }
    start = [(piece, -100.0 if piece == "<unk>NOTUSED" else 0.0) for piece in starts[family]]
    return getattr(transformers, f"{family}Tokenizer")(
        vocab=[*start, *pieces, ("<mask>", 0.0)],
        mask_token=transformers.AddedToken("<mask>", lstrip=True, special=True),
        _spm_precompiled_charsmap=tokenizer._model.normalizer_spec.precompiled_charsmap,
    )


def score(tokenizer: sentencepiece.SentencePiece, ids) -> float:
    return math.fsum(tokenizer._model.pieces[int(i)].score for i in ids)


def has_clusters(text: str) -> bool:
    """Whether marks, joiners or controls may follow a character, which `tokenizers` then normalises as one with it."""
    return any(unicodedata.category(c)[0] in "MC" for c in text)


def dropped_at_start(tokenizer: base.Tokenizer, text: str) -> int:
    """How many characters at the start of a line SentencePiece's normalisation drops."""
    if not isinstance(tokenizer, sentencepiece.SentencePiece):
        return 0
    prepared = (tokenizer._normalization.apply(character) for character in text)
    gone = (tokenizer._library.normalize(f"a{some}b") == "▁ab" for some in prepared)
    return next((count for count, is_gone in enumerate(gone) if not is_gone), len(text))


def assert_equal_to_transformers(
    ours: base.Tokenizer, theirs, lines: list[str], scores_rounded: bool = False
) -> Counter[str]:
    """Equal ids, and equal offsets, but for what the library `tokenizers` does and SentencePiece does not.

    Where characters at the start of a line are dropped, it moves all offsets left; so there the ids are compared on the
    whole line, and the offsets behind those characters. With `scores_rounded`, for a model trained elsewhere, two
    segmentations may differ whose scores are equal as far as the rounding in `SentencePiece` goes.

    Returns how many lines are special in either way.
    """
    special: Counter[str] = Counter()
    if isinstance(ours, sentencepiece.SentencePiece) and ours._normalization.keep_accents:
        comparable = [line for line in lines if not has_clusters(line)]
        special["lines with clusters, not compared"] += len(lines) - len(comparable)
        lines = comparable
    dropped = [dropped_at_start(ours, line) for line in lines]
    whole = theirs(lines, add_special_tokens=False)["input_ids"]
    behind = theirs(
        [line[count:] for line, count in zip(lines, dropped, strict=True)],
        add_special_tokens=False,
        return_offsets_mapping=True,
    )["offset_mapping"]
    for text, count, ids, offsets, fast, mine in zip(
        lines, dropped, whole, behind, ours.encode_ids(lines), ours.encode(lines), strict=True
    ):
        assert fast.tolist() == mine.ids.tolist()
        if scores_rounded and mine.ids.tolist() != ids:
            allowed = sentencepiece.SCORE_UNIT / 2 * (len(ids) + len(mine.ids))
            assert score(ours, ids) == pytest.approx(score(ours, mine.ids), abs=allowed), ascii(text)
            special["lines with segmentations of equal score"] += 1
            continue
        special["lines whose offsets were compared behind dropped characters"] += count > 0
        assert mine.ids.tolist() == ids, ascii(text)
        assert mine.offsets.tolist() == [[start + count, end + count] for start, end in offsets], ascii(text)
    return special
