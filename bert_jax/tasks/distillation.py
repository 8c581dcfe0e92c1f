"""Distillation: a model learns the outputs of a fine-tuned teacher, on texts with labels and without.

The teacher's outputs are computed once, before the first step, and become an array of the batch. So the loss is an
ordinary one, and nothing of the teacher is in the state or in a checkpoint.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from typing import Any, cast

import jax
import numpy as np
from flax import linen as nn

from bert_jax import pretrained
from bert_jax.config import BertConfig, Compute, Distillation, SequenceClassification
from bert_jax.data.batch import Arrays
from bert_jax.data.batches import Features
from bert_jax.data.rows import Row
from bert_jax.data.summary import Summary
from bert_jax.errors import InputError
from bert_jax.losses import Keys, Mean, Outcome, binary_cross_entropy, soft_cross_entropy, squared_error
from bert_jax.pretrained import Weights
from bert_jax.tasks.labelled import Sources
from bert_jax.tasks.sequence_classification import SequenceClassificationTask
from bert_jax.tokenizers import Tokenizer

TEACHER_BATCH = 64  # rows that the teacher reads at once


class TeacherSources(Sources):
    """Rows with labels, rows without, and the teacher."""

    fields: Distillation

    @cached_property
    def unlabelled(self) -> list[Row]:
        """The rows without labels."""
        return self.read(self.fields.source(self.fields.unlabelled))[: self.fields.unlabelled_limit]

    @cached_property
    def teacher(self) -> tuple[Weights, SequenceClassification]:
        """The teacher, and its task's fields as they read this run's rows.

        Raises:
          InputError: it cannot be opened, or was trained for another task.
        """
        source = pretrained.open_source(self.fields.teacher)
        source.check_task()
        task, target = source.task, self.fields.target
        if not isinstance(task, SequenceClassification) or task.target != target:
            kind, way_on = type(task).__name__ if task else "no task", ""
            if isinstance(task, SequenceClassification):
                kind, way_on = f"target {task.target}", f", or set task.target to {task.target}"
            raise InputError(
                f"task.teacher: {self.fields.teacher} was trained for {kind}; name a run of SequenceClassification "
                f"with target {target}{way_on}"
            )
        return source, dataclasses.replace(task, text=self.fields.text, text_b=self.fields.text_b)


class DistillationTask(SequenceClassificationTask):
    """See `bert_jax.tasks.base.Answering`; the fields are `bert_jax.config.Distillation`.

    Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2; Turc et al. 2019,
    "Well-Read Students Learn Better", section 3.
    """

    fields: Distillation
    sources: TeacherSources
    sources_type = TeacherSources

    def __init__(self, fields: Distillation, config: BertConfig, tokenizer: Tokenizer, compute: Compute = Compute()):
        super().__init__(fields, config, tokenizer, compute)
        self._taught: dict[str, np.ndarray] = {}  # the teacher's logits [C], by Row.where
        if fields.target == "regression" and fields.temperature != 1:
            raise InputError("task.temperature: numbers are compared as they are; leave it at 1 with target regression")

    @staticmethod
    def complete(fields: Any, sources: Any) -> Any:
        if not fields.teacher:
            raise InputError("task.teacher: name a SOURCE that was fine-tuned on the same labels")
        if not fields.train and (fields.hard_weight or not fields.unlabelled):
            raise InputError("task.train: name rows with labels, or set hard_weight 0 and name `unlabelled` rows")
        _, taught = sources.teacher
        if fields.labels not in ((), taught.labels):
            raise InputError(
                f"task.labels: {', '.join(fields.labels)}, but the teacher has {', '.join(taught.labels)}; leave them "
                "out to take the teacher's"
            )
        # The teacher's names do not say in which order rows have numbers for them; the user's do.
        numbers = fields.label_numbers if fields.labels and fields.train else bool(fields.label_numbers)
        fields = dataclasses.replace(fields, labels=taught.labels, label_numbers=numbers)
        return SequenceClassificationTask.complete(fields, sources)

    def loss_fn(self, params: Any, batch: dict[str, jax.Array], keys: Keys) -> Outcome:
        """Without the teacher's logits in the batch, as in evaluation, the losses are those on the labels."""
        logits_BNC = self.logits(params, batch, keys)
        outcome = self.outcome(logits_BNC, batch)
        if "teacher_logits" not in batch:
            return outcome
        losses = outcome.losses | {"teacher_loss": self._matching(logits_BNC, batch)}
        shares = self._shares(outcome.losses)
        losses = {name: Mean(share * losses[name].sum, losses[name].count) for name, share in shares.items()}
        return outcome._replace(losses=losses)

    def _shares(self, hard: Iterable[str]) -> dict[str, float]:
        """Returns the share of each loss in the objective, unless it is 0; `hard` are the losses on labels."""
        shares = dict.fromkeys(hard, self.fields.hard_weight) | {"teacher_loss": 1 - self.fields.hard_weight}
        return {name: share for name, share in shares.items() if share}

    def loss_weights(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        hard = super().loss_weights(batch)
        if "teacher_logits" not in batch:
            return hard
        weights = batch["teacher_weights"]
        if self.fields.target == "multi_label":
            weights = jax.numpy.broadcast_to(weights[..., None], batch["teacher_logits"].shape)
        every = hard | {"teacher_loss": weights}
        return {name: every[name] for name in self._shares(hard)}

    def _matching(self, logits_BNC: jax.Array, batch: dict[str, jax.Array]) -> Mean:
        """Returns the distance to the teacher's outputs, times temperature² so that the gradient keeps its scale."""
        teacher_BNC, weights, t = batch["teacher_logits"], batch["teacher_weights"], self.fields.temperature
        if self.fields.target == "regression":
            return squared_error(logits_BNC[..., 0], teacher_BNC[..., 0], weights)
        if self.fields.target == "multi_label":
            every = jax.numpy.broadcast_to(weights[..., None], logits_BNC.shape)
            loss = binary_cross_entropy(logits_BNC / t, jax.nn.sigmoid(teacher_BNC / t), every)
        else:
            loss = soft_cross_entropy(logits_BNC / t, jax.nn.softmax(teacher_BNC / t), weights)
        return Mean(t**2 * loss.sum, loss.count)

    def training_examples(self, seed: int) -> tuple[Features, list[Row], Summary]:
        parts = [super().training_examples(seed)] if self.fields.train else []
        if self.fields.unlabelled:
            unlabelled = self.usable(self.sources.unlabelled, False, self.fields.on_bad_row == "skip")
            unread = self.sources.errors.get(self.fields.source(self.fields.unlabelled))
            parts.append((*unlabelled[:2], unlabelled[2].with_unread(unread)))
        features = joined([features for features, _, _ in parts])
        rows = [row for _, part, _ in parts for row in part]
        summary = Summary()
        for _, _, of_part in parts:
            summary.add(of_part)
        arrays = {
            "teacher_logits": self._teacher_logits(rows)[:, None],
            "teacher_weights": np.ones((len(rows), 1), np.float32),
        }
        return dataclasses.replace(features, arrays=features.arrays | arrays), rows, summary

    def _teacher_logits(self, rows: Sequence[Row]) -> np.ndarray:
        """Returns the teacher's logits for each row, float32 [rows, C]; each row is computed once for all seeds."""
        unread = [row for row in rows if row.where not in self._taught]
        if unread:
            source, fields = self.sources.teacher
            params, _ = source.read_params()
            teacher = SequenceClassificationTask(fields, source.config, source.tokenizer, source.compute)
            batches = teacher.predict_batches(unread, batch_size=TEACHER_BATCH)
            for step in range(batches.num_steps):
                logits_BC = np.asarray(_logits(teacher.model, params, batches(step)))
                pairs = zip(batches.rows(step), logits_BC, strict=True)
                self._taught |= {unread[i].where: logits_C for i, logits_C in pairs if i >= 0}
        return np.stack([self._taught[row.where] for row in rows])


@partial(jax.jit, static_argnums=0)
def _logits(model: nn.Module, params: Any, batch: Arrays) -> jax.Array:
    return cast(jax.Array, model.apply({"params": params}, batch))[:, 0]


def joined(parts: Sequence[Features]) -> Features:
    """Returns the examples of several features, one after another; they have the same arrays and no token arrays."""
    ends = np.cumsum([0] + [len(part.input_ids) for part in parts])
    return Features(
        input_ids=np.concatenate([part.input_ids for part in parts]),
        token_type_ids=np.concatenate([part.token_type_ids for part in parts]),
        starts=np.concatenate([[0]] + [part.starts[1:] + end for part, end in zip(parts, ends, strict=False)]),
        arrays={name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays},
        first_position=parts[0].first_position,
        lost=np.concatenate([np.zeros(len(part)) if part.lost is None else part.lost for part in parts]).astype(int),
    )
