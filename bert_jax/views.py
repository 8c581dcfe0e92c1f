"""What attention reads about a batch, made once in a step: which tokens see each other, and their rotary angles.

Local layers read long rows in chunks, so that their cost grows with the length of a row and not with its square.
"""

from collections.abc import Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from bert_jax import fused
from bert_jax.config import BertConfig, Compute

Batch = Mapping[str, jax.Array]
Rotation = tuple[jax.Array, jax.Array]


@struct.dataclass
class View:
    """What one kind of layers, global or local, reads about a batch."""

    sequence_ids: jax.Array  # int32 [B, T]
    # Which tokens attend to which, bool [B, 1, T, S]; in chunks of C tokens [chunks, 1, C, 3C]; None in a fused kernel.
    allowed: jax.Array | None
    rotation: Rotation | None  # cosines and sines, float32 [B, T, 1, K / 2]; None = no rotary positions
    chunk: int = struct.field(pytree_node=False)  # C; 0 = attention over whole rows
    single: bool = struct.field(pytree_node=False)  # whether a row holds one sequence, for cuDNN
    at: jax.Array | None = None  # int32 [B, P], the tokens whose states are computed, P in place of T; None = all

    def reading(self, at_BP: jax.Array | None) -> "View":
        """Returns the view of a layer whose states are computed at positions alone; of all tokens if they are None."""
        if at_BP is None or self.allowed is None or self.chunk:
            return replace(self, at=at_BP)
        return replace(self, at=at_BP, allowed=take(self.allowed[:, 0], at_BP)[:, None])

    def queries(self, x_BT: jax.Array) -> jax.Array:
        """Returns the tokens that attend: those at `at`, but all of them in chunks and in fused kernels."""
        return take(x_BT, None if self.chunk or self.allowed is None else self.at)

    def mixed(self, x_BT: jax.Array) -> jax.Array:
        """Returns what attention gives for the tokens at `at`; undoes what `queries` had in excess."""
        return take(x_BT, self.at if self.chunk or self.allowed is None else None)


def take(x_BT: jax.Array, at_BP: jax.Array | None) -> jax.Array:
    """Returns [B, P, ...], the entries of [B, T, ...] at positions; all if they are None."""
    if at_BP is None:
        return x_BT
    return jnp.take_along_axis(x_BT, at_BP.reshape(*at_BP.shape, *(1,) * (x_BT.ndim - 2)), axis=1)


def make(config: BertConfig, compute: Compute, batch: Batch, local: bool, whole: bool) -> View:
    """Returns what the global or the local layers read about a batch.

    Args:
      whole: whether local layers attend over whole rows rather than in chunks; the results are the same.
    """
    ids_BT = batch["sequence_ids"]
    length = ids_BT.shape[1]
    theta = config.rotary_theta if not local or config.local_rotary_theta is None else config.local_rotary_theta
    rotation = angles(batch["position_ids"], theta, config.head_size) if config.positions == "rotary" else None
    single = compute.attention == "cudnn" and batch["cls_positions"].shape[1] == 1
    if not local and (compute.attention == "cudnn" or (compute.attention == "pallas" and fused.fits(length))):
        return View(ids_BT, None, rotation, 0, single)
    chunk = config.chunk(length) if local and not whole else 0
    q_BT, k_BS = ids_BT, ids_BT
    q_at_BT = k_at_BS = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), ids_BT.shape)
    if chunk:
        q_BT, q_at_BT = in_chunks(q_BT, chunk), in_chunks(q_at_BT, chunk)
        k_BS, k_at_BS = in_chunks(k_BS, chunk, neighbours=True), in_chunks(k_at_BS, chunk, neighbours=True)
    allowed_BTS = (q_BT[:, :, None] == k_BS[:, None, :]) & (k_BS[:, None, :] != 0)
    if local:
        allowed_BTS &= jnp.abs(q_at_BT[:, :, None] - k_at_BS[:, None, :]) <= config.local_attention // 2
    return View(ids_BT, allowed_BTS[:, None], rotation, chunk, single)


def in_chunks(x_BT: jax.Array, size: int, neighbours: bool = False) -> jax.Array:
    """Returns the chunks of all rows, [chunks, C, ...], or each with those before and after it, [chunks, 3C, ...].

    Rows are filled up with 0, which as a sequence id is padding.
    """
    rows, length, *rest = x_BT.shape
    count = -(-length // size)
    around = size if neighbours else 0
    padded = jnp.pad(x_BT, [(0, 0), (around, count * size - length + around)] + [(0, 0)] * len(rest))
    parts = [padded[:, i * size : (i + count) * size] for i in range(3 if neighbours else 1)]
    return jnp.concatenate([part.reshape(rows * count, size, *rest) for part in parts], axis=1)


def out_of_chunks(x_NC: jax.Array, rows: int, length: int) -> jax.Array:
    """Returns rows [B, T, ...] from their chunks [chunks, C, ...]; undoes `in_chunks`."""
    return x_NC.reshape(rows, -1, *x_NC.shape[2:])[:, :length]


def angles(position_ids_BT: jax.Array, theta: float, head_size: int) -> Rotation:
    """Returns cosines and sines of the angles by which rotary positions turn queries and keys.

    Source: Su et al. 2021, "RoFormer", section 3.2.2; a pair has one entry in each half of a head, as in GPT-NeoX.
    """
    frequencies_K = (theta ** -(np.arange(0, head_size, 2) / head_size)).astype(np.float32)
    angles_BTK = position_ids_BT.astype(jnp.float32)[:, :, None] * frequencies_K[None, None]
    return jnp.cos(angles_BTK)[:, :, None], jnp.sin(angles_BTK)[:, :, None]


def rotate(x_BTHK: jax.Array, rotation: Rotation) -> jax.Array:
    """Turns queries or keys by their positions; then their products depend on the distance of their tokens alone."""
    cos, sin = rotation
    first, second = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=3)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=3)
    return turned.astype(x_BTHK.dtype)
