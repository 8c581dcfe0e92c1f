"""Losses and step metrics as (sum, count): they merge by adding, and are divided once, at the end.

The count is the weight of what was predicted and comes from the batch alone, so that it can be summed over devices and
microbatches before any gradient is taken. Padding weighs 0; token 0 is a token like any other.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct


class Mean(struct.PyTreeNode):
    """A mean on its way: float32 scalars."""

    sum: jax.Array
    count: jax.Array


class Keys(NamedTuple):
    """The random keys of a loss function."""

    dropout: jax.Array | None  # None switches dropout off, as in evaluation
    # For what a loss draws itself, such as replaced tokens. It is the same on all devices and in all microbatches: a
    # loss draws by the content of a row (`row_noise`), not by where the row is. In evaluation it never changes.
    sample: jax.Array


class Outcome(NamedTuple):
    """The result of a task's loss function on one batch."""

    losses: dict[str, Mean]  # each divided by its own count, then added up, they are the objective
    metrics: dict[str, Mean]  # figures to watch; no gradient
    predictions: dict[str, jax.Array]  # [B, ...]: what scoring and decoding need of each row; {} if nothing


class Joint(NamedTuple):
    """A loss that compares each row with all rows of the global batch: vectors of rows first, then their losses.

    `vectors`: (params, batch, keys) -> float32 [B, ...], from the rows of a part of the batch alone.
    `outcome`: (mine, everyone) -> the Outcome of the rows in `mine`, compared with those in `everyone`. Both are the
      arrays `reads` of a batch, and "vectors"; `mine` are rows of one device and `everyone` all of the global batch.
    """

    vectors: Callable[[Any, Mapping[str, jax.Array], Keys], jax.Array]
    outcome: Callable[[Mapping[str, jax.Array], Mapping[str, jax.Array]], Outcome]
    reads: tuple[str, ...]


def row_noise(key: jax.Array, batch: Mapping[str, jax.Array], count: int) -> jax.Array:
    """Returns numbers between 0 and 1, float32 [B, count], that depend on the key and the tokens of a row alone."""
    ids_BT = jnp.where(batch["sequence_ids"] > 0, batch["input_ids"] + 1, 0).astype(jnp.uint32)
    factors_T = jnp.arange(1, ids_BT.shape[1] + 1, dtype=jnp.uint32) * jnp.uint32(0x9E3779B9) | jnp.uint32(1)
    hashes_B = jnp.sum(ids_BT * factors_T[None], axis=1, dtype=jnp.uint32)
    keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key, hashes_B)
    return jax.vmap(lambda row_key: jax.random.uniform(row_key, (count,)))(keys_B)


def draw(logits: jax.Array, noise: jax.Array) -> jax.Array:
    """Returns a class drawn from each softmax, int32 [...]: logits [..., C], noise [...] between 0 and 1."""
    sums = jnp.cumsum(jax.nn.softmax(logits.astype(jnp.float32)), axis=-1)
    below = sums < (noise * sums[..., -1])[..., None]
    return jnp.minimum(jnp.sum(below, axis=-1, dtype=jnp.int32), logits.shape[-1] - 1)


def weighted(values: jax.Array, weights: jax.Array) -> Mean:
    """Sums `values` times `weights` and the weights; both of one shape."""
    weights = weights.astype(jnp.float32)
    return Mean(jnp.sum(values.astype(jnp.float32) * weights), jnp.sum(weights))


def counts_of(weights: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the count of each loss, a float32 scalar: the sum of the weights of its predictions."""
    return {name: jnp.sum(values.astype(jnp.float32)) for name, values in weights.items()}


def cross_entropy(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> Mean:
    """Softmax cross-entropy in nats: logits [..., C], int32 labels [...], weights [...]."""
    logits = logits.astype(jnp.float32)
    return weighted(jax.nn.logsumexp(logits, axis=-1) - _at(logits, labels), weights)


def soft_cross_entropy(logits: jax.Array, probabilities: jax.Array, weights: jax.Array) -> Mean:
    """Softmax cross-entropy in nats to a distribution: logits and probabilities [..., C], weights [...]."""
    return weighted(-jnp.sum(probabilities * jax.nn.log_softmax(logits.astype(jnp.float32)), axis=-1), weights)


def accuracy(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> Mean:
    """How often no logit is above the label's: logits [..., C], int32 labels [...], weights [...]."""
    # Not by argmax, which on CPU takes as long over a vocabulary as the matrix product that made its logits.
    return weighted(_at(logits, labels) >= jnp.max(logits, axis=-1), weights)


def _at(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The labels' logits: [..., C] and [...] give [...]."""
    return jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]


def binary_cross_entropy(
    logits: jax.Array, labels: jax.Array, weights: jax.Array, positive_weights: jax.Array | float = 1.0
) -> Mean:
    """Sigmoid cross-entropy in nats: logits, labels (0 or 1) and weights [..., C]; positives weigh as given, [C]."""
    logits, labels = logits.astype(jnp.float32), labels.astype(jnp.float32)
    losses = -positive_weights * labels * jax.nn.log_sigmoid(logits) - (1 - labels) * jax.nn.log_sigmoid(-logits)
    return weighted(losses, weights)


def squared_error(predicted: jax.Array, targets: jax.Array, weights: jax.Array) -> Mean:
    """Squared differences; all of one shape."""
    return weighted((predicted.astype(jnp.float32) - targets) ** 2, weights)
