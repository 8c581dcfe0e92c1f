"""Random weights and outputs of models with few compilations: outside of `jit`, each operation is a program."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import numpy as np


def random_weights(model: Any, batch: Any, seed: int = 0, deviation: float = 0.02, **options: Any) -> dict[str, Any]:
    """Returns parameters like those of `model.init(key, batch, **options)`, drawn by NumPy.

    Matrices and tables are normal with this deviation, scales 1 and biases 0.
    """
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), batch, **options))["params"]

    def draw(path: Any, x: Any) -> jax.Array:
        constants = {"scale": 1.0, "bias": 0.0}
        name = path[-1].key
        values = np.full(x.shape, constants[name]) if name in constants else rng.normal(0.0, deviation, x.shape)
        return jax.numpy.asarray(values, x.dtype)

    return jax.tree.map_with_path(draw, shapes)


@cache
def compiled(model: Any, **options: Any) -> Callable[..., Any]:
    """Returns `model.apply` with these options as one program."""
    return jax.jit(partial(model.apply, **options))
