"""Which of several continuations fits a context: multiple choice in SWAG's form."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from bert_jax.config import BertConfig, Compute, MultipleChoice
from bert_jax.data.batch import Arrays
from bert_jax.data.batches import Features, join
from bert_jax.data.rows import Row, RowErrors, check_fields, number_of, text_of
from bert_jax.heads import BertForMultipleChoice
from bert_jax.losses import Keys, Outcome, accuracy, cross_entropy
from bert_jax.model import MASKED_SCORE
from bert_jax.tasks.base import Evaluation
from bert_jax.tasks.labelled import EXAMPLES, LabelledTask, sequence, with_answers
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
            choices = self._choices(row, RowErrors())
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
        choices = [self._choices(row, errors) for row in rows]
        labels = [self._label(row, len(c), errors) if labelled else 0 for row, c in zip(rows, choices, strict=True)]
        errors.check()
        first = self.tokenizer.encode_ids(contexts)
        second = iter(self.tokenizer.encode_ids([text for texts in choices for text in texts]))
        encoded = [
            [sequence(self.tokenizer.frame, self.fields.max_length, a, next(second)) for _ in texts]
            for a, texts in zip(first, choices, strict=True)
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

    def _choices(self, row: Row, errors: RowErrors) -> list[str]:
        if len(self.fields.choices) > 1:
            return [text_of(row, field, errors) for field in self.fields.choices]
        value = row.values.get(self.fields.choices[0])
        if isinstance(value, list) and len(value) > 1 and all(isinstance(c, str) and c.strip() for c in value):
            return value
        errors.add(row.where, f"field {self.fields.choices[0]!r} should be a list of two or more texts")
        return []

    def _label(self, row: Row, count: int, errors: RowErrors) -> int:
        number = number_of(row, self.fields.label, errors)
        if number == int(number) and 0 <= number < max(count, 1):
            return int(number)
        errors.add(row.where, f"field {self.fields.label!r} should be the index of a choice, 0 to {count - 1}")
        return 0
