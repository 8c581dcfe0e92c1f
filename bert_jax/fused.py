"""Fused attention: kernels that never store the scores, for models without attention dropout.

On padding they give other (finite) values than the explicit path; nothing reads these.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax.linen.spmd import logical_to_mesh_axes

# The kernels of Pallas are imported where they are used, because the import takes a third of a second.

BLOCK = 128  # tokens in a block of the Pallas kernels


def fits(length: int) -> bool:
    """Returns whether the Pallas kernels take rows of `length` tokens; shorter rows gain nothing from them."""
    return length % BLOCK == 0


def attend(
    kind: str, q_BTHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array, ids_BT: jax.Array, single: bool
) -> jax.Array:
    """Returns softmax(q k) v among tokens whose ids are equal, [B, T, H, K] in the dtype of v; q is already scaled.

    Args:
      kind: "cudnn", on NVIDIA GPUs, or "pallas", on GPUs and TPUs; "pallas" uses plain operations on other devices.
      ids_BT: int32 sequence_ids, 0 on padding.
      single: whether each row holds one sequence and then padding, which cuDNN can skip.
    """
    if kind == "cudnn":
        return _cudnn(q_BTHK, k_BSHK, v_BSHK, ids_BT, single)
    kernel = _pallas
    rows = logical_to_mesh_axes(("rows",))
    if rows is not None and rows[0] is not None:
        # XLA cannot split a foreign kernel itself.
        kernel = jax.shard_map(_pallas, in_specs=(rows,) * 4, out_specs=rows, check_vma=False)
    return kernel(q_BTHK, k_BSHK, v_BSHK, ids_BT)


def _cudnn(q_BTHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array, ids_BT: jax.Array, single: bool) -> jax.Array:
    attention = partial(jax.nn.dot_product_attention, q_BTHK, k_BSHK, v_BSHK, scale=1.0, implementation="cudnn")
    if single:
        # At least 1: a row of padding only has no softmax.
        lengths_B = jnp.maximum(jnp.sum(ids_BT > 0, axis=1, dtype=jnp.int32), 1)
        return attention(query_seq_lengths=lengths_B, key_value_seq_lengths=lengths_B)
    same_BTS = ids_BT[:, :, None] == ids_BT[:, None, :]
    return attention(mask=same_BTS[:, None])


def _pallas(q_BTHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array, ids_BT: jax.Array) -> jax.Array:
    return jax.lax.platform_dependent(
        q_BTHK, k_BSHK, v_BSHK, ids_BT, cuda=pallas_gpu, tpu=_pallas_tpu, default=_reference
    )


def pallas_gpu(
    q_BTHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array, ids_BT: jax.Array, interpret: bool = False
) -> jax.Array:
    """Computes `attend` by the Pallas kernel for GPUs; with `interpret`, step by step on any platform."""
    from jax.experimental.pallas.ops.gpu import attention as gpu

    return gpu.mha(q_BTHK, k_BSHK, v_BSHK, ids_BT, sm_scale=1.0, interpret=interpret)


def _pallas_tpu(q_BTHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array, ids_BT: jax.Array) -> jax.Array:
    from jax.experimental.pallas.ops.tpu import flash_attention as tpu

    q_BHTK, k_BHSK, v_BHSK = (jnp.swapaxes(x, 1, 2) for x in (q_BTHK, k_BSHK, v_BSHK))
    mixed_BHTK = tpu.flash_attention(q_BHTK, k_BHSK, v_BHSK, segment_ids=tpu.SegmentIds(ids_BT, ids_BT), sm_scale=1.0)
    return jnp.swapaxes(mixed_BHTK, 1, 2)


def _reference(q_BTHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array, ids_BT: jax.Array) -> jax.Array:
    same_BTS = ids_BT[:, :, None] == ids_BT[:, None, :]
    return jax.nn.dot_product_attention(q_BTHK, k_BSHK, v_BSHK, mask=same_BTS[:, None], scale=1.0)
