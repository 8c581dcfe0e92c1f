"""From examples to batches: rows of a table as a pure function of the step, and prefetching of any such function."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

Arrays = dict[str, np.ndarray]

# Widths that batches of texts are padded to: few, so that few shapes are compiled.
BUCKETS = (16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Features:
    """Tokenised examples of unequal length, and arrays that hold one entry for each."""

    input_ids: np.ndarray  # int32 [total tokens], special tokens included
    token_type_ids: np.ndarray  # int32 [total tokens]
    starts: np.ndarray  # int64 [examples + 1]: example i is input_ids[starts[i] : starts[i + 1]]
    arrays: Arrays  # each [examples, ...]: labels and their weights

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int64 [examples]."""
        return np.diff(self.starts)


def width(longest: int, limit: int) -> int:
    """The smallest bucket that holds `longest` tokens, at most `limit`."""
    return min([bucket for bucket in BUCKETS if bucket >= longest] + [limit])


def padded(features: Features, rows: np.ndarray, length: int) -> Arrays:
    """Returns the batch arrays of `rows` [B], int32 [B, length], one example a row; row -1 is empty and weighs 0."""
    present = rows >= 0
    rows = np.where(present, rows, 0)
    starts, lengths = features.starts[rows], features.lengths[rows] * present
    columns = np.arange(length)
    real = columns < lengths[:, None]
    index = np.where(real, starts[:, None] + columns, 0)

    def take(flat: np.ndarray) -> np.ndarray:
        return np.where(real, flat[index], 0).astype(np.int32)

    batch = {
        "input_ids": take(features.input_ids),
        "token_type_ids": take(features.token_type_ids),
        "position_ids": np.where(real, columns, 0).astype(np.int32),
        "sequence_ids": real.astype(np.int32),
        "cls_positions": np.zeros((len(rows), 1), np.int32),
    }
    for name, array in features.arrays.items():
        batch[name] = array[rows]
    for name in [name for name in features.arrays if name.endswith("weights")]:
        batch[name] = batch[name] * present.reshape((-1,) + (1,) * (batch[name].ndim - 1))
    return batch


class RowBatches:
    """Batches of a table's examples; each is a pure function of (features, seed, step).

    For training, examples are shuffled anew each epoch and epochs follow one another without a gap. With `seed=None`
    (evaluation, prediction) each example comes once, sorted by length, and the last batch is filled up with empty rows.
    """

    def __init__(
        self,
        features: Features,
        table: Sequence[Any],
        *,
        batch_size: int,
        max_length: int,
        seed: int | None = None,
    ):
        self.features = features
        self.table = table  # the rows that the features were made of
        self.num_examples = len(features)
        self.num_steps = -(-self.num_examples // batch_size)
        self._batch_size = batch_size
        self._max_length = max_length
        self._seed = seed
        self._by_length = np.argsort(features.lengths, kind="stable") if seed is None else None

    def rows(self, step: int) -> np.ndarray:
        """Which examples batch `step` holds, int64 [B]; -1 where a row is empty."""
        index = np.arange(step * self._batch_size, (step + 1) * self._batch_size)
        if self._by_length is not None:
            order = np.concatenate([self._by_length, np.full(self._batch_size, -1)])
            return order[np.minimum(index, self.num_examples)]
        epochs, places = np.divmod(index, self.num_examples)
        rows = np.empty_like(index)
        for epoch in np.unique(epochs):
            order = np.random.default_rng([self._seed, epoch]).permutation(self.num_examples)
            rows[epochs == epoch] = order[places[epochs == epoch]]
        return rows

    def __call__(self, step: int) -> Arrays:
        rows = self.rows(step)
        longest = int(self.features.lengths[rows[rows >= 0]].max(initial=1))
        return padded(self.features, rows, width(longest, self._max_length))


@dataclass(frozen=True)
class _Steps:
    """A batch function as the random-access source that Grain reads."""

    batches: Callable[[int], Arrays]
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Arrays:
        return self.batches(self.start + int(index))


def prefetch(batches: Callable[[int], Arrays], start: int, stop: int) -> Iterator[Arrays]:
    """Yields batches(start), ..., batches(stop - 1) in order, some made ahead by a thread."""
    if start >= stop:
        return iter(())
    # One worker: more would compete with the training step for a small machine's cores, and NumPy holds the GIL anyway.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    return iter(grain.MapDataset.source(_Steps(batches, start, stop)).to_iter_dataset(options))
