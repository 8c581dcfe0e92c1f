"""Texts longer than a row, read in overlapping windows of which one has the say at each place."""

import numpy as np


def windows(length: int, size: int, step: int) -> list[tuple[int, int]]:
    """Returns (begin, end) of each window over `length` pieces, `step` apart and `size` long, the last perhaps shorter.

    >>> windows(10, size=6, step=3)
    [(0, 6), (3, 9), (6, 10)]
    """
    count = 1 + max(0, -(-(length - size) // step))
    return [(i * step, min(i * step + size, length)) for i in range(count)]


def owners(length: int, parts: list[tuple[int, int]]) -> np.ndarray:
    """Returns for each piece the window in which it sees most: int64 [length].

    That is the one with the largest smaller side, and among equals the longest ("max context" in BERT's SQuAD code).

    >>> owners(10, windows(10, size=6, step=3)).tolist()
    [0, 0, 0, 0, 0, 1, 1, 1, 2, 2]
    """
    places = np.arange(length)
    scores = np.full((len(parts), length), -1.0)
    for number, (begin, end) in enumerate(parts):
        inside = places[begin:end]
        scores[number, begin:end] = np.minimum(inside - begin, end - 1 - inside) + 0.01 * (end - begin)
    return scores.argmax(axis=0)
