"""Which of several continuations fits a context: multiple choice in SWAG's form."""

import dataclasses
import itertools
import re
import string
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax import numpy as jnp

from bert_jax.config import BertConfig, Compute, MultipleChoice
from bert_jax.data.batch import Arrays
from bert_jax.data.batches import Features, join
from bert_jax.data.row_errors import RowErrors
from bert_jax.data.rows import Row, check_fields, label_of, list_in_text, text_of
from bert_jax.heads import BertForMultipleChoice
from bert_jax.losses import Keys, Outcome, accuracy, cross_entropy
from bert_jax.model import MASKED_SCORE
from bert_jax.tasks.base import Evaluation
from bert_jax.tasks.labelled import EXAMPLES, LabelledTask, Sources, sequence, with_answers
from bert_jax.tokenizers import Tokenizer


class MultipleChoiceTask(LabelledTask):
    """See `bert_jax.tasks.base.Answering`; the fields are `bert_jax.config.MultipleChoice`.

    The choices of an example are the sequences of one row: they do not attend to each other, and each has positions of
    its own. With `packing`, a row holds the choices of several examples.
    """

    fields: MultipleChoice

    def __init__(self, fields: MultipleChoice, config: BertConfig, tokenizer: Tokenizer, compute: Compute = Compute()):
        super().__init__(fields, config, tokenizer, compute)
        self.model = BertForMultipleChoice(config, compute=compute)

    @staticmethod
    def complete(fields: MultipleChoice, sources: Sources) -> MultipleChoice:
        if fields.first_choice is not None:
            return fields
        return dataclasses.replace(fields, first_choice=first_choice(fields, sources.train)[0])

    def notes(self) -> list[str]:
        first, sure = first_choice(self.fields, self.sources.train)
        first = first if self.fields.first_choice is None else self.fields.first_choice
        note = f"Right choices are counted from {first}"
        if not sure:
            note += "; the labels do not show from which number: --task.first-choice 0 or 1 sets it"
        return [note] if first or not sure else []

    def loss_fn(self, params: Any, batch: dict[str, jax.Array], keys: Keys) -> Outcome:
        present_BNC = batch["choices"] > 0
        logits_BNC = self.logits(params, batch, keys).reshape(present_BNC.shape)
        logits_BNC = jnp.where(present_BNC, logits_BNC, MASKED_SCORE)
        target = batch["labels"], self.loss_weights(batch)["choice_loss"]
        return Outcome(
            losses={"choice_loss": cross_entropy(logits_BNC, *target)},
            metrics={"accuracy": accuracy(logits_BNC, *target)},
            predictions={"probabilities": jax.nn.softmax(logits_BNC[:, 0])},
        )

    def loss_weights(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {"choice_loss": batch["label_weights"]}

    def score(self, predictions: Arrays, features: Features, rows: Sequence[Row]) -> Evaluation:
        first = {name: values[:EXAMPLES] for name, values in predictions.items()}
        return Evaluation({}, {}, {}, with_answers(rows, self.decode(first, features, rows[:EXAMPLES])))

    def decode(self, predictions: Arrays, features: Features, rows: Sequence[Row]) -> list[dict[str, Any]]:
        answers = []
        for row, probabilities in zip(rows, predictions["probabilities"], strict=True):
            choices = choices_of(row, self.fields, RowErrors())
            best = int(probabilities.argmax())
            answers.append(
                {
                    "choice": best,
                    "text": choices[best],
                    "probability": float(probabilities[best]),
                    "probabilities": probabilities[: len(choices)].tolist(),
                }
            )
        return answers

    def features(self, rows: Sequence[Row], labelled: bool) -> Features:
        errors = RowErrors()
        check_fields(rows, [self.fields.context, *self.fields.choices, *([self.fields.label] if labelled else [])])
        contexts = [text_of(row, self.fields.context, errors) for row in rows]
        choices = [choices_of(row, self.fields, errors) for row in rows]
        labels = self._labels(rows, choices, errors) if labelled else [0] * len(rows)
        errors.check()
        first = self.tokenizer.encode_ids(contexts)
        flat_choices = iter(self.tokenizer.encode_ids([text for texts in choices for text in texts]))
        second = [list(itertools.islice(flat_choices, len(texts))) for texts in choices]
        encoded = [
            [sequence(self.tokenizer.frame, self.fields.max_length, a, b) for b in of_row]
            for a, of_row in zip(first, second, strict=True)
        ]
        special = self.tokenizer.frame.size(2)
        lost = [
            sum(len(a) + len(b) + special for b in of_row) - sum(len(ids) for ids, _ in parts)
            for a, of_row, parts in zip(first, second, encoded, strict=True)
        ]
        most = max((len(texts) for texts in choices), default=1)
        arrays = {
            "cls_positions": np.zeros((len(rows), most), np.int32),
            "choices": np.zeros((len(rows), 1, most), np.int32),
            "labels": np.array(labels, np.int32)[:, None],
            "label_weights": np.full((len(rows), 1), float(labelled), np.float32),
        }
        for i, parts in enumerate(encoded):
            lengths = [len(ids) for ids, _ in parts]
            arrays["cls_positions"][i, : len(parts)] = np.cumsum([0, *lengths[:-1]])
            arrays["choices"][i, 0, : len(parts)] = 1
        flat = [part for parts in encoded for part in parts]
        numbers = [number for parts in encoded for number in range(1, len(parts) + 1)]
        return join(
            [np.concatenate([ids for ids, _ in parts]) for parts in encoded],
            [np.concatenate([types for _, types in parts]) for parts in encoded],
            arrays,
            lost=np.array(lost, np.int64),
            token_arrays={
                "sequence_ids": np.concatenate(
                    [np.full(len(ids), n) for n, (ids, _) in zip(numbers, flat, strict=True)]
                ),
                "position_ids": np.concatenate([np.arange(len(ids)) for ids, _ in flat])
                + self.tokenizer.frame.first_position,
            },
        )

    def row_length(self, features: Features) -> int:
        return self.fields.max_length * features.arrays["choices"].shape[2]

    def _labels(self, rows: Sequence[Row], choices: Sequence[Sequence[str]], errors: RowErrors) -> list[int]:
        """Returns the index of each row's right choice, from 0."""
        first, sure = self.fields.first_choice, True
        if first is None:
            first, sure = first_choice(self.fields, rows)
        if self.fields.first_choice is None and (first or not sure):
            warnings.warn(
                f"right choices are counted from {first}, by the labels of these rows; set task.first_choice to 0 or 1",
                stacklevel=2,
            )
        return [self._label(row, texts, first, errors) for row, texts in zip(rows, choices, strict=True)]

    def _label(self, row: Row, texts: Sequence[str], first: int, errors: RowErrors) -> int:
        label = label_of(row, self.fields.label, errors)
        index = named_choice(row, label, texts, self.fields)
        if index is None and re.fullmatch(r"\d{1,9}", label):
            index = int(label) - first
        if index is not None and 0 <= index < len(texts):
            return index
        if label and texts:
            last = len(texts) - 1
            errors.add(
                row.where,
                f"field {self.fields.label!r} should be the right choice, {first} to {first + last}, a letter, A to "
                f"{string.ascii_uppercase[min(last, 25)]}, or its text, not {label[:60]!r}",
            )
        return 0


def choices_of(row: Row, fields: MultipleChoice, errors: RowErrors) -> list[str]:
    """Returns the choices of a row; adds what is wrong with them to `errors`."""
    if len(fields.choices) > 1:
        return [text_of(row, field, errors) for field in fields.choices]
    value = row.values.get(fields.choices[0])
    if isinstance(value, dict):  # ARC's form: {"text": [...], "label": [...]}
        value = value.get("text")
    elif isinstance(value, str):
        value = list_in_text(value)
    if isinstance(value, list) and len(value) > 1 and all(isinstance(c, str) and c.strip() for c in value):
        return value
    errors.add(row.where, f"field {fields.choices[0]!r} should be a list of two or more texts")
    return []


def named_choice(row: Row, label: str, texts: Sequence[str], fields: MultipleChoice) -> int | None:
    """Returns the index of the choice that a label names, by the choices' own labels, a letter or a text.

    Returns None for numbers without names, and for a name that no choice or more than one has.
    """
    value = row.values.get(fields.choices[0]) if len(fields.choices) == 1 else None
    own = value.get("label") if isinstance(value, dict) else None
    if isinstance(own, list):
        names = [str(name).strip() for name in own]
        return names.index(label) if names.count(label) == 1 and len(names) == len(texts) else None
    if re.fullmatch("[A-Za-z]", label) and label not in texts:
        return string.ascii_uppercase.index(label.upper())
    if label in fields.choices[1:] or (label == fields.choices[0] and len(fields.choices) > 1):
        return fields.choices.index(label)
    stripped = [text.strip() for text in texts]
    return stripped.index(label) if not re.fullmatch(r"\d+", label) and stripped.count(label) == 1 else None


def first_choice(fields: MultipleChoice, rows: Iterable[Row]) -> tuple[Literal[0, 1], bool]:
    """Returns the number of the first choice, by the labels of rows, and whether they leave no doubt.

    It is 0 if a label is 0, and otherwise 1 if a label is the number of the row's choices.
    """
    numbers: set[int] = set()
    last = False
    for row in rows:
        label, texts = label_of(row, fields.label, RowErrors()), choices_of(row, fields, RowErrors())
        if re.fullmatch(r"\d{1,9}", label) and named_choice(row, label, texts, fields) is None:
            numbers.add(int(label))
            last |= int(label) == len(texts)
    if 0 in numbers or not numbers:
        return 0, True
    return (1, True) if last else (0, False)
