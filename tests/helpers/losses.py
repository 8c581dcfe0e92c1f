"""Losses without dropout. Its key touches a device when it is imported, so tiny models are elsewhere."""

import jax
import numpy as np

from bert_jax.losses import Keys
from helpers.weights import random_weights

NO_DROPOUT = Keys(dropout=None, sample=jax.random.key(0))


def assert_packed_learns_what_padded_does(padded, packed, batch_size: int, multiple: int = 1) -> None:
    """Tasks of the same rows have equal losses, counts, metrics and gradients; the packed one takes fewer rows."""
    params = random_weights(padded.model, padded.dummy_batch())
    outcomes, batches = [], []
    for task in (padded, packed):
        batch = task.train_batches(batch_size=batch_size, steps=1, seed=0, multiple=multiple)(0)

        def objective(params, task=task, batch=batch):
            outcome = task.loss_fn(params, batch, NO_DROPOUT)
            loss = sum(loss.sum / loss.count for loss in outcome.losses.values())
            return loss, (outcome.losses, outcome.metrics)

        outcomes.append(jax.jit(jax.value_and_grad(objective, has_aux=True))(params))
        batches.append(batch)
    rows = [len(batch["input_ids"]) for batch in batches]
    assert rows[0] == batch_size
    assert rows[1] < batch_size
    assert rows[1] % multiple == 0
    assert len({(batch["sequence_ids"] > 0).sum() for batch in batches}) == 1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), outcomes[0][0], outcomes[1][0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), outcomes[0][1], outcomes[1][1])
