"""Texts longer than a row are read in overlapping windows; each token is predicted in the one with most context."""

import numpy as np


def windows(length: int, size: int, step: int) -> list[tuple[int, int]]:
    """Returns (begin, end) of each window over `length` tokens: `step` apart and `size` long; the last may be shorter.

    >>> windows(10, size=6, step=3)
    [(0, 6), (3, 9), (6, 10)]
    """
    count = 1 + max(0, -(-(length - size) // step))
    return [(i * step, min(i * step + size, length)) for i in range(count)]


def owners(length: int, parts: list[tuple[int, int]]) -> np.ndarray:
    """Returns for each token the window in which it has most context: int64 [length].

    The context counts on the side where the window has less of it; of equal windows the longest is taken. BERT's SQuAD
    code calls this "max context".

    >>> owners(10, windows(10, size=6, step=3)).tolist()
    [0, 0, 0, 0, 0, 1, 1, 1, 2, 2]
    """
    positions = np.arange(length)
    scores = np.full((len(parts), length), -1.0)
    for number, (begin, end) in enumerate(parts):
        inside = positions[begin:end]
        scores[number, begin:end] = np.minimum(inside - begin, end - 1 - inside) + 0.01 * (end - begin)
    return scores.argmax(axis=0)
