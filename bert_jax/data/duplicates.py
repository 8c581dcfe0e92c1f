"""Finds documents that repeat an earlier one, exactly or nearly.

Two documents are near-exact duplicates if their sets of five-token runs overlap by about 0.8 of their union or more.
The overlap is estimated by MinHash with one permutation (Li, Owen and Zhang 2012, "One Permutation Hashing"): the runs
of a document are hashed into 32 bins, and the smallest hash of each bin is kept. Documents that agree in a whole band
of 8 bins are compared. An overlap of 0.95 is found 99 times out of 100, one of 0.8 every second time.
"""

import numpy as np

RUN = 5  # tokens hashed together
BINS = 32  # hashes per document
BANDS = 4  # groups of bins; equal ones make two documents candidates
AGREEMENT = 0.8  # share of the bins in use that must be equal
SLICE = 1 << 15  # tokens hashed at a time, so that the arrays in between stay in the cache
EMPTY = np.uint32(0xFFFFFFFF)  # a bin into which no run fell

_FACTORS = np.random.default_rng(0).integers(1 << 30, 1 << 31, 16, dtype=np.uint32) * np.uint32(2) + np.uint32(1)


def sketches(tokens: np.ndarray, document_sizes: np.ndarray) -> np.ndarray:
    """Summarises documents for comparison.

    Args:
      tokens: integer [tokens], the documents one after another.
      document_sizes: integer [documents], in tokens, each at least 1.

    Returns:
      uint32 [documents, BINS]; EMPTY where no run fell into a bin.
    """
    sketch = np.full(len(document_sizes) * BINS, EMPTY)
    document = np.repeat(np.arange(len(document_sizes)), document_sizes)
    for start in range(0, len(tokens), SLICE):
        here = document[start : start + SLICE]
        # Zeros between documents, so that no run crosses into another one; the last runs end in the next slice.
        within = document[start : start + SLICE + RUN - 1]
        position = np.arange(len(within)) + RUN * (within - within[0])
        padded = np.zeros(position[-1] + 1 + RUN, np.uint32)
        padded[position] = tokens[start : start + SLICE + RUN - 1] + np.uint32(1)
        hashes = padded[:-RUN] * _FACTORS[0]
        for j in range(1, RUN):
            hashes += padded[j : j - RUN] * _FACTORS[j]
        hashes = hashes[position[: len(here)]]
        hashes ^= hashes >> np.uint32(15)
        hashes *= _FACTORS[RUN]
        smaller = (hashes ^ hashes >> np.uint32(13)) * _FACTORS[RUN + 1]
        np.minimum.at(sketch, here * BINS + (hashes >> np.uint32(27)), smaller)
    return sketch.reshape(-1, BINS)


def find_duplicates(content_hashes: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the documents that repeat an earlier one; takes about 24 bytes of memory per document.

    Args:
      content_hashes: uint64 [documents].
      hashes: uint32 [documents, BINS], from `sketches`; may be a memory map.

    Returns:
      Two masks, bool [documents]: exact duplicates, and near-exact ones that are not exact.
    """
    exact = np.zeros(len(content_hashes), bool)
    later, _ = _repeats(content_hashes)
    exact[later] = True
    near = np.zeros(len(content_hashes), bool)
    width = BINS // BANDS
    for band in range(0, BINS, width):
        keys = np.zeros(len(hashes), np.uint64)
        for j in range(width):
            keys = keys * np.uint64(_FACTORS[2 * j]) * np.uint64(_FACTORS[2 * j + 1]) + hashes[:, band + j]
        candidates = np.flatnonzero(~exact & (hashes[:, band : band + width] != EMPTY).any(axis=1))
        later, first = _repeats(keys[candidates])
        later, first = candidates[later], candidates[first]
        for start in range(0, len(later), 1 << 16):
            some = later[start : start + (1 << 16)]
            near[some] |= _similar(hashes[some], hashes[first[start : start + (1 << 16)]])
    return exact, near


def _repeats(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of keys that occurred before, and the index of each one's first occurrence."""
    order = np.argsort(keys, kind="stable")
    in_order = keys[order]
    new = np.concatenate([[True], in_order[1:] != in_order[:-1]])[: len(keys)]
    first = order[np.flatnonzero(new)[np.cumsum(new) - 1]] if len(keys) else order
    return order[~new], first[~new]


def _similar(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    used = (a != EMPTY) | (b != EMPTY)
    return ((a == b) & used).sum(axis=1) >= AGREEMENT * used.sum(axis=1)
