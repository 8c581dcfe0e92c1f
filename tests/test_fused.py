"""Fused attention gives what the explicit path gives, and refuses what it cannot do."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import fused
from bert_jax.config import BertConfig, Compute
from bert_jax.data.batch import make_batch
from bert_jax.errors import InputError
from bert_jax.model import Bert
from helpers.weights import compiled, random_weights

LENGTH = 128
CONFIG = BertConfig(100, 32, 1, 2, 64, max_position_embeddings=LENGTH, hidden_dropout=0.0, attention_dropout=0.0)
# Of its two layers, one has local attention, with which the fused one of the other has to go together.
LOCAL = replace(CONFIG, num_layers=2, positions="rotary", local_attention=16, global_every=2)


def packed_batch() -> dict[str, np.ndarray]:
    """Two rows: three sequences and padding, and two sequences that fill it."""
    rng = np.random.default_rng(0)
    ids = np.repeat([[1, 2, 3, 0, 0], [1, 2, 2, 2, 2]], [40, 30, 20, 20, 18], axis=1).astype(np.int32)
    return make_batch(rng.integers(5, 100, ids.shape, dtype=np.int32), sequence_ids=ids)


def outcome(config: BertConfig, compute: Compute, params, batch):
    """Hidden states of real tokens, and the gradient of a function of them."""
    real = (batch["sequence_ids"] > 0)[:, :, None]
    weights = np.random.default_rng(1).normal(size=(*batch["input_ids"].shape, CONFIG.hidden_size)).astype(np.float32)

    def value(params):
        x_BTD = Bert(config, compute).apply(params, batch)
        return jnp.sum(jnp.where(real, x_BTD * weights, 0)), jnp.where(real, x_BTD, 0)

    (_, x_BTD), grads = jax.jit(jax.value_and_grad(value, has_aux=True))(params)
    return x_BTD, grads


@pytest.fixture(scope="module")
def explicit():
    """A batch, parameters, and what the explicit path makes of them."""
    batch = packed_batch()
    params = {"params": random_weights(Bert(LOCAL), batch)}
    return batch, params, outcome(LOCAL, Compute(), params, batch)


@pytest.mark.parametrize("kernel", ["plain operations", "the GPU's kernel, interpreted"])
def test_pallas_with_windows_and_packed_rows_gives_what_the_explicit_path_gives(kernel, explicit, monkeypatch):
    if kernel != "plain operations":
        monkeypatch.setattr(fused, "_pallas", lambda *args: fused.pallas_gpu(*args, interpret=True))
    batch, params, (expected, expected_grads) = explicit
    actual, grads = outcome(LOCAL, Compute(attention="pallas"), params, batch)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.abs(b).max() + 1e-6))


def test_rows_of_lengths_that_the_kernels_lack_are_computed_explicitly():
    batch = {name: x[:, :96] if x.shape[1] == LENGTH else x for name, x in packed_batch().items()}
    params = {"params": random_weights(Bert(CONFIG), batch)}
    actual = compiled(Bert(CONFIG, Compute(attention="pallas")))(params, batch)
    np.testing.assert_array_equal(actual, compiled(Bert(CONFIG))(params, batch))


@pytest.mark.parametrize(
    ("compute", "changes", "message"),
    [
        (Compute(attention="pallas"), {"attention_dropout": 0.1}, "compute.attention: pallas has no dropout"),
        (Compute(attention="cudnn"), {}, "dtype is float32"),
        (Compute(attention="cudnn", dtype="bfloat16"), {"num_heads": 8}, "head size 4"),
    ],
)
def test_what_a_kernel_cannot_do_is_refused(compute, changes, message):
    config = replace(CONFIG, **changes)
    with pytest.raises(InputError, match=message):
        compute.check(config)
    with pytest.raises(InputError, match=message):
        Bert(config, compute).init(jax.random.key(0), packed_batch())
