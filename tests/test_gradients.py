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


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("rows", [(), (5,), (2, 5), (2, 5, 3)])
def test_the_gradients_of_a_product_are_the_plain_ones(rows, dtype, tolerance):
    x, kernel, g = (jnp.asarray(normal(*shape), dtype) for shape in ((*rows, 8), (8, 6), (*rows, 6)))
    value, backward = jax.vjp(gradients.product, x, kernel)
    plain, plain_backward = jax.vjp(jnp.matmul, x, kernel)
    np.testing.assert_array_equal(value, plain)
    for actual, expected in zip(backward(g), plain_backward(g), strict=True):
        assert actual.dtype == expected.dtype
        difference = np.asarray(actual - expected, np.float32)
        assert np.linalg.norm(difference) <= tolerance * np.linalg.norm(np.asarray(expected, np.float32))


def test_the_gradient_of_a_product_is_of_two_matrices_on_a_cpu_only():
    x, kernel = jnp.zeros((2, 5, 8)), jnp.zeros((8, 6))
    traced = jax.jit(jax.grad(lambda x, kernel: gradients.product(x, kernel).sum(), 1)).trace(x, kernel)
    transposed = "contracting_dims = [0, 1] x [0, 1]"
    assert transposed not in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert transposed in traced.lower(lowering_platforms=("tpu",)).as_text()
