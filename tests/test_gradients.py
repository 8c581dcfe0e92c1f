"""Gradients that are computed in a special way are the plain ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import gradients

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_the_gradients_of_scores_are_those_in_float32(dtype, tolerance):
    x, table, g = normal(2, 5, 8), normal(30, 8), normal(2, 5, 30)
    value, backward = jax.vjp(gradients.scores, jnp.asarray(x, dtype), jnp.asarray(table, dtype))
    assert value.dtype == jnp.float32
    expected = np.einsum("BPV,VE->BPE", g, table), np.einsum("BPV,BPE->VE", g, x)
    for actual, wanted in zip(backward(g), expected, strict=True):
        assert actual.dtype == dtype
        difference = np.asarray(actual, np.float32) - wanted
        assert np.linalg.norm(difference) <= tolerance * np.linalg.norm(wanted)
