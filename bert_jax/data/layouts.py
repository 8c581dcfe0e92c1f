"""Which tokens of a store make up sequence i of an epoch, computed for any i without a plan of the whole."""

from typing import NamedTuple, Protocol

import numpy as np

from bert_jax.data.shuffling import mix
from bert_jax.data.store import LONG_SENTENCE, SENTENCES_INDEXED, TokenStore, is_held_out


class Spans(NamedTuple):
    """Runs of tokens, each within one document; all int64 [spans], ordered by row."""

    row: np.ndarray  # of the batch
    document: np.ndarray  # index within the split
    start: np.ndarray  # first token, within the store
    size: np.ndarray  # tokens


class Documents:
    """The documents of one split of a store; 16 bytes of memory each, whatever their length."""

    def __init__(self, store: TokenStore, held_out: float, split: str):
        chosen = np.flatnonzero(is_held_out(store.document_hashes, held_out) == (split == "eval"))
        self.store = store
        self.starts = store.document_starts[chosen]  # int64, first token within the store
        chosen += 1
        sizes = store.document_starts[chosen]
        sizes -= self.starts
        self.ends = np.cumsum(sizes, out=sizes)  # int64, tokens so far

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def num_tokens(self) -> int:
        return int(self.ends[-1]) if len(self) else 0

    def before(self, document: np.ndarray) -> np.ndarray:
        """Tokens of the split in front of a document."""
        return np.where(document > 0, self.ends[document - 1], 0)

    def sizes(self, document: np.ndarray) -> np.ndarray:
        """Tokens of a document."""
        return self.ends[document] - self.before(document)


class Layout(Protocol):
    """A way to cut the documents of a split into rows."""

    count: int  # rows in an epoch

    def locate(self, item: np.ndarray, keys: np.ndarray) -> Spans:
        """Returns the tokens of rows `item` (int64 [rows]) of epochs `keys` (uint64 [rows], random)."""
        ...


class Chunks:
    """One span a row: each document is cut every `capacity` tokens, and some of the spans once more.

    Every token is in exactly one row of an epoch. Which spans are cut again, and where, changes from epoch to epoch:
    every k-th span is, so that the number of rows stays the same.
    """

    def __init__(self, documents: Documents, capacity: int, short_share: float):
        self._documents = documents
        self._capacity = capacity
        chunks = np.diff(documents.ends, prepend=0) + (capacity - 1)
        chunks //= capacity
        self._ends = np.cumsum(chunks, out=chunks)  # int64, chunks so far
        self._chunks = int(self._ends[-1]) if len(documents) else 0
        # Cutting one span makes two short ones.
        self._cut = round(self._chunks * short_share / (2 - short_share))
        self.count = self._chunks + self._cut

    def locate(self, item: np.ndarray, keys: np.ndarray) -> Spans:
        chunks, cut = self._chunks, self._cut
        offset = (keys % np.uint64(chunks)).astype(np.int64)
        second = item >= chunks
        chunk = np.where(second, ((item - chunks) * chunks // max(cut, 1) + offset) % chunks, item)
        # The same rule in reverse: is this chunk one of those that are cut?
        offset_in_cycle = (chunk - offset) % chunks
        which = -(-offset_in_cycle * cut // chunks)
        is_cut = (which < cut) & (which * chunks // max(cut, 1) == offset_in_cycle)

        document = np.searchsorted(self._ends, chunk, side="right")
        skipped = (chunk - np.where(document > 0, self._ends[document - 1], 0)) * self._capacity
        size = np.minimum(self._documents.sizes(document) - skipped, self._capacity)
        start = self._documents.starts[document] + skipped
        inside = np.maximum(size - 1, 1).astype(np.uint64)
        at = np.where(is_cut, 1 + (mix(keys + chunk.astype(np.uint64)) % inside).astype(np.int64), size)
        at = np.minimum(at, size)
        return Spans(
            np.arange(len(item)), document, np.where(second, start + at, start), np.where(second, size - at, at)
        )


class FullRows:
    """Full rows: the documents of a split laid end to end, `separators` special tokens apart, and cut every `capacity`.

    Every token is in exactly one row of an epoch; only the last row has padding.
    """

    def __init__(self, documents: Documents, capacity: int, separators: int):
        self._documents = documents
        self._capacity = capacity
        self._separators = separators
        self._slots = documents.ends - np.diff(documents.ends, prepend=0) + separators * np.arange(len(documents))
        self._total = documents.num_tokens + separators * (len(documents) - 1)
        self.count = -(-self._total // capacity) if len(documents) else 0

    def locate(self, item: np.ndarray, keys: np.ndarray) -> Spans:
        begin = item * self._capacity
        end = np.minimum(begin + self._capacity, self._total)
        first = np.searchsorted(self._slots, begin, side="right") - 1
        last = np.searchsorted(self._slots, end, side="left") - 1
        row, document = ranges(first, last + 1)
        skipped = np.maximum(begin[row] - self._slots[document], 0)
        size = np.minimum(end[row] - self._slots[document], self._documents.sizes(document)) - skipped
        spans = Spans(row, document, self._documents.starts[document] + skipped, size)
        return Spans(*(array[size > 0] for array in spans))


def ranges(first: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lays range(first[i], stop[i]) end to end for all i: returns (i, number), int64 each."""
    counts = stop - first
    which = np.repeat(np.arange(len(first)), counts)
    return which, np.arange(len(which)) + (first - np.cumsum(counts) + counts)[which]


def sentence_starts(store: TokenStore, first: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the sentences that start within runs of tokens.

    Args:
      store: where the tokens are.
      first, stop: int64 [runs]: run i is range(first[i], stop[i]) of the store's tokens.

    Returns:
      (run, first token), int64 each, ordered by both.
    """
    index = store.sentence_index
    group = np.searchsorted(index, first, side="right") - 1
    entries_from = group * SENTENCES_INDEXED
    entries_to = np.minimum(np.searchsorted(index, stop, side="left") * SENTENCES_INDEXED, len(store.sentence_lengths))
    entries_to = np.maximum(entries_to, entries_from)
    run, entry = ranges(entries_from, entries_to)
    # Sums of lengths over all runs, less what they are at the first entry of each run.
    sums = np.concatenate([[0], np.cumsum(store.sentence_lengths[entry], dtype=np.int64)])
    opening = np.cumsum(entries_to - entries_from) - (entries_to - entries_from)
    start = sums[:-1] + (index[group] - sums[opening])[run]
    continued = (entry > 0) & (store.sentence_lengths[entry - 1] == LONG_SENTENCE)
    inside = (start >= first[run]) & (start < stop[run]) & ~continued
    return run[inside], start[inside]
