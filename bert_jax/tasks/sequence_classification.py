"""Predictions for a text or a pair of texts: one class, any number of labels, or a number; entities may be marked."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any, cast

import jax
import numpy as np
from jax import numpy as jnp

from bert_jax import metrics
from bert_jax.config import BertConfig, Compute, SequenceClassification
from bert_jax.data.batch import Arrays
from bert_jax.data.batches import Features, join
from bert_jax.data.row_errors import RowErrors
from bert_jax.data.rows import Row, check_fields, flag_of, label_of, labels_of, list_in_text, number_of, text_of
from bert_jax.errors import InputError
from bert_jax.heads import BertForSequenceClassification
from bert_jax.losses import Keys, Mean, Outcome, accuracy, binary_cross_entropy, cross_entropy, squared_error
from bert_jax.tasks.base import Evaluation
from bert_jax.tasks.labelled import (
    EXAMPLES,
    UNLABELLED,
    LabelledTask,
    Sources,
    add_unlabelled,
    affirmed,
    are_numbers,
    balanced_weights,
    check_unless_skipped,
    index_of,
    label_names,
    missing_labels,
    none_of,
    numbers_note,
    sequence,
    with_answers,
)
from bert_jax.tokenizers import Tokenizer

SECOND_TEXT = ("text_b", "text_pair", "text2", "sentence2", "sentence_b", "question2", "hypothesis")  # usual names
MOST_LABELS_IN_A_MATRIX = 50  # larger confusion matrices are unreadable
LABEL_LOSSES = {"single_label": "class_loss", "multi_label": "label_loss", "regression": "squared_error"}  # by target


class SequenceClassificationTask(LabelledTask):
    """See `bert_jax.tasks.base.Answering`; the fields are `bert_jax.config.SequenceClassification`."""

    fields: SequenceClassification

    def __init__(
        self, fields: SequenceClassification, config: BertConfig, tokenizer: Tokenizer, compute: Compute = Compute()
    ):
        super().__init__(fields, config, tokenizer, compute)
        self._markers = marker_ids(fields.markers, tokenizer)
        self._index = index_of(fields.labels, fields.label_numbers)
        if fields.class_weights and len(fields.class_weights) != len(fields.labels):
            raise InputError(
                f"task.class_weights: {len(fields.class_weights)} weights for {len(fields.labels)} labels: "
                f"{', '.join(fields.labels)}; give one for each"
            )
        if fields.target != "multi_label" and (fields.label_columns or fields.label_separator is not None):
            raise InputError(f"task.label_columns, task.label_separator: need target multi_label, got {fields.target}")
        if fields.none_label is not None and fields.none_label not in fields.labels:
            raise InputError(f"task.none_label: {fields.none_label!r} is none of {', '.join(fields.labels)}")
        self._positive = positive_index(fields)
        if fields.label_shares and len(fields.label_shares) != len(fields.labels):
            raise InputError(f"task.label_shares: {len(fields.label_shares)} shares for {len(fields.labels)} labels")
        bias = prior_bias(fields.label_shares, fields.class_weights) if fields.label_shares else ()
        self.model = BertForSequenceClassification(
            config, 1 if fields.target == "regression" else len(fields.labels), bias, compute=compute
        )

    @staticmethod
    def complete(fields: SequenceClassification, sources: Sources) -> SequenceClassification:
        if fields.target == "regression":
            return fields
        unweighted = fields.balanced and not fields.class_weights
        uncounted = fields.target == "multi_label" and not fields.label_shares
        if fields.labels and not unweighted and not uncounted and fields.label_numbers is not None:
            return fields
        rows = sources.train
        check_fields(rows, fields.label_fields)
        errors = RowErrors()
        names_of_rows = [_labels(row, fields, errors) for row in rows]
        if not fields.labels or unweighted or uncounted:  # otherwise `features` has these errors, with all others
            check_unless_skipped(errors, fields)
        if not fields.labels:
            fields = _with_found_labels(fields, rows, names_of_rows, sources)
        elif fields.label_numbers is None and are_numbers((n for names in names_of_rows for n in names), fields.labels):
            fields = dataclasses.replace(fields, label_numbers=True)
        weights, shares = fields.class_weights, fields.label_shares
        index = index_of(fields.labels, fields.label_numbers)
        known = [index[name] for names in names_of_rows for name in names if name in index]
        counts = np.bincount(known, minlength=len(fields.labels))
        if unweighted and fields.target == "multi_label":
            weights = tuple(float(w) for w in (len(rows) - counts) / np.maximum(counts, 1))
        elif unweighted:
            weights = balanced_weights(known, len(fields.labels))
        if uncounted:
            shares = tuple(float(share) for share in counts / len(rows))
        return dataclasses.replace(fields, class_weights=weights, label_shares=shares)

    def notes(self) -> list[str]:
        notes = [numbers_note(self.fields.labels)] if self.fields.label_numbers else []
        if self._positive is not None and self.fields.none_label is None:
            first, second = self.fields.labels
            name = self.fields.labels[self._positive]
            notes.append(f"F1 is about the label {name!r}, of {first!r} and {second!r}; --task.positive names another")
        return notes

    def loss_fn(self, params: Any, batch: dict[str, jax.Array], keys: Keys) -> Outcome:
        return self.outcome(self.logits(params, batch, keys), batch)

    def outcome(self, logits_BNC: jax.Array, batch: dict[str, jax.Array]) -> Outcome:
        """Losses on the rows' labels, metrics and predictions, from the model's output."""
        labels, weights = batch["labels"], batch["label_weights"]
        loss_weights, name = self.label_weights(batch), LABEL_LOSSES[self.fields.target]
        if self.fields.target == "regression":
            loss = squared_error(logits_BNC[..., 0], labels, loss_weights)
            return Outcome({name: loss}, {}, {"scores": logits_BNC[:, 0, 0]})
        if self.fields.target == "multi_label":
            every = loss_weights
            class_weights = jnp.asarray(self.fields.class_weights or (1.0,), jnp.float32)
            loss = binary_cross_entropy(logits_BNC, labels, every, class_weights[None, None])
            chosen = jax.nn.sigmoid(logits_BNC) >= self.fields.threshold
            right = jnp.sum(2.0 * (chosen & (labels > 0)).astype(jnp.float32) * every)
            f1 = Mean(right, jnp.sum((chosen.astype(jnp.float32) + labels) * every))
            return Outcome(
                {name: loss},
                {"f1_micro": f1},
                {"probabilities": jax.nn.sigmoid(logits_BNC[:, 0])},
            )
        return Outcome(
            losses={name: cross_entropy(logits_BNC, labels, loss_weights)},
            metrics={"accuracy": accuracy(logits_BNC, labels, weights)},
            predictions={"probabilities": jax.nn.softmax(logits_BNC[:, 0])},
        )

    def label_weights(self, batch: dict[str, jax.Array]) -> jax.Array:
        """Returns the weight of each prediction in the loss on the rows' own labels."""
        labels, weights = batch["labels"], batch["label_weights"]
        if self.fields.target == "multi_label":
            return jnp.broadcast_to(weights[..., None], labels.shape)
        if self.fields.target == "single_label" and self.fields.class_weights:
            return weights * jnp.asarray(self.fields.class_weights, jnp.float32)[labels]
        return weights

    def loss_weights(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {LABEL_LOSSES[self.fields.target]: self.label_weights(batch)}

    def score(self, predictions: Arrays, features: Features, rows: Sequence[Row]) -> Evaluation:
        first = {name: values[:EXAMPLES] for name, values in predictions.items()}
        examples = with_answers(rows, self.decode(first, features, rows[:EXAMPLES]))
        labels, names = features.arrays["labels"][:, 0], self.fields.labels
        if self.fields.target == "regression":
            return Evaluation(metrics.regression(predictions["scores"], labels), {}, {}, examples)
        tables: dict[str, Any]
        if self.fields.target == "multi_label":
            chosen = predictions["probabilities"] >= self.fields.threshold
            counts = (chosen & (labels > 0)).sum(axis=0), chosen.sum(axis=0), (labels > 0).sum(axis=0)
            tables = {"per_label": metrics.label_table(*counts, names)}
            figures = metrics.several_labels(predictions["probabilities"], labels, self.fields.threshold)
            return Evaluation(figures, tables, {}, examples)
        predicted = predictions["probabilities"].argmax(axis=1)
        figures = metrics.classification(predicted, labels, len(names), 1 if self._positive is None else self._positive)
        if self.fields.none_label is not None:
            figures |= metrics.without_class(predicted, labels, self._index[self.fields.none_label])
        matrix = metrics.confusion_matrix(predicted, labels, len(names))
        tables = {"per_label": metrics.label_table(matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1), names)}
        if len(names) <= MOST_LABELS_IN_A_MATRIX:
            tables["confusion"] = {"labels": list(names), "counts": matrix.tolist()}
        return Evaluation(figures, tables, {}, examples)

    def decode(self, predictions: Arrays, features: Features, rows: Sequence[Row]) -> list[dict[str, Any]]:
        if self.fields.target == "regression":
            return [{"score": float(score)} for score in predictions["scores"]]
        answers = []
        for probabilities in predictions["probabilities"].tolist():
            named = dict(zip(self.fields.labels, probabilities, strict=True))
            if self.fields.target == "multi_label":
                ranked = sorted(named.items(), key=lambda item: -item[1])
                chosen = [name for name, probability in ranked if probability >= self.fields.threshold]
                answers.append({"labels": chosen, "probabilities": dict(ranked)})
            else:
                best = max(named, key=lambda name: named[name])
                answers.append({"label": best, "probability": named[best], "probabilities": named})
        return answers

    def features(self, rows: Sequence[Row], labelled: bool) -> Features:
        fields, errors = self.fields, RowErrors()
        texts = [fields.text] + ([fields.text_b] if fields.text_b is not None else [])
        check_fields(rows, texts + (list(fields.label_fields) if labelled else []))
        parts = [[text_of(row, field, errors) for row in rows] for field in texts]
        arrays = self._label_arrays(rows, errors) if labelled else self._no_labels(len(rows))
        errors.check()
        a, *b = [encode_marked(self.tokenizer, part, self._markers) for part in parts]
        pairs = zip(a, b[0] if b else [None] * len(a), strict=True)
        encoded = [sequence(self.tokenizer.frame, fields.max_length, *pair, self._cut) for pair in pairs]
        ids, types = [ids for ids, _ in encoded], [types for _, types in encoded]
        special = self.tokenizer.frame.size(len(texts))
        lost = [sum(map(len, whole)) + special - len(used) for used, *whole in zip(ids, a, *b, strict=True)]
        first = self.tokenizer.frame.first_position
        return join(ids, types, arrays, first_position=first, lost=np.array(lost, np.int64))

    def row_notes(self, source: str, rows: Sequence[Row]) -> list[str]:
        unread = next((field for row in rows if (field := second_text(row, self.fields))), None)
        return [f"{source}: field {unread!r} is not read; for pairs, set task.text_b"] if unread else []

    def rows_of_labels(self, features: Features) -> dict[str, int]:
        if self.fields.target == "regression":
            return {}
        labels = features.arrays["labels"][features.arrays["label_weights"][:, 0] > 0, 0]
        several = self.fields.target == "multi_label"
        counts = labels.sum(axis=0) if several else np.bincount(labels, minlength=len(self.fields.labels))
        return {name: int(count) for name, count in zip(self.fields.labels, counts, strict=True)}

    def _cut(self, ids: np.ndarray, room: int) -> np.ndarray:
        """Returns the first `room` tokens or, if markers come later, `room` tokens with the markers in the middle."""
        if len(ids) <= room or not self._markers:
            return ids[:room]
        positions = np.flatnonzero(np.isin(ids, list(self._markers.values())))
        if not len(positions) or positions[-1] < room:
            return ids[:room]
        begin = (positions[0] + positions[-1] + 1 - room) // 2
        begin = int(np.clip(begin, max(positions[-1] + 1 - room, 0), len(ids) - room))
        return ids[begin : begin + room]

    def _no_labels(self, count: int) -> Arrays:
        several = self.fields.target == "multi_label"
        shape = (count, 1, len(self.fields.labels)) if several else (count, 1)
        dtype = np.int32 if self.fields.target == "single_label" else np.float32
        return {"labels": np.zeros(shape, dtype), "label_weights": np.zeros((count, 1), np.float32)}

    def _label_arrays(self, rows: Sequence[Row], errors: RowErrors) -> Arrays:
        arrays = self._no_labels(len(rows))
        arrays["label_weights"][:] = 1
        unlabelled: dict[str, list[Row]] = {}
        for i, row in enumerate(rows):
            if self.fields.target == "regression":
                arrays["labels"][i] = number_of(row, self.fields.label, errors)
                continue
            for name in _labels(row, self.fields, errors):
                if name not in self._index and name in UNLABELLED and self.fields.target == "single_label":
                    unlabelled.setdefault(name, []).append(row)
                elif name not in self._index:
                    errors.add(row.where, none_of("label", name, self.fields.labels))
                elif self.fields.target == "multi_label":
                    arrays["labels"][i, 0, self._index[name]] = 1
                else:
                    arrays["labels"][i] = self._index[name]
        for name, without in unlabelled.items():
            add_unlabelled(errors, without, name, len(rows), self.fields.labels)
        return arrays


def second_text(row: Row, fields: SequenceClassification) -> str | None:
    """Returns the field of a row that looks like the second text of a pair, if the task does not read it."""
    if fields.text_b is not None:
        return None
    read = (fields.text, fields.label)
    return next((name for name in SECOND_TEXT if name not in read and isinstance(row.values.get(name), str)), None)


def prior_bias(shares: Sequence[float], weights: Sequence[float]) -> tuple[float, ...]:
    """Returns logits that predict every label with its share of the rows; multi-label training starts from them.

    From zeros, the head's bias takes thousands of steps to get there, and meanwhile its gradient disturbs the encoder.

    Args:
      weights: of each label's presence in the loss; empty = 1.

    Source: Lin et al. 2017, "Focal Loss for Dense Object Detection", section 3.3.
    """
    odds = [min(max(share, 1e-4), 1 - 1e-4) for share in shares]
    return tuple(math.log(w * p / (1 - p)) for p, w in zip(odds, weights or [1.0] * len(odds), strict=True))


def positive_index(fields: SequenceClassification) -> int | None:
    """Returns the index of the label that F1 is about, or None if there are not two classes.

    Raises:
      InputError: `positive` is not one of two labels.
    """
    two = fields.target == "single_label" and len(fields.labels) == 2
    if fields.positive is None:
        return 1 if two else None
    if two and fields.positive in fields.labels:
        return fields.labels.index(fields.positive)
    expected = f"one of {', '.join(fields.labels)}" if two else "left out, because F1 of one label needs two in all"
    raise InputError(f"task.positive: must be {expected}, got {fields.positive!r}")


def _with_found_labels(
    fields: SequenceClassification, rows: Sequence[Row], names_of_rows: Sequence[Sequence[str]], sources: Sources
) -> SequenceClassification:
    """Returns the fields with the labels that the data set declares, in its order, or otherwise those of its rows.

    Raises:
      InputError: there are too few, or some rows have "-1" or "-" for a missing label.
    """
    if fields.label_columns:
        return dataclasses.replace(fields, labels=fields.label_columns)
    if declared := sources.declared_labels(fields.label):
        return dataclasses.replace(fields, labels=declared)
    errors, every = RowErrors(), {name for names in names_of_rows for name in names}
    if fields.target == "multi_label":
        return dataclasses.replace(fields, labels=label_names(every, fields.train, at_least=1))
    for missing in missing_labels(every):
        without = [row for row, names in zip(rows, names_of_rows, strict=True) if names == [missing]]
        add_unlabelled(errors, without, missing, len(rows), label_names(every - UNLABELLED, fields.train))
    check_unless_skipped(errors, fields)
    labels = label_names(every - missing_labels(every), fields.train)
    return dataclasses.replace(fields, labels=labels, positive=fields.positive or affirmed(labels))


def _labels(row: Row, fields: SequenceClassification, errors: RowErrors) -> list[str]:
    """Returns the labels of a row; adds what is wrong with them to `errors`."""
    if fields.label_columns:
        return [column for column in fields.label_columns if flag_of(row, column, errors)]
    value = row.values.get(fields.label)
    if fields.target == "multi_label" and isinstance(value, str):
        if fields.label_separator:
            listed: list[Any] | None = [part for part in value.split(fields.label_separator) if part.strip()]
        else:
            listed = list_in_text(value)
        if listed is None:
            errors.add(
                row.where,
                f"field {fields.label!r} should be a list of labels, not {value[:60]!r}; for a table, name its columns "
                "of 0 and 1 (task.label_columns) or what is between labels in one column (task.label_separator)",
            )
            return []
        row = Row(row.values | {fields.label: listed}, row.where)
    if fields.target == "multi_label":
        return labels_of(row, fields.label, errors, fields.labels)
    name = label_of(row, fields.label, errors, fields.labels)
    return [name] if name else []


def marker_ids(markers: Sequence[str], tokenizer: Tokenizer) -> dict[str, int]:
    """Returns the token id of each marker: its own token if the vocabulary has one, otherwise a free [unused...] entry.

    Raises:
      InputError: the vocabulary has too few [unused...] entries; see `markers_to_add`.
    """
    ids = _marker_ids(markers, tokenizer)
    for marker, token in ids.items():
        if token is None:
            raise InputError(
                f"task.markers: the vocabulary has no token {marker!r} and no [unused...] entry left for it"
            )
    return cast(dict[str, int], ids)


def markers_to_add(markers: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """Returns the markers for which the vocabulary has neither a token nor a free [unused...] entry.

    Raises:
      InputError: a marker is empty or holds a space.
    """
    return [marker for marker, token in _marker_ids(markers, tokenizer).items() if token is None]


def _marker_ids(markers: Sequence[str], tokenizer: Tokenizer) -> dict[str, int | None]:
    spare = (i for number in range(1000) if (i := tokenizer.piece_id(f"[unused{number}]")) is not None)
    ids: dict[str, int | None] = {}
    for marker in markers:
        if marker.split() != [marker]:
            raise InputError(f"task.markers: {marker!r} must be one word without spaces, such as <<")
        own = tokenizer.piece_id(marker)
        ids[marker] = own if own is not None else next(spare, None)
    return ids


def encode_marked(tokenizer: Tokenizer, texts: Sequence[str], markers: dict[str, int]) -> list[np.ndarray]:
    """Returns the token ids of each text, int32, in which every marker is the one token of `markers`."""
    if not markers:
        return tokenizer.encode_ids(texts)
    longest_first = sorted(markers, key=len, reverse=True)
    pattern = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
    split = [pattern.split(text) for text in texts]  # text, marker, text, marker, ..., text
    plain = iter(tokenizer.encode_ids([part for parts in split for part in parts[::2]]))
    return [
        np.concatenate(
            [np.array([markers[part]]) if i % 2 else next(plain) for i, part in enumerate(parts)], dtype=np.int32
        )
        for parts in split
    ]
