"""What the backward pass of a training step reads, and so the memory that it takes on accelerators.

XLA decides what is stored and what is computed again, differently on each platform. On TPUs it stores about as much as
if only products and the probabilities of attention were stored.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

HEADS_AXES = 4  # [B, T, H, K] and [B, H, T, S]


class Kept(NamedTuple):
    """The arrays that a forward pass keeps for its backward pass, in bytes."""

    total: int
    largest: int  # of the arrays for heads of attention, whose gradient exists at the same time


def kept(objective: Callable, params: Any, batch: Any, key: Any, remat: bool, length: int = 0) -> Kept:
    """Returns what a forward pass keeps for its backward pass, without the parameters.

    Args:
      objective: (params, batch, key) -> what is differentiated; nothing is computed, so shapes are enough.
      remat: whether blocks keep their input only; `objective` then contains them as such.
      length: if not 0, arrays [..., length, length] do not count: fused attention does not store scores.
    """

    def pull_back(params: Any, batch: Any, key: Any) -> Any:
        def of_params(params: Any) -> Any:
            return objective(params, batch, key)

        chosen = of_params if remat else jax.checkpoint(of_params, policy=_is_stored)
        return jax.vjp(chosen, params)[1]

    arrays = [x for x in jax.tree.leaves(jax.eval_shape(pull_back, params, batch, key)) if hasattr(x, "dtype")]
    own = Counter((x.shape, x.dtype) for x in jax.tree.leaves(params))
    stored = []
    for x in arrays:
        if own[x.shape, x.dtype]:  # a parameter, which is there anyway
            own[x.shape, x.dtype] -= 1
        elif not length or x.shape[-2:] != (length, length):
            stored.append(x)
    sizes = [x.size * x.dtype.itemsize for x in stored]
    largest = max((size for x, size in zip(stored, sizes, strict=True) if x.ndim == HEADS_AXES), default=0)
    return Kept(sum(sizes), largest)


def _is_stored(primitive: Any, *arrays: Any, **options: Any) -> bool:
    """Returns whether the result is of a product, or the exponentials of scores."""
    if primitive.name == "exp":
        return bool(arrays[0].ndim == HEADS_AXES)
    if primitive.name != "dot_general":
        return False
    (summed, _), _ = options["dimension_numbers"]
    return any(arrays[0].shape[axis] > 1 for axis in summed)  # otherwise it only repeats values
