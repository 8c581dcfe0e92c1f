"""From examples to batches: rows of a table as a pure function of the step, and prefetching of any such function."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from bert_jax.data.batch import Arrays, make_batch
from bert_jax.data.sizes import BatchSizes
from bert_jax.data.summary import Summary

T = TypeVar("T")

# Lengths that batches of texts are padded to: few, so that few shapes are compiled.
BUCKETS = (16, 32, 64, 128, 256, 512, 1024, 2048)
FEW = 2  # this number of batches is made without a thread


@dataclass(frozen=True)
class Features:
    """Tokenised examples of unequal length, and what belongs to each."""

    input_ids: np.ndarray  # int32 [total tokens], special tokens included
    token_type_ids: np.ndarray  # int32 [total tokens]
    starts: np.ndarray  # int64 [examples + 1]: example i is input_ids[starts[i] : starts[i + 1]]
    arrays: Arrays  # [examples, ...] each: labels, their weights, ...
    token_arrays: Arrays = field(default_factory=dict)  # [total tokens] each, int32: labels of tokens, ...
    rows: np.ndarray | None = None  # int64 [examples]: the row of the table each was made of; None = one each
    first_position: int = 0  # position id of each example's first token, as in its frame
    offsets: np.ndarray | None = None  # int32 [total tokens, 2]: characters of the row's text; 0, 0 where none
    lost: np.ndarray | None = None  # int64 [rows]: tokens left out because the row's text is too long; None = none

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int64 [examples]."""
        return np.diff(self.starts)


def join(ids: Sequence[np.ndarray], types: Sequence[np.ndarray], arrays: Arrays, **options: Any) -> Features:
    """Returns the features of examples given one by one; `options` are the other fields of `Features`."""
    empty = np.zeros(0, np.int32)
    return Features(
        input_ids=np.concatenate([empty, *ids]).astype(np.int32),
        token_type_ids=np.concatenate([empty, *types]).astype(np.int32),
        starts=np.concatenate([[0], np.cumsum([len(part) for part in ids])]).astype(np.int64),
        arrays=arrays,
        **options,
    )


def bucket_length(longest: int, limit: int, buckets: Sequence[int] = BUCKETS) -> int:
    """Returns the smallest bucket that holds `longest` tokens, at most `limit`."""
    return min([bucket for bucket in buckets if bucket >= longest] + [limit])


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

    arrays = {
        "token_type_ids": take(features.token_type_ids),
        "position_ids": np.where(real, columns + features.first_position, 0).astype(np.int32),
        "sequence_ids": real.astype(np.int32),
        "cls_positions": np.zeros((len(rows), 1), np.int32),
    }
    arrays |= {name: take(flat) for name, flat in features.token_arrays.items()}
    arrays |= {name: array[rows] for name, array in features.arrays.items()}
    for name in [name for name in features.arrays if name.endswith("weights")]:
        arrays[name] = arrays[name] * present.reshape((-1,) + (1,) * (arrays[name].ndim - 1))
    return make_batch(take(features.input_ids), **arrays)


def packed(features: Features, rows: np.ndarray, length: int, multiple: int = 1) -> Arrays:
    """Returns the batch arrays of the examples `rows` [B], several to a row of `length`.

    Args:
      features: with arrays of shape [examples, 1, ...], which become [R, N, ...]. Where an example is several sequences
        (`cls_positions` [examples, M] and `sequence_ids` say which), a row of N examples has N x M sequences.
      multiple: the number of rows R is a multiple of it, so that devices and microbatches get equal parts.

    Returns:
      int32 arrays [R, length]; sequence_ids number the examples of a row, and N is how many a row can hold. R and N
      take few values, so that few shapes are compiled.
    """
    lengths = features.lengths[rows]
    count = max(1, -(-int(lengths.sum()) // (length * multiple)))
    while True:
        unit = 1 << max(0, count.bit_length() - 3)  # 1 to 8 rows one by one, then 10, 12, 14, 16, 20, ...
        count = -(-count // unit) * unit
        slots = min(len(rows), 2 * -(-len(rows) // (count * multiple)))
        positions = _best_fit(lengths, count * multiple, length, slots)
        if positions is not None:
            break
        count += 1
    row, slot, begin = positions
    shape = count * multiple, length
    of_token = np.repeat(np.arange(len(rows)), lengths)  # which example each token belongs to
    inside = np.arange(len(of_token)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    source = features.starts[rows][of_token] + inside
    target = row[of_token], begin[of_token] + inside

    def spread(values: np.ndarray) -> np.ndarray:
        out = np.zeros(shape, np.int32)
        out[target] = values
        return out

    # For an example of several sequences: where each begins, and which sequence a token belongs to.
    begins = features.arrays.get("cls_positions", np.zeros((len(features), 1), np.int32))
    number = features.token_arrays.get("sequence_ids", np.ones_like(features.input_ids))
    most = begins.shape[1]
    batch = {
        "token_type_ids": spread(features.token_type_ids[source]),
        "position_ids": spread(inside + features.first_position),
    }
    batch |= {name: spread(flat[source]) for name, flat in features.token_arrays.items()}
    batch["sequence_ids"] = spread(slot[of_token] * most + number[source])
    arrays = {name: array[:, 0] for name, array in features.arrays.items() if name != "cls_positions"}
    for name, array in arrays.items():
        batch[name] = np.zeros((shape[0], slots, *array.shape[1:]), array.dtype)
        batch[name][row, slot] = array[rows]
    cls_positions = np.zeros((shape[0], slots, most), np.int32)
    cls_positions[row, slot] = begin[:, None] + begins[rows]
    batch["cls_positions"] = cls_positions.reshape(shape[0], -1)
    return make_batch(spread(features.input_ids[source]), **batch)


def _best_fit(lengths: np.ndarray, rows: int, length: int, slots: int) -> tuple[np.ndarray, ...] | None:
    """Assigns each sequence to a row, long ones first, each to the fullest row with room for it (best fit).

    Returns:
      (row, slot in the row, first position), int64 [sequences] each; None if they do not all fit.
    """
    used, taken = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    assigned = np.zeros((3, len(lengths)), np.int64)
    for i in np.argsort(-lengths, kind="stable"):
        fits = (used + lengths[i] <= length) & (taken < slots)
        if not fits.any():
            return None
        row = int(np.argmax(np.where(fits, used, -1)))
        assigned[:, i] = row, taken[row], used[row]
        used[row] += lengths[i]
        taken[row] += 1
    return assigned[0], assigned[1], assigned[2]


class RowBatches:
    """Batches of a table's examples; each is a pure function of (features, seed, step).

    In training, each epoch has another order, and epochs follow one another without a gap. With `seed=None`
    (evaluation, prediction) each example comes once, sorted by length, and the last batch is filled up with empty rows.

    Args:
      table: the rows that the features were made of.
      batch_size: examples in a batch; perhaps other ones at other steps.
      max_length: tokens in a row at most.
      packing: in training, several examples share a row, which holds the longest of all: as many examples in fewer
        rows.
      multiple: with packing, the number of rows is a multiple of it.
      host, hosts: of `hosts`, this one makes the rows of its part of each batch.
      summary: what became of the rows of the source.
      notes: lines for the user about the rows.
    """

    def __init__(
        self,
        features: Features,
        table: Sequence[Any],
        *,
        batch_size: int | BatchSizes,
        max_length: int,
        seed: int | None = None,
        packing: bool = False,
        multiple: int = 1,
        host: int = 0,
        hosts: int = 1,
        summary: Summary | None = None,
        notes: Sequence[str] = (),
    ):
        self.features = features
        self.table = table
        self.summary = summary or Summary()
        self.notes = notes
        self.num_examples = len(features)
        self._sizes = BatchSizes.of(batch_size)
        self.num_steps = -(-self.num_examples // self._sizes.at(0))
        self.max_length = max_length
        # The cost of attention per token grows with the row, so a row is only a little longer than the longest example.
        self._row_length = min(-(-int(features.lengths.max(initial=1)) // 16) * 16, max_length)
        self._packing = packing and seed is not None
        self._multiple = multiple
        self._host, self._hosts = host, hosts
        self._by_length = np.argsort(features.lengths, kind="stable") if seed is None else None
        # The last two are cached, because all batches of an epoch use the same order.
        self._order = lru_cache(maxsize=2)(
            lambda epoch: np.random.default_rng([seed, epoch]).permutation(self.num_examples)
        )

    def rows(self, step: int) -> np.ndarray:
        """Which examples batch `step` holds, int64 [B]; -1 where a row is empty."""
        index = np.arange(self._sizes.before(step), self._sizes.before(step + 1))
        if self._by_length is not None:
            order = np.concatenate([self._by_length, np.full(len(index), -1)])
            return order[np.minimum(index, self.num_examples)]
        epochs, positions = np.divmod(index, self.num_examples)
        rows = np.empty_like(index)
        for epoch in np.unique(epochs):
            rows[epochs == epoch] = self._order(int(epoch))[positions[epochs == epoch]]
        return rows

    def __call__(self, step: int) -> Arrays:
        rows = self.rows(step)
        if self._packing:  # the row of an example depends on all of them
            whole = packed(self.features, rows, self._row_length, self._multiple)
            return {name: self._mine(array) for name, array in whole.items()}
        longest = int(self.features.lengths[rows[rows >= 0]].max(initial=1))
        return padded(self.features, self._mine(rows), bucket_length(longest, self.max_length))

    def _mine(self, rows: np.ndarray) -> np.ndarray:
        count = len(rows) // self._hosts
        return rows[self._host * count : (self._host + 1) * count]


class ByLength:
    """The examples of other batches once each, in batches that differ in size: fewer rows where examples are long.

    So the memory of a batch hardly depends on how long the longest example is. The longest come first, because then the
    next batch fits into the memory of the one before. In the other order, each would need more, next to what is free.

    Args:
      whole: the batches whose examples these are.
      most_rows: rows in a batch, a multiple of `multiple`; fewer where examples are long.
      most_tokens: rows times length of a batch, if more than `multiple` rows fit into it.
      multiple: of which the rows of a batch are a multiple.
      buckets: lengths that batches are padded to.
    """

    notes: Sequence[str] = ()

    def __init__(self, whole: RowBatches, most_rows: int, most_tokens: int, multiple: int, buckets: Sequence[int]):
        self._features, self.num_examples = whole.features, whole.num_examples
        lengths = whole.features.lengths
        order = np.argsort(-lengths, kind="stable")
        self._batches: list[tuple[np.ndarray, int]] = []  # the examples of each, and the length they are padded to
        while len(order):
            length = bucket_length(int(lengths[order[0]]), whole.max_length, buckets)
            size = min(most_rows, max(multiple, most_tokens // length // multiple * multiple))
            empty = np.full(max(0, size - len(order)), -1)
            self._batches.append((np.concatenate([order[:size], empty]), length))
            order = order[size:]
        self.num_steps = len(self._batches)

    def rows(self, step: int) -> np.ndarray:
        """Which examples batch `step` holds, int64 [B]; -1 where a row is empty."""
        return self._batches[step][0]

    def __call__(self, step: int) -> Arrays:
        return padded(self._features, *self._batches[step])


@dataclass(frozen=True)
class _Steps:
    """A batch function as the random-access source that Grain reads."""

    batches: Callable[[int], Any]
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Any:
        return self.batches(self.start + int(index))


def prefetch(batches: Callable[[int], T], start: int, stop: int) -> Iterator[T]:
    """Yields batches(start), ..., batches(stop - 1) in order, some made ahead by a thread."""
    if stop - start <= FEW:
        return map(batches, range(start, stop))
    import grain  # takes a third of a second

    # One worker: more would compete with the training step for a small machine's cores, and NumPy holds the GIL anyway.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    return iter(grain.MapDataset.source(_Steps(batches, start, stop)).to_iter_dataset(options))
