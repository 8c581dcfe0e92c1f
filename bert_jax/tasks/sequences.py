"""One class for a text or a pair of texts."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from bert_jax.config import BertConfig, Sequences
from bert_jax.data.pipeline import Arrays, Features, RowBatches
from bert_jax.data.tables import Row, read_rows
from bert_jax.errors import InputError
from bert_jax.heads import BertForSequences
from bert_jax.losses import Outcome, accuracy, cross_entropy
from bert_jax.tokenizers import Tokenizer


class SequenceTask:
    """See `bert_jax.tasks.Task`; the fields are `bert_jax.config.Sequences`."""

    def __init__(self, fields: Sequences, config: BertConfig, tokenizer: Tokenizer):
        self.fields = fields
        self.config = config
        self.tokenizer = tokenizer
        self.model = BertForSequences(config, len(fields.labels))
        if fields.max_length > config.max_position_embeddings:
            raise InputError(
                f"task.max_length: {fields.max_length} is longer than the model's {config.max_position_embeddings} "
                "positions; choose at most that"
            )

    @staticmethod
    def resolve(fields: Sequences) -> Sequences:
        if not fields.train:
            raise InputError("task.train: name a file of rows or tfds:name:split to learn from")
        if fields.labels:
            return fields
        names = sorted({str(_value(row, fields.label)) for row in read_rows(fields.train)})
        if len(names) < 2:
            raise InputError(f"{fields.train}: field {fields.label!r} needs at least two labels, found {names}")
        return dataclasses.replace(fields, labels=tuple(names))

    def train_batches(self, *, batch_size: int, steps: int, seed: int) -> RowBatches:
        rows = read_rows(self.fields.train)
        if self.fields.limit is not None:
            chosen = np.random.default_rng([seed, len(rows)]).permutation(len(rows))[: self.fields.limit]
            rows = [rows[i] for i in chosen]
        features = self._features(rows)
        return RowBatches(features, rows, batch_size=batch_size, max_length=self.fields.max_length, seed=seed)

    def eval_batches(self, *, batch_size: int, data: str | None = None) -> RowBatches | None:
        source = data or self.fields.eval
        if not source:
            return None
        rows = read_rows(source)
        return RowBatches(self._features(rows), rows, batch_size=batch_size, max_length=self.fields.max_length)

    def loss_fn(self, params: Any, batch: dict[str, jax.Array], key: jax.Array | None) -> Outcome:
        rngs = None if key is None else {"dropout": key}
        logits_BNC = self.model.apply({"params": params}, batch, key is None, rngs=rngs)
        target = batch["labels"], batch["label_weights"]
        return Outcome(
            losses={"class_loss": cross_entropy(logits_BNC, *target)},
            metrics={"accuracy": accuracy(logits_BNC, *target)},
            predictions={"probabilities": jax.nn.softmax(logits_BNC[:, 0].astype(jnp.float32))},
        )

    def score(self, predictions: Arrays, batches: RowBatches) -> dict[str, float]:
        return {}

    def encode_rows(self, rows: Sequence[Row]) -> Features:
        return self._tokens(rows, {})

    def decode(self, predictions: Arrays, rows: Sequence[Row]) -> list[dict[str, Any]]:
        answers = []
        for probabilities in predictions["probabilities"]:
            best = int(probabilities.argmax())
            named = {name: float(p) for name, p in zip(self.fields.labels, probabilities, strict=True)}
            answers.append(
                {"label": self.fields.labels[best], "probability": float(probabilities[best]), "probabilities": named}
            )
        return answers

    def _features(self, rows: Sequence[Row]) -> Features:
        index = {name: i for i, name in enumerate(self.fields.labels)}
        labels = np.zeros((len(rows), 1), np.int32)
        for i, row in enumerate(rows):
            name = str(_value(row, self.fields.label))
            if name not in index:
                raise InputError(f"{row.where}: label {name!r} is none of {', '.join(index)}")
            labels[i] = index[name]
        return self._tokens(rows, {"labels": labels, "label_weights": np.ones_like(labels, np.float32)})

    def _tokens(self, rows: Sequence[Row], arrays: Arrays) -> Features:
        """[CLS] text [SEP], or [CLS] text [SEP] text_b [SEP] with the longer of the two cut first."""
        fields, tokenizer = self.fields, self.tokenizer
        first = tokenizer.encode_ids([str(_value(row, fields.text)) for row in rows])
        second = None
        if fields.text_b is not None:
            second = tokenizer.encode_ids([str(_value(row, fields.text_b)) for row in rows])
        sequences, types = [], []
        for i in range(len(rows)):
            a, b = first[i], None if second is None else second[i]
            room = fields.max_length - (2 if b is None else 3)
            keep_a = min(len(a), room if b is None else max(room - len(b), (room + 1) // 2))
            parts = [[tokenizer.cls_id], a[:keep_a], [tokenizer.sep_id]]
            length_a = keep_a + 2
            if b is not None:
                parts += [b[: room - keep_a], [tokenizer.sep_id]]
            ids = np.concatenate(parts).astype(np.int32)
            sequences.append(ids)
            types.append((np.arange(len(ids)) >= length_a).astype(np.int32))
        lengths = [len(ids) for ids in sequences]
        return Features(
            input_ids=np.concatenate([*sequences, np.zeros(0, np.int32)]),
            token_type_ids=np.concatenate([*types, np.zeros(0, np.int32)]),
            starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            arrays=arrays,
        )


def _value(row: Row, field: str) -> Any:
    if field not in row.values:
        raise InputError(f"{row.where}: no field {field!r}; there are {', '.join(map(str, row.values))}")
    return row.values[field]
