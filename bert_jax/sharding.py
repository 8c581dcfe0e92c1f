"""The only file that knows about devices: wraps the one training step, and evaluation, for however many there are."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from bert_jax.errors import InputError
from bert_jax.losses import Outcome

Arrays = dict[str, np.ndarray]
AXIS = "data"


def evaluate_step(params: Any, batch: dict[str, jax.Array], *, loss_fn: Callable, axis_name: str | None = None):
    """One batch without dropout: (losses and metrics summed over devices, predictions of this device's rows)."""
    outcome: Outcome = loss_fn(params, batch, None)
    sums = outcome.losses, outcome.metrics
    return (jax.lax.psum(sums, axis_name) if axis_name else sums), outcome.predictions


class Devices:
    """How a run uses its devices: all of them by `jax.pmap`, or one by `jax.jit`.

    With `in_axes=(None, 0)` pmap takes and returns a state without a leading device axis, so a state, and a checkpoint
    of it, looks the same on one device or many.
    """

    def __init__(self, sharding: str, batch_size: int):
        self.count = jax.local_device_count() if sharding in ("auto", "pmap") else 1
        self.pmap = sharding == "pmap" or self.count > 1
        if batch_size % self.count:
            raise InputError(
                f"batch_size {batch_size} does not divide by the {self.count} devices; "
                f"choose a multiple of {self.count}, or --sharding single"
            )

    def train_step(self, step: Callable, **options: Any) -> Callable:
        """Compiles `step(state, batch, **options)`; the given state's memory is reused for the new one."""
        if not self.pmap:
            return jax.jit(partial(step, **options), donate_argnums=0)
        compiled = jax.pmap(
            partial(step, **options, axis_name=AXIS),
            axis_name=AXIS,
            in_axes=(None, 0),
            out_axes=(None, None),
            donate_argnums=0,
        )
        return lambda state, batch: compiled(state, self._split(batch))

    def evaluate_step(self, loss_fn: Callable) -> Callable:
        """Compiles `evaluate_step` to (params, batch) -> (sums, predictions [B, ...])."""
        if not self.pmap:
            return jax.jit(partial(evaluate_step, loss_fn=loss_fn))
        compiled = jax.pmap(
            partial(evaluate_step, loss_fn=loss_fn, axis_name=AXIS),
            axis_name=AXIS,
            in_axes=(None, 0),
            out_axes=(None, 0),
        )

        def run(params: Any, batch: Arrays) -> Any:
            sums, predictions = compiled(params, self._split(batch))
            return sums, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), predictions)

        return run

    def _split(self, batch: Arrays) -> Arrays:
        return {name: x.reshape(self.count, -1, *x.shape[1:]) for name, x in batch.items()}
