"""MLM distillation: a smaller encoder learns to fill masks as a larger one does, before either has a task.

The teacher reads each batch as it is made, and its outputs are arrays of the batch. So the loss is an ordinary one, and
nothing of the teacher is in the state or in a checkpoint.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Self, cast

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax import params as named
from bert_jax import pretrained
from bert_jax.config import BertConfig, Compute, MlmDistillation
from bert_jax.data.batch import ENCODER, Arrays
from bert_jax.data.examples import PretrainingBatches
from bert_jax.errors import InputError
from bert_jax.heads import BertForPreTraining
from bert_jax.losses import Keys, Outcome, accuracy, cross_entropy, soft_cross_entropy, weighted
from bert_jax.tasks.base import Batches
from bert_jax.tasks.pretraining import PretrainingTask, scaled
from bert_jax.tokenizers import Tokenizer


class BertWithStates(BertForPreTraining):
    """The model of pre-training, which also returns its last hidden states: {"mlm", "states": [B, T, D]}, float32."""

    def __call__(self, batch: Mapping[str, jax.Array], deterministic: bool = True) -> dict[str, jax.Array]:
        x_BTD = self.bert(batch, deterministic)
        x_BPD = jnp.take_along_axis(x_BTD, batch["masked_positions"][:, :, None], axis=1)
        return {"mlm": self.mlm(x_BPD, self.bert.word_table()), "states": x_BTD.astype(jnp.float32)}


class MlmDistillationTask(PretrainingTask):
    """See `bert_jax.tasks.base.Task`; the fields are `bert_jax.config.MlmDistillation`.

    Source: Sanh et al. 2019, "DistilBERT, a distilled version of BERT", section 2.
    """

    fields: MlmDistillation

    def __init__(self, fields: MlmDistillation, config: BertConfig, tokenizer: Tokenizer, compute: Compute = Compute()):
        super().__init__(fields, config, tokenizer, compute)
        if fields.pairs != "none":
            raise InputError("task.pairs: the teacher's judgement of pairs is not learnt; set pairs none")
        if fields.objective != "mlm":
            raise InputError(f"task.objective: must be mlm in MLM distillation, got {fields.objective}")
        self.model = BertWithStates(config, pairs=False, compute=compute)
        self._teacher: _Teacher | None = None  # opened where a run trains

    @classmethod
    def open(cls, fields: Any, config: BertConfig, tokenizer: Tokenizer, compute: Compute = Compute()) -> Self:
        task = super().open(fields, config, tokenizer, compute)
        task._teacher = _Teacher(fields, config, tokenizer)
        return task

    def train_batches(self, **options: Any) -> Batches:  # type: ignore[override]
        teacher = self._teacher or _Teacher(self.fields, self.config, self.tokenizer)
        return _Taught(super().train_batches(**options), teacher)

    def loss_fn(self, params: Any, batch: dict[str, jax.Array], keys: Keys) -> Outcome:
        """Without the teacher's outputs in the batch, as in evaluation, the loss is that of MLM."""
        if "teacher_logits" not in batch:
            return super().loss_fn(params, batch, keys)
        rngs = None if keys.dropout is None else {"dropout": keys.dropout}
        student: Any = self.model.apply({"params": params}, batch, keys.dropout is None, rngs=rngs)
        weights, t = self._loss_weights(batch), self.fields.temperature
        masked = batch["masked_labels"], batch["masked_weights"]
        losses = {"mlm_loss": cross_entropy(student["mlm"], *masked)}
        soft = soft_cross_entropy(student["mlm"] / t, jax.nn.softmax(batch["teacher_logits"] / t), masked[1])
        losses["teacher_loss"] = scaled(soft, t**2)  # so that the gradient keeps its scale
        if "cosine_loss" in weights:
            angles = 1 - _cosines(student["states"], batch["teacher_states"])
            losses["cosine_loss"] = weighted(angles, weights["cosine_loss"])
        shares = self._shares()
        objective = {name: scaled(losses[name], shares[name]) for name in weights}
        return Outcome(objective, {"mlm_accuracy": accuracy(student["mlm"], *masked)}, predictions={})

    def _shares(self) -> dict[str, float]:
        """Returns the weight of each loss in the objective, unless it is 0."""
        fields = self.fields
        shares = {"mlm_loss": fields.mlm_weight, "teacher_loss": fields.teacher_weight}
        shares["cosine_loss"] = fields.cosine_weight
        return {name: share for name, share in shares.items() if share}

    def _loss_weights(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        if "teacher_logits" not in batch:
            return super()._loss_weights(batch)
        every = {"mlm_loss": batch["masked_weights"], "teacher_loss": batch["masked_weights"]}
        every["cosine_loss"] = (batch["sequence_ids"] > 0).astype(jnp.float32)
        return {name: every[name] for name in self._shares()}


def _cosines(x_BTD: jax.Array, y_BTD: jax.Array) -> jax.Array:
    """Returns the cosine of the angle between the states of each token, [B, T]; states of 0 have 0."""
    lengths_BT = jnp.sum(x_BTD**2, axis=-1) * jnp.sum(y_BTD**2, axis=-1)
    return jnp.sum(x_BTD * y_BTD, axis=-1) * jax.lax.rsqrt(jnp.maximum(lengths_BT, 1e-12))


class _Teacher:
    """The larger model, which reads batches of the student's."""

    def __init__(self, fields: MlmDistillation, config: BertConfig, tokenizer: Tokenizer):
        if not fields.teacher:
            raise InputError("task.teacher: name a SOURCE with an MLM head and the same tokenizer")
        source = pretrained.open_source(fields.teacher)
        frame, ours = source.tokenizer.frame, tokenizer.frame
        if source.tokenizer.fingerprint != tokenizer.fingerprint:
            raise InputError(f"task.teacher: {fields.teacher} has another tokenizer than this run; both need the same")
        if (frame.start, frame.end, frame.first_position) != (ours.start, ours.end, ours.first_position):
            raise InputError(
                f"task.teacher: {fields.teacher} counts positions from {frame.first_position} and this model from "
                f"{ours.first_position}; both need the same"
            )
        fields.check_length(frame.longest(source.config.max_position_embeddings))
        if fields.cosine_weight and source.config.hidden_size != config.hidden_size:
            raise InputError(
                f"task.cosine_weight: {fields.teacher} has the hidden_size {source.config.hidden_size} and this model "
                f"{config.hidden_size}; set the weight to 0, or make both equal"
            )
        params, _ = source.read_params()
        if named.MLM not in params:
            raise InputError(f"task.teacher: {fields.teacher} has no MLM head; name a run of pre-training")
        rows = config.vocab_size  # spare rows of the teacher are of no use to a student without them
        if source.config.vocab_size < rows:
            raise InputError(
                f"task.teacher: {fields.teacher} has {source.config.vocab_size} rows in its vocabulary and this model "
                f"{rows}; set model.vocab_size to 0 and leave model.vocab_multiple at 1"
            )
        self._params = jax.device_put({name: params[name] for name in (named.ENCODER, named.MLM)})
        self._outputs = jax.jit(partial(_outputs, BertWithStates(source.config, False, source.compute), rows))
        self._has_states = bool(fields.cosine_weight)

    def outputs(self, batch: Arrays) -> Arrays:
        """Returns the arrays that the loss compares with: logits [B, P, V] and, for the cosine, states [B, T, D]."""
        arrays = {name: batch[name] for name in (*ENCODER, "masked_positions")}
        logits, states = self._outputs(self._params, arrays)
        answers = {"teacher_logits": np.asarray(logits)}
        return answers | ({"teacher_states": np.asarray(states)} if self._has_states else {})


def _outputs(model: BertWithStates, rows: int, params: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
    made = cast(dict[str, jax.Array], model.apply({"params": params}, batch))
    return made["mlm"][..., :rows], made["states"]


class _Taught:
    """Batches of pre-training with the teacher's outputs."""

    def __init__(self, batches: PretrainingBatches, teacher: _Teacher):
        self._batches, self._teacher = batches, teacher
        self.num_examples, self.num_steps, self.notes = batches.num_examples, batches.num_steps, batches.notes

    def __call__(self, step: int) -> Arrays:
        batch = self._batches(step)
        return batch | self._teacher.outputs(batch)
