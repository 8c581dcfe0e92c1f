"""Products with their own gradients, because XLA's are slow; their values are the plain ones."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp


def scores(x_BPE: jax.Array, table_VE: jax.Array) -> jax.Array:
    """Returns the products of vectors and the rows of a large table, [B, P, V] in float32.

    In bfloat16, the gradients are products in bfloat16 too, as elsewhere in the model. XLA would compute them in
    float32, three times as slowly.
    """
    return _bfloat16_scores(x_BPE, table_VE) if x_BPE.dtype == jnp.bfloat16 else _scores(x_BPE, table_VE)


def _scores(x_BPE: jax.Array, table_VE: jax.Array) -> jax.Array:
    return jnp.einsum("BPE,VE->BPV", x_BPE, table_VE, preferred_element_type=jnp.float32)


_bfloat16_scores = jax.custom_vjp(_scores)


def _scores_forward(x_BPE: jax.Array, table_VE: jax.Array) -> Any:
    return _scores(x_BPE, table_VE), (x_BPE, table_VE)


def _scores_backward(residuals: Any, g_BPV: jax.Array) -> Any:
    x_BPE, table_VE = residuals
    g_BPV = g_BPV.astype(x_BPE.dtype)
    x_gradient = jnp.einsum("BPV,VE->BPE", g_BPV, table_VE, preferred_element_type=jnp.float32)
    table_gradient = jnp.einsum("BPV,BPE->VE", g_BPV, x_BPE, preferred_element_type=jnp.float32)
    return x_gradient.astype(x_BPE.dtype), table_gradient.astype(table_VE.dtype)


_bfloat16_scores.defvjp(_scores_forward, _scores_backward)


@jax.custom_vjp
def product(x: jax.Array, kernel_DF: jax.Array) -> jax.Array:
    """Returns the product of x [..., D] and a matrix, [..., F].

    The gradient of the matrix sums over all axes of x but the last. On a CPU this is written as a product of two
    matrices: otherwise XLA transposes x first, and a step of a tiny model takes a fifth longer. On TPUs a step of
    BERT-base would access a tenth more memory.
    """
    return x @ kernel_DF


def _product_forward(x: jax.Array, kernel_DF: jax.Array) -> Any:
    return x @ kernel_DF, (x, kernel_DF)


def _product_backward(residuals: Any, g: jax.Array) -> Any:
    x, kernel_DF = residuals
    inputs, outputs = kernel_DF.shape
    rows = tuple(range(x.ndim - 1))
    kernel_gradient = jax.lax.platform_dependent(
        x,
        g,
        cpu=lambda x, g: _sum_over((0,), x.reshape(-1, inputs), g.reshape(-1, outputs)),
        default=partial(_sum_over, rows),
    )
    return jax.lax.dot_general(g, kernel_DF, (((x.ndim - 1,), (1,)), ((), ()))), kernel_gradient


def _sum_over(axes: tuple[int, ...], x: jax.Array, y: jax.Array) -> jax.Array:
    return jax.lax.dot_general(x, y, ((axes, axes), ((), ())))


product.defvjp(_product_forward, _product_backward)
