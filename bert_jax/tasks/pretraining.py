"""Masked language modelling with next-sentence or sentence-order prediction, on token stores."""

from typing import Any, Self

import jax
import numpy as np
from flax import linen as nn

from bert_jax.config import BertConfig, Compute, Pretraining
from bert_jax.data.batch import Arrays, make_batch
from bert_jax.data.examples import PretrainingBatches
from bert_jax.data.store import TokenStore
from bert_jax.errors import InputError
from bert_jax.heads import BertForPreTraining
from bert_jax.losses import Keys, Mean, Outcome, accuracy, counts_of, cross_entropy
from bert_jax.tasks.base import Batches, Evaluation
from bert_jax.tokenizers import Tokenizer


class PretrainingTask:
    """See `bert_jax.tasks.base.Task`; the fields are `bert_jax.config.Pretraining`."""

    model: nn.Module

    def __init__(self, fields: Pretraining, config: BertConfig, tokenizer: Tokenizer, compute: Compute = Compute()):
        self.fields = fields
        self.config = config
        self.compute = compute
        self.tokenizer = tokenizer
        self.model = BertForPreTraining(config, pairs=fields.pairs != "none", compute=compute)

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
        self, *, batch_size: int, steps: int, seed: int, multiple: int = 1, host: int = 0, hosts: int = 1
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
        rngs = None if keys.dropout is None else {"dropout": keys.dropout}
        logits: Any = self.model.apply({"params": params}, batch, keys.dropout is None, rngs=rngs)
        weights = self._loss_weights(batch)
        mlm = batch["masked_labels"], weights["mlm_loss"]
        losses: dict[str, Mean] = {"mlm_loss": cross_entropy(logits["mlm"], *mlm)}
        metrics = {"mlm_accuracy": accuracy(logits["mlm"], *mlm)}
        if "pair" in logits:
            pair = batch["pair_labels"], weights["pair_loss"]
            losses["pair_loss"] = cross_entropy(logits["pair"], *pair)
            metrics["pair_accuracy"] = accuracy(logits["pair"], *pair)
        return Outcome(losses, metrics, predictions={})

    def _loss_weights(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        weights = {"mlm_loss": batch["masked_weights"]}
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
