"""Randomness without state: a shuffled order that needs no memory, and numbers that belong to a row of a batch."""

import numpy as np


def mix(values: np.ndarray) -> np.ndarray:
    """Scrambles uint64 values, one to one (the finalizer of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hash_key(*numbers: int) -> np.uint64:
    """Returns 64 bits that depend on every one of the integers and on their order."""
    return np.random.SeedSequence([number % 2**64 for number in numbers]).generate_state(1, np.uint64)[0]


def permute(index: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """Returns where a random permutation of range(size) takes each index.

    A Feistel network over the next power of four, applied again while the result is too large (Black and Rogaway 2002,
    "Ciphers with arbitrary finite domains"): nothing is stored, so an epoch of billions of sequences can be entered at
    any place.

    Args:
      index: int64 [n], each in range(size).
      size: at least 1.
      keys: uint64 [n]; indices with the same key belong to the same permutation.

    Returns:
      int64 [n].
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half) - np.uint64(1)
    result = index.astype(np.uint64)
    todo = np.arange(len(result))
    while len(todo):
        left, right = result[todo] >> half, result[todo] & low
        for constant in range(1, 9):
            left, right = right, left ^ (mix(right + keys[todo] * np.uint64(2 * constant + 1)) >> np.uint64(40) & low)
        result[todo] = (left << half) | right
        todo = todo[result[todo] >= np.uint64(size)]
    return result.astype(np.int64)


class RowRandom:
    """Random bits for some rows of a batch: those that the whole batch would have in these rows."""

    def __init__(self, key: tuple[int, ...], first_row: int, rows: int):
        self._key = tuple(number % 2**64 for number in key)
        self._first_row = first_row
        self._rows = rows
        self._draws = 0

    def bits(self, width: int) -> np.ndarray:
        """Returns uint32 [rows, width], fresh ones at every call."""
        words = -(-width // 2)
        generator = np.random.PCG64DXSM(np.random.SeedSequence((*self._key, self._draws)))
        self._draws += 1
        generator.advance(self._first_row * words)
        return generator.random_raw(self._rows * words).view(np.uint32).reshape(self._rows, -1)[:, :width]


def bounded(bits: np.ndarray, limit: np.ndarray | int) -> np.ndarray:
    """Turns uint32 bits into int64 numbers in range(limit), for limits far below 2**32; 0 where the limit is 0."""
    return ((bits.astype(np.uint64) * np.asarray(limit, np.uint64)) >> np.uint64(32)).astype(np.int64)
