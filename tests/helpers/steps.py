"""One training step of a tiny model on a batch that is hard to divide, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bert_jax.config import BertConfig
from bert_jax.data.batch import make_batch
from bert_jax.tasks.pretraining import PretrainingTask
from bert_jax.training.step import TrainState
from helpers.weights import random_weights

CONFIG = BertConfig(
    vocab_size=56,
    hidden_size=16,
    num_layers=1,
    num_heads=2,
    intermediate_size=32,
    max_position_embeddings=24,
    hidden_dropout=0.0,
    attention_dropout=0.0,
)
# Fields for tests that need a step but not every kind of parameter: a step of fewer parameters compiles faster.
FEW_PARAMETERS = {"linear_bias": False, "norm_bias": False, "type_vocab_size": 0}
ROWS = 96  # no parameter has a dimension of this or of half of it


class NoTokenizer:
    notes = ()
    vocab_size = 56


def uneven_batch(length: int = 12, slots: int = 4) -> dict[str, np.ndarray]:
    """Rows of unequal length with unequal numbers of masked tokens and some without a pair label."""
    rng = np.random.default_rng(0)
    present = (np.arange(length) < rng.integers(4, length + 1, ROWS)[:, None]).astype(np.int32)
    return make_batch(
        rng.integers(0, 50, (ROWS, length)).astype(np.int32) * present,
        sequence_ids=present,
        masked_positions=rng.integers(0, 4, (ROWS, slots)).astype(np.int32),
        masked_labels=rng.integers(0, 50, (ROWS, slots)).astype(np.int32),
        masked_weights=(rng.random((ROWS, slots)) < rng.random((ROWS, 1))).astype(np.float32),
        pair_labels=rng.integers(0, 2, (ROWS, 1)).astype(np.int32),
        pair_weights=(rng.random((ROWS, 1)) < 0.7).astype(np.float32),
    )


# An optimizer that moves nothing and keeps the gradient as its state, where a test can read it.
KEEP_GRADIENT = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda grads, state, params: (jax.tree.map(jnp.zeros_like, grads), grads),
)


def make_state(task: PretrainingTask, transformation: optax.GradientTransformation) -> TrainState:
    params = random_weights(task.model, uneven_batch())
    zero, key = jnp.zeros((), jnp.int32), jax.random.key(1)
    return TrainState(zero, params, transformation.init(params), key, transformation)
