"""What all tasks on labelled rows share: from their sources to batches."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, Self

import jax
import numpy as np
from flax import linen as nn

from bert_jax.config import BertConfig, Compute, Labelled
from bert_jax.data.batch import Arrays, make_batch
from bert_jax.data.batches import Features, RowBatches
from bert_jax.data.row_errors import MOST_REPORTED, BadRowsError, RowErrors
from bert_jax.data.rows import Row, declared_labels, label_index, read_rows
from bert_jax.data.sizes import BatchSizes
from bert_jax.data.summary import Summary
from bert_jax.errors import InputError
from bert_jax.losses import Joint, Keys, counts_of
from bert_jax.tasks.base import Batches, Evaluation
from bert_jax.tokenizers import Frame, Tokenizer

EXAMPLES = 10  # rows whose answers an evaluation keeps
FEW_ROWS = 5  # a label with fewer training rows is mentioned
UNLABELLED = frozenset({"-1", "-"})  # labels that usually mean "no label": in TFDS and Hugging Face sets, and in SNLI


class Sources:
    """The data that a task learns from; each source is read once, when it is first needed."""

    def __init__(self, fields: Any):
        self.fields = fields
        self.errors: dict[str, RowErrors] = {}  # by source: the rows that were left out, because they cannot be read

    def read(self, source: str) -> list[Row]:
        """Reads the rows of a source; with on_bad_row skip, lines that cannot be read are left out."""
        if self.fields.on_bad_row == "stop":
            return read_rows(source, columns=self.fields.columns)
        self.errors[source] = RowErrors()
        return read_rows(source, columns=self.fields.columns, errors=self.errors[source])

    @cached_property
    def train(self) -> list[Row]:
        """The rows to learn from."""
        return self.rows

    @cached_property
    def rows(self) -> list[Row]:
        """All rows of `train`, with labels.

        Raises:
          InputError: `train` names none, or they cannot be read.
        """
        if not self.fields.train:
            raise InputError("task.train: name a file of rows or tfds:name:split to learn from")
        return self.read(self.fields.source(self.fields.train))

    def declared_labels(self, field: str) -> tuple[str, ...]:
        """Returns the names of labels that `train` declares, in its order; empty if it declares none."""
        return declared_labels(self.fields.source(self.fields.train), field)


class LabelledTask:
    """What is the same for all tasks on rows; subclasses add the model, features, losses and scores.

    See `bert_jax.tasks.base.Answering`.
    """

    model: nn.Module
    joint: Joint | None = None
    sources_type: type[Sources] = Sources

    def __init__(self, fields: Any, config: BertConfig, tokenizer: Tokenizer, compute: Compute = Compute()):
        self.fields = fields
        self.config = config
        self.compute = compute
        self.tokenizer = tokenizer
        self.sources = self.sources_type(fields)
        # By seed, if that decides which rows.
        self._examples: dict[int | None, tuple[Features, list[Row], Summary]] = {}
        fields.check_length(tokenizer.frame.longest(config.max_position_embeddings))

    @classmethod
    def open(cls, fields: Any, config: BertConfig, tokenizer: Tokenizer, compute: Compute = Compute()) -> Self:
        sources = cls.sources_type(fields)
        task = cls(cls.complete(fields, sources), config, tokenizer, compute)
        task.sources = sources
        return task

    @staticmethod
    def complete(fields: Any, sources: Any) -> Any:
        """Returns the fields with those filled in that the training data decides, such as label names."""
        return fields

    def notes(self) -> list[str]:
        return []

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
          InputError: some rows are bad; the first 20 of them are named.
        """
        raise NotImplementedError

    def usable(self, rows: Sequence[Row], labelled: bool, skip: bool) -> tuple[Features, list[Row], Summary]:
        """Returns the features of rows, the rows, and what became of them; with `skip`, without the bad rows.

        Raises:
          InputError: some rows are bad and `skip` is False, or all are.
        """
        rows, skipped = list(rows), RowErrors()
        while True:
            try:
                features = self.features(rows, labelled)
            except BadRowsError as error:
                skipped.add_all(error.errors)
                good = [row for row in rows if row.where not in error.errors.bad]
                if not skip or not good or len(good) == len(rows):
                    raise BadRowsError(skipped) from None
                rows = good
                continue
            lost = np.zeros(1, np.int64) if features.lost is None else features.lost
            length = int(features.lengths.sum() + lost.sum())
            cut = int(np.count_nonzero(lost))
            return features, rows, Summary(len(rows), skipped, cut, int(lost.sum()), length, self.limit)

    @property
    def limit(self) -> str:
        """The field that sets how long a text may be, and its value."""
        return f"{self.fields.max_length} tokens (task.max_length)"

    def rows_of_labels(self, features: Features) -> dict[str, int]:
        """Returns the number of rows of each label, if the task has labels."""
        return {}

    def row_notes(self, source: str, rows: Sequence[Row]) -> list[str]:
        """Returns lines for the user about what is in training rows and is not read."""
        return []

    def _notes(self, source: str, features: Features, rows: Sequence[Row], summary: Summary) -> list[str]:
        """Returns lines for the user about the training rows."""
        counts = self.rows_of_labels(features)
        few = sorted((label for label in counts if counts[label] < FEW_ROWS), key=lambda label: counts[label])
        shown = ", ".join(f"{label} ({counts[label]})" for label in few[:MOST_REPORTED])
        more = ", ..." if len(few) > MOST_REPORTED else ""
        rare = [f"{source}: labels with fewer than {FEW_ROWS} rows: {shown}{more}"] if few else []
        return [*summary.lines(source), *rare, *self.row_notes(source, rows)]

    def training_examples(self, seed: int) -> tuple[Features, list[Row], Summary]:
        """Returns the examples to learn from, their rows, and what became of these; `limit` draws them with `seed`."""
        rows, source = self.sources.train, self.fields.source(self.fields.train)
        if self.fields.limit is not None:
            chosen = np.random.default_rng([seed, len(rows)]).permutation(len(rows))[: self.fields.limit]
            rows = [rows[i] for i in chosen]
        features, rows, summary = self.usable(rows, True, self.fields.on_bad_row == "skip")
        return features, rows, summary.with_unread(self.sources.errors.get(source))

    def train_batches(
        self, *, batch_size: int | BatchSizes, steps: int, seed: int, multiple: int = 1, host: int = 0, hosts: int = 1
    ) -> RowBatches:
        key = None if self.fields.limit is None else seed
        if key not in self._examples:
            self._examples[key] = self.training_examples(seed)
        features, rows, summary = self._examples[key]
        return RowBatches(
            features,
            rows,
            summary=summary,
            notes=self._notes(self.fields.source(self.fields.train), features, rows, summary),
            batch_size=batch_size,
            max_length=self.row_length(features),
            seed=seed,
            packing=self.fields.packing,
            multiple=multiple,
            host=host,
            hosts=hosts,
        )

    def eval_batches(self, *, batch_size: int, data: str | None = None) -> RowBatches | None:
        source = self.fields.source(self.fields.eval) if data is None else data
        if not source:
            return None
        rows = self.sources.read(source)[: self.fields.eval_limit if data is None else None]
        return self._once(rows, batch_size, True, self.fields.on_bad_row == "skip", source)

    def predict_batches(self, rows: Sequence[Row], *, batch_size: int, skip: bool = False) -> RowBatches:
        return self._once(rows, batch_size, False, skip)

    def _once(self, rows: Sequence[Row], batch_size: int, labelled: bool, skip: bool, source: str = "") -> RowBatches:
        features, usable, summary = self.usable(rows, labelled, skip)
        summary = summary.with_unread(self.sources.errors.get(source))
        return RowBatches(
            features,
            usable,
            summary=summary,
            notes=summary.lines(source),
            batch_size=batch_size,
            max_length=self.row_length(features),
        )

    def row_length(self, features: Features) -> int:
        """Returns the number of tokens in the longest possible row of a batch."""
        return self.fields.max_length

    def dummy_batch(self) -> Arrays:
        return make_batch(np.zeros((1, 1), np.int32))

    def evaluate(self, predictions: Arrays, batches: Batches) -> Evaluation:
        assert isinstance(batches, RowBatches)
        return self.score(predictions, batches.features, batches.table)

    def score(self, predictions: Arrays, features: Features, rows: Sequence[Row]) -> Evaluation:
        """Returns metrics, tables, fitted values and examples, all from predictions that are decoded once."""
        raise NotImplementedError


def with_answers(rows: Sequence[Row], answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the first rows and their answers, as an evaluation keeps them."""
    return [{"input": row.values, **answer} for row, answer in zip(rows[:EXAMPLES], answers, strict=False)]


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
      a, b: token ids, int32.
      cut: (token ids of a, N) -> at most N of them.

    Returns:
      (token ids, segment of each token), both int32 [at most max_length].
    """
    room = max_length - frame.size(1 if b is None else 2)
    keep = min(len(a), room if b is None else max(room - len(b), (room + 1) // 2))
    return frame.join(cut(a, keep)) if b is None else frame.join(cut(a, keep), b[: room - keep])


def check_unless_skipped(errors: RowErrors, fields: Labelled) -> None:
    """Raises InputError if there are errors, unless bad rows are left out later."""
    if fields.on_bad_row == "stop":
        errors.check()


def label_names(names: Iterable[str], where: str, at_least: int = 2) -> tuple[str, ...]:
    """Returns the different names in a fixed order: that of numbers if all of them are numbers, otherwise of text.

    Raises:
      InputError: there are fewer than `at_least`.
    """
    different = sorted(set(names))
    if len(different) < at_least:
        wanted = "two different labels" if at_least == 2 else "one label"
        raise InputError(f"{where}: needs at least {wanted}, has {different}")
    numbers = all(name.isdecimal() and len(name) < 100 for name in different)
    return tuple(sorted(different, key=int) if numbers else different)


def are_numbers(names: Iterable[str], labels: Sequence[str]) -> bool:
    """Whether `names`, the labels of rows, are numbers of `labels`, from 0, and not labels themselves.

    >>> are_numbers(["0", "1"], ["bad", "good"]), are_numbers(["0", "2"], ["bad", "good"]), are_numbers(["1"], ["0"])
    (True, False, False)
    """
    different = set(names) - UNLABELLED
    return bool(different) and not different & set(labels) and different <= set(map(str, range(len(labels))))


def index_of(labels: Sequence[str], numbers: bool | None) -> dict[str, int]:
    """Returns the index of each label by its name and, if `numbers` or for LABEL_0, LABEL_1, ..., by its number."""
    unnamed = list(labels) == [f"LABEL_{i}" for i in range(len(labels))]
    by_number = {str(i): i for i in range(len(labels))} if numbers or unnamed else {}
    return by_number | label_index(labels)


def numbers_note(labels: Sequence[str]) -> str:
    """Returns a line for the user about which label each number is."""
    shown = ", ".join(f"{i} for {name!r}" for i, name in enumerate(labels[:MOST_REPORTED]))
    return f"Rows may have numbers for their labels: {shown}{', ...' if len(labels) > MOST_REPORTED else ''}"


def none_of(kind: str, name: str, labels: Sequence[str]) -> str:
    """Returns the problem of a row whose label or tag (`kind`) is not one of `labels`, with the way on."""
    shown = ", ".join(labels[:MOST_REPORTED]) + (", ..." if len(labels) > MOST_REPORTED else "")
    numbers = name.isdecimal() and name in map(str, range(len(labels)))
    advice = "; if the rows have the numbers of these, from 0, in this order, set task.label_numbers" if numbers else ""
    return f"{kind} {name!r} is none of {shown}{advice}"


def affirmed(names: Sequence[str]) -> str | None:
    """Returns the name that the other of two names denies, if it does.

    >>> affirmed(["entailed", "not_entailed"]), affirmed(["non-toxic", "toxic"]), affirmed(["a", "b"])
    ('entailed', 'toxic', None)
    """
    pairs = list(zip(names, reversed(names), strict=True)) if len(names) == 2 else []
    denied = [name for name, other in pairs if re.fullmatch(rf"(not|non|no)[ _-]*{re.escape(name)}", other, re.I)]
    return denied[0] if denied else None


def missing_labels(names: Iterable[str]) -> set[str]:
    """Returns those of "-1" and "-" that mean "no label" among the labels of the rows.

    They do next to two or more other labels, if none of these has a sign: of -1 and 1, or + and -, both are classes.

    >>> missing_labels(["0", "1", "-1"]), missing_labels(["-1", "1"]), missing_labels(["+", "-", "?"])
    ({'-1'}, set(), set())
    """
    others = set(names) - UNLABELLED
    signed = any(re.fullmatch(r"[+-]\d*(\.\d+)?", name) for name in others)
    return set() if len(others) < 2 or signed else set(names) & UNLABELLED


def add_unlabelled(errors: RowErrors, rows: Sequence[Row], label: str, total: int, labels: Sequence[str]) -> None:
    """Adds an error that counts the `rows` of `total` whose `label` means "no label", and names the first of them."""
    if not rows:
        return
    names = ", ".join(row.where for row in rows[:MOST_REPORTED]) + (", ..." if len(rows) > MOST_REPORTED else "")
    errors.add(
        rows[0].where,
        f"label {label!r} is taken for a missing label, next to {', '.join(labels)}; "
        f"{len(rows)} of {total} rows have it ({names}); leave these rows out (--on-bad-row skip) or, if it is a "
        f"class, train with all names: --task.labels {' '.join([label, *labels])}",
        others=[row.where for row in rows],
    )


def balanced_weights(labels: Iterable[int], count: int) -> tuple[float, ...]:
    """Returns a weight for each of `count` classes: the mean frequency of all classes divided by that of the class.

    A class that never occurs gets the weight 1.

    Source: King & Zeng 2001, "Logistic regression in rare events data"; scikit-learn's "balanced".
    """
    frequency = Counter(labels)
    total = frequency.total()
    return tuple(total / (count * frequency[i]) if frequency[i] else 1.0 for i in range(count))
