"""What all tasks on labelled rows share: from their sources to batches."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from bert_jax.config import BertConfig, Compute, Labelled
from bert_jax.data.batch import Arrays, make_batch
from bert_jax.data.batches import Features, RowBatches
from bert_jax.data.rows import Row, read_rows
from bert_jax.errors import InputError
from bert_jax.losses import Keys, counts_of
from bert_jax.tokenizers import Frame, Tokenizer


class RowTask:
    """The part of `bert_jax.tasks.Task` that is the same for every kind of row; rooms add the rest."""

    model: nn.Module

    def __init__(self, fields: Any, config: BertConfig, tokenizer: Tokenizer, compute: Compute = Compute()):
        self.fields = fields
        self.config = config
        self.compute = compute
        self.tokenizer = tokenizer
        longest = tokenizer.frame.longest(config.max_position_embeddings)
        if fields.max_length > longest:
            raise InputError(
                f"task.max_length: {fields.max_length} is longer than the model's {longest} positions; choose at most "
                "that"
            )

    def logits(self, params: Any, batch: dict[str, jax.Array], keys: Keys) -> Any:
        """Returns the model's output."""
        rngs = None if keys.dropout is None else {"dropout": keys.dropout}
        return self.model.apply({"params": params}, batch, keys.dropout is None, rngs=rngs)

    def loss_weights(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns the weight of each prediction in each loss."""
        raise NotImplementedError

    def counts(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return counts_of(self.loss_weights(batch))

    def features(self, rows: Sequence[Row], labelled: bool) -> Features:
        """Turns rows into examples, with labels or, to predict, without.

        Raises:
          InputError: rows are bad; all of them up to 20 are named.
        """
        raise NotImplementedError

    def training_examples(self, seed: int) -> tuple[Features, list[Row]]:
        """Reads what to learn from, and the rows it was made of; `limit` draws them with `seed`."""
        rows = training_rows(self.fields)
        if self.fields.limit is not None:
            chosen = np.random.default_rng([seed, len(rows)]).permutation(len(rows))[: self.fields.limit]
            rows = [rows[i] for i in chosen]
        return self.features(rows, labelled=True), rows

    def train_batches(
        self, *, batch_size: int, steps: int, seed: int, multiple: int = 1, host: int = 0, hosts: int = 1
    ) -> RowBatches:
        features, rows = self.training_examples(seed)
        return RowBatches(
            features,
            rows,
            batch_size=batch_size,
            max_length=self.row_length(features),
            seed=seed,
            packing=getattr(self.fields, "packing", False),
            multiple=multiple,
            host=host,
            hosts=hosts,
        )

    def eval_batches(self, *, batch_size: int, data: str | None = None) -> RowBatches | None:
        source = data or self.fields.source(self.fields.eval)
        return self._once(read_rows(source)[: self.fields.eval_limit], batch_size, labelled=True) if source else None

    def predict_batches(self, rows: Sequence[Row], *, batch_size: int) -> RowBatches:
        return self._once(rows, batch_size, labelled=False)

    def _once(self, rows: Sequence[Row], batch_size: int, labelled: bool) -> RowBatches:
        features = self.features(rows, labelled)
        return RowBatches(features, rows, batch_size=batch_size, max_length=self.row_length(features))

    def row_length(self, features: Features) -> int:
        """Tokens that the longest row of a batch can have."""
        return self.fields.max_length

    def dummy_batch(self) -> Arrays:
        return make_batch(np.zeros((1, 1), np.int32))

    def tables(self, predictions: Arrays, batches: RowBatches) -> dict[str, Any]:
        return {}

    def fitted(self, predictions: Arrays, batches: RowBatches) -> dict[str, Any]:
        return {}


def training_rows(fields: Labelled) -> list[Row]:
    """Reads the rows to learn from.

    Raises:
      InputError: none are named, or they cannot be read.
    """
    if not fields.train:
        raise InputError("task.train: name a file of rows or tfds:name:split to learn from")
    return read_rows(fields.source(fields.train))


def _first(ids: np.ndarray, room: int) -> np.ndarray:
    return ids[:room]


def sequence(
    frame: Frame,
    max_length: int,
    a: np.ndarray,
    b: np.ndarray | None = None,
    cut: Callable[[np.ndarray, int], np.ndarray] = _first,
) -> tuple[np.ndarray, np.ndarray]:
    """Puts one text or two in their frame; of two that are too long, the longer is cut first.

    Args:
      a, b: pieces, int32.
      cut: (pieces of a, how many may stay) -> those that do.

    Returns:
      (pieces, segment of each), both int32 [at most max_length].
    """
    room = max_length - frame.size(1 if b is None else 2)
    keep = min(len(a), room if b is None else max(room - len(b), (room + 1) // 2))
    return frame.join(cut(a, keep)) if b is None else frame.join(cut(a, keep), b[: room - keep])


def label_names(names: Iterable[str], where: str) -> tuple[str, ...]:
    """Returns the different names in a fixed order: as numbers where all are, else as text.

    Raises:
      InputError: there are fewer than two.
    """
    found = sorted(set(names))
    if len(found) < 2:
        raise InputError(f"{where}: needs at least two different labels, found {found}")
    return tuple(sorted(found, key=int) if all(name.isdecimal() for name in found) else found)


def balanced_weights(labels: Iterable[int], count: int) -> tuple[float, ...]:
    """Returns a weight for each of `count` classes: their mean frequency over each one's own, 1 where it never occurs.

    Source: King & Zeng 2001, "Logistic regression in rare events data"; scikit-learn's "balanced".
    """
    frequency = Counter(labels)
    total = frequency.total()
    return tuple(total / (count * frequency[i]) if frequency[i] else 1.0 for i in range(count))
