"""New pieces for a WordPiece vocabulary, learnt from a corpus that it splits badly."""

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bert_jax.errors import InputError
from bert_jax.tokenizers.base import Tokenizer
from bert_jax.tokenizers.wordpiece import CONTINUING, WordPiece

MIN_USES = 2  # a new piece must occur this often in the words of the corpus


class Extension(NamedTuple):
    """New pieces; they follow the old ones in the vocabulary, in this order."""

    pieces: tuple[str, ...]
    made_of: tuple[tuple[int, ...], ...]  # of each new piece: the ids of the old pieces it joins
    words: int  # of the corpus that the pieces were learnt from
    tokens_per_word_before: float
    tokens_per_word_after: float


def extend(tokenizer: Tokenizer, texts: Iterable[str], num_pieces: int) -> tuple[WordPiece, Extension]:
    """Adds pieces to the vocabulary, so that the words of a domain are split into fewer pieces.

    Learning continues where the tokenizer's training stopped: words start as their current pieces, and the commonest
    pair of neighbours becomes a piece (as in Sennrich et al. 2016), again and again. A new piece that is only used
    inside a longer one is dropped: WordPiece takes the longest piece that fits and does not need the shorter ones.

    Args:
      tokenizer: WordPiece; it is not changed.
      texts: the corpus, read once; its different words are held in memory.
      num_pieces: number of pieces to add.

    Raises:
      InputError: the tokenizer is not WordPiece, or the corpus yields fewer pieces.
    """
    if not isinstance(tokenizer, WordPiece):
        raise InputError(f"only a WordPiece vocabulary can be extended, and this one is {tokenizer.kind}")
    if num_pieces < 1:
        raise InputError(f"num_pieces {num_pieces} must be at least 1")
    counts = tokenizer.words(texts)
    words = sorted(counts)
    split = tokenizer.encode_ids(words)
    merger = _Merger(
        [[tokenizer.vocabulary[i] for i in ids] for ids in split],
        [counts[word] for word in words],
        frozenset(tokenizer.vocabulary),
    )
    while len(merger.live) < num_pieces:
        if not merger.join_commonest():
            raise InputError(
                f"num_pieces {num_pieces} does not fit: the corpus yields {len(merger.live)} new pieces; "
                "give more text or fewer pieces"
            )
    added = sorted(merger.live, key=lambda piece: (-merger.uses[piece], piece))
    extended = tokenizer.with_pieces(added)
    total = max(1, counts.total())
    before, after = (
        sum(len(ids) * counts[word] for word, ids in zip(words, encoded, strict=True)) / total
        for encoded in (split, extended.encode_ids(words))
    )
    made_of = tuple(tuple(tokenizer.piece_id(part) for part in merger.parts(piece)) for piece in added)
    return extended, Extension(tuple(added), made_of, counts.total(), before, after)  # type: ignore[arg-type]


class _Merger:
    """Words as lists of pieces, and how often each pair of neighbours occurs in them."""

    def __init__(self, words: list[list[str]], counts: Sequence[int], old: frozenset[str]):
        self._words, self._counts, self._old = words, counts, old
        self._made_of: dict[str, tuple[str, str]] = {}
        self.uses: Counter[str] = Counter()
        self.live: set[str] = set()  # new pieces in use
        self._pairs: Counter[tuple[str, str]] = Counter()
        self._where: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
        self._heap: list[tuple[int, tuple[str, str]]] = []
        for i in range(len(words)):
            self._count_pairs(i)
        for pair in self._pairs:
            self._push(pair)

    def _count_pairs(self, i: int, sign: int = 1) -> set[tuple[str, str]]:
        pieces = self._words[i]
        pairs = [(a, b) for a, b in itertools.pairwise(pieces) if a + b[len(CONTINUING) :] not in self._old]
        for pair in pairs:
            self._pairs[pair] += sign * self._counts[i]
            (self._where[pair].add if sign > 0 else self._where[pair].discard)(i)
        return set(pairs)

    def _push(self, pair: tuple[str, str]) -> None:
        if self._pairs[pair] >= MIN_USES:
            heapq.heappush(self._heap, (-self._pairs[pair], pair))

    def join_commonest(self) -> bool:
        """Joins the commonest pair everywhere; returns False if there is no pair left."""
        while self._heap:
            count, pair = heapq.heappop(self._heap)
            if -count == self._pairs[pair]:
                break
            # Counts that changed since then are in the heap again, with their new values.
        else:
            return False
        piece = pair[0] + pair[1][len(CONTINUING) :]
        self._made_of.setdefault(piece, pair)
        changed = set()
        for i in sorted(self._where[pair]):
            changed |= self._count_pairs(i, -1)
            self._join(i, pair, piece)
            changed |= self._count_pairs(i)
        for other in sorted(changed):
            self._push(other)
        for part in (piece, *pair):
            (self.live.add if self.uses[part] >= MIN_USES else self.live.discard)(part)
        self.live -= self._old
        return True

    def _join(self, i: int, pair: tuple[str, str], piece: str) -> None:
        pieces, joined = self._words[i], []
        while pieces:
            if tuple(pieces[:2]) == pair:
                joined.append(piece)
                pieces = pieces[2:]
                for part, sign in ((piece, 1), (pair[0], -1), (pair[1], -1)):
                    self.uses[part] += sign * self._counts[i]
            else:
                joined.append(pieces[0])
                pieces = pieces[1:]
        self._words[i] = joined

    def parts(self, piece: str) -> list[str]:
        """Returns the old pieces that a piece was joined from."""
        if piece in self._old:
            return [piece]
        return [part for half in self._made_of[piece] for part in self.parts(half)]
