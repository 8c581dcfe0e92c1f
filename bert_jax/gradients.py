"""A lookup and a product with their own gradients, because XLA's are slow on GPUs; their values are the plain ones."""

from typing import Any

import jax
import jax.numpy as jnp


@jax.custom_vjp
def few_rows(table_NE: jax.Array, ids_BT: jax.Array) -> jax.Array:
    """Returns rows of a table that has few, [B, T, E]; int32 ids.

    XLA adds the gradient of every token to its row. On a GPU, thousands of tokens then wait for the same two rows: with
    32,768 tokens on an H200, 48 ms of a step of BERT-base, as much as all of its matrix products. There the gradient is
    a matrix product instead.
    """
    return jnp.take(table_NE, ids_BT, axis=0)


def _few_rows_forward(table_NE: jax.Array, ids_BT: jax.Array) -> Any:
    return few_rows(table_NE, ids_BT), (table_NE, ids_BT)


def _few_rows_backward(residuals: Any, g_BTE: jax.Array) -> Any:
    return jax.lax.platform_dependent(*residuals, g_BTE, cuda=by_product, default=by_row), None


def by_row(table_NE: jax.Array, ids_BT: jax.Array, g_BTE: jax.Array) -> jax.Array:
    """Returns the gradient of the table as XLA computes it."""
    _, backward = jax.vjp(lambda table: jnp.take(table, ids_BT, axis=0), table_NE)
    return backward(g_BTE)[0]


def by_product(table_NE: jax.Array, ids_BT: jax.Array, g_BTE: jax.Array) -> jax.Array:
    """Returns the same as a matrix product, summed in float32."""
    chosen_BTN = jax.nn.one_hot(ids_BT, len(table_NE), dtype=g_BTE.dtype)
    return jnp.einsum("BTN,BTE->NE", chosen_BTN, g_BTE, preferred_element_type=jnp.float32).astype(table_NE.dtype)


few_rows.defvjp(_few_rows_forward, _few_rows_backward)


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
