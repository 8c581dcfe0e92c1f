"""Words and texts that tests make their data of."""

import numpy as np

WORDS = ["red", "blue", "green", "gold", "small", "large", "old", "new", "cat", "dog"]
WORDS += ["bird", "fish", "runs", "sleeps", "eats", "sings", "here", "there", "now", "then"]
NAMES = ["red", "blue", "green", "gold", "small", "large", "Paris", "London", "cats", "doghouse"]


def texts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [
        "\n".join(" ".join(rng.choice(WORDS, rng.integers(4, 9))).capitalize() + "." for _ in range(rng.integers(3, 8)))
        for _ in range(count)
    ]
