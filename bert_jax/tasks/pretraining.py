"""Masked language modelling with next-sentence or sentence-order prediction, or replaced-token detection."""

from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bert_jax.config import BertConfig, Compute, Pretraining
from bert_jax.data.batch import Arrays, make_batch
from bert_jax.data.examples import PretrainingBatches
from bert_jax.data.sizes import BatchSizes
from bert_jax.data.store import TokenStore
from bert_jax.errors import InputError
from bert_jax.heads import BertForPreTraining, BertWithGenerator
from bert_jax.losses import (
    Joint,
    Keys,
    Mean,
    Outcome,
    accuracy,
    binary_cross_entropy,
    counts_of,
    cross_entropy,
    draw,
    row_noise,
    weighted,
)
from bert_jax.tasks.base import Batches, Evaluation
from bert_jax.tokenizers import Tokenizer


def put(input_ids: jax.Array, batch: dict[str, jax.Array], tokens_BP: jax.Array) -> jax.Array:
    """Returns the input with other tokens at the masked positions, int32 [B, T]; unused slots change nothing."""
    rows_B1, outside = jnp.arange(len(input_ids))[:, None], input_ids.shape[1]
    positions_BP = jnp.where(batch["masked_weights"] > 0, batch["masked_positions"], outside)
    return input_ids.at[rows_B1, positions_BP].set(tokens_BP, mode="drop")


def scaled(loss: Mean, weight: float) -> Mean:
    """Returns a loss with a weight in the objective."""
    return Mean(weight * loss.sum, loss.count)


class PretrainingTask:
    """See `bert_jax.tasks.base.Task`; the fields are `bert_jax.config.Pretraining`."""

    model: nn.Module
    joint: Joint | None = None

    def __init__(self, fields: Pretraining, config: BertConfig, tokenizer: Tokenizer, compute: Compute = Compute()):
        self.fields = fields
        self.config = config
        self.compute = compute
        self.tokenizer = tokenizer
        generator = fields.generator(config)
        if generator is None:
            self.model = BertForPreTraining(config, pairs=fields.pairs != "none", compute=compute)
        else:
            self.model = BertWithGenerator(config, generator, fields.share_embeddings, compute)

    @classmethod
    def open(cls, fields: Pretraining, config: BertConfig, tokenizer: Tokenizer, compute: Compute = Compute()) -> Self:
        if not fields.stores:
            raise InputError("task.stores: name at least one token store, a folder written by `bert_jax prepare`")
        return cls(fields, config, tokenizer, compute)

    def notes(self) -> list[str]:
        return []

    def _batches(self, **options: Any) -> PretrainingBatches:
        stores = [TokenStore.open(store) for store in self.fields.stores]
        return PretrainingBatches(self.fields, stores, self.tokenizer, **options)

    def train_batches(
        self, *, batch_size: int | BatchSizes, steps: int, seed: int, multiple: int = 1, host: int = 0, hosts: int = 1
    ) -> PretrainingBatches:
        return self._batches(batch_size=batch_size, steps=steps, seed=seed, split="train", host=host, hosts=hosts)

    def eval_batches(self, *, batch_size: int, data: str | None = None) -> PretrainingBatches | None:
        if data is None and not self.fields.held_out:
            return None
        if data is not None:
            raise InputError(
                f"--data {data}: a pre-training run is evaluated on the held-out documents of its own stores"
            )
        return self._batches(batch_size=batch_size, steps=1, seed=0, split="eval")

    def loss_fn(self, params: Any, batch: dict[str, jax.Array], keys: Keys) -> Outcome:
        if self.fields.objective == "rtd":
            return self._replaced_tokens(params, batch, keys)
        rngs = None if keys.dropout is None else {"dropout": keys.dropout}
        logits: Any = self.model.apply({"params": params}, batch, keys.dropout is None, rngs=rngs)
        weights = self._loss_weights(batch)
        mlm = batch["masked_labels"], weights["mlm_loss"]
        losses: dict[str, Mean] = {"mlm_loss": cross_entropy(logits["mlm"], *mlm)}
        metrics = {"mlm_accuracy": accuracy(logits["mlm"], *mlm)}
        if keys.dropout is None and self.fields.position_parts > 1:
            metrics |= self._accuracy_of_parts(logits["mlm"], batch)
        if "pair" in logits:
            pair = batch["pair_labels"], weights["pair_loss"]
            losses["pair_loss"] = cross_entropy(logits["pair"], *pair)
            metrics["pair_accuracy"] = accuracy(logits["pair"], *pair)
        return Outcome(losses, metrics, predictions={})

    def _accuracy_of_parts(self, logits_BPV: jax.Array, batch: dict[str, jax.Array]) -> dict[str, Mean]:
        """Returns the MLM accuracy of each part of the length, by the position of a token in its own sequence."""
        parts, length = self.fields.position_parts, batch["input_ids"].shape[1]
        positions_BP = jnp.take_along_axis(batch["position_ids"], batch["masked_positions"], axis=1)
        part_BP = (positions_BP - self.config.first_position) * parts // length
        weights_BP = batch["masked_weights"]
        return {
            f"mlm_accuracy_part_{part + 1}": accuracy(
                logits_BPV, batch["masked_labels"], jnp.where(part_BP == part, weights_BP, 0.0)
            )
            for part in range(parts)
        }

    def _replaced_tokens(self, params: Any, batch: dict[str, jax.Array], keys: Keys) -> Outcome:
        """Returns the outcome of replaced-token detection: no gradient goes from the discriminator to the generator.

        Source: Clark et al. 2020, "ELECTRA", section 2. A token that the generator happens to guess counts as original.
        """

        def apply(method: str, batch: dict[str, jax.Array], number: int) -> jax.Array:
            rngs = None if keys.dropout is None else {"dropout": jax.random.fold_in(keys.dropout, number)}
            scores: Any = self.model.apply({"params": params}, batch, keys.dropout is None, rngs=rngs, method=method)
            return scores

        logits_BPV = apply("generate", batch, 0)
        mlm = batch["masked_labels"], batch["masked_weights"]
        known_BPV = jax.lax.stop_gradient(logits_BPV[:, :, : self.tokenizer.vocab_size])  # spare rows are never drawn
        drawn_BP = draw(known_BPV, row_noise(keys.sample, batch, known_BPV.shape[1]))
        original_BT = put(batch["input_ids"], batch, batch["masked_labels"])
        input_ids = put(batch["input_ids"], batch, drawn_BP)
        replaced_BT, real_BT = input_ids != original_BT, batch["sequence_ids"] > 0
        scores_BT = apply("discriminate", batch | {"input_ids": input_ids}, 1)
        found_BT = scores_BT > 0
        losses = {
            "mlm_loss": scaled(cross_entropy(logits_BPV, *mlm), self.fields.generator_weight),
            "rtd_loss": scaled(binary_cross_entropy(scores_BT, replaced_BT, real_BT), self.fields.discriminator_weight),
        }
        metrics = {
            "mlm_accuracy": accuracy(logits_BPV, *mlm),
            "rtd_accuracy": weighted(found_BT == replaced_BT, real_BT),
            "rtd_recall": weighted(found_BT, replaced_BT),
            "rtd_replaced": weighted(replaced_BT, real_BT),
        }
        return Outcome(losses, metrics, predictions={})

    def _loss_weights(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        weights = {"mlm_loss": batch["masked_weights"]}
        if self.fields.objective == "rtd":
            return weights | {"rtd_loss": batch["sequence_ids"] > 0}
        return weights | ({"pair_loss": batch["pair_weights"]} if self.fields.pairs != "none" else {})

    def counts(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return counts_of(self._loss_weights(batch))

    def dummy_batch(self) -> Arrays:
        zeros = np.zeros((1, 1), np.int32)
        return make_batch(zeros, masked_positions=zeros)

    def evaluate(self, predictions: Arrays, batches: Batches) -> Evaluation:
        """Adds the accuracy of always answering with the most frequent token, to compare `mlm_accuracy` with."""
        assert isinstance(batches, PretrainingBatches)
        return Evaluation({"unigram_accuracy": batches.unigram_accuracy}, {}, {}, [])
