"""The steps that devices run: one training step for every task, several of it at once, and one for evaluation."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
from flax import struct

from bert_jax.losses import Joint, Keys, Mean, Outcome

if TYPE_CHECKING:  # evaluation and prediction need no optimizer, which takes long to import
    import optax

LossFunction = Callable[[Any, dict[str, jax.Array], Keys], Outcome]
Counts = Callable[[dict[str, jax.Array]], dict[str, jax.Array]]

_SAMPLE = 0x5A  # folded into a key to get that of sampling


class TrainState(struct.PyTreeNode):
    """What changes from step to step, and the optimizer that changes it."""

    step: jax.Array  # int32 []: steps taken
    params: Any  # nested dicts of arrays in param_dtype
    opt_state: Any
    key: jax.Array  # the run's key; each step folds its number in
    optimizer: "optax.GradientTransformation" = struct.field(pytree_node=False)


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    loss_fn: LossFunction,
    counts: Counts,
    axis_name: str | None = None,
    microbatches: int = 1,
    frozen: Any = None,
    joint: Joint | None = None,
) -> tuple[TrainState, dict[str, dict[str, Mean]]]:
    """Takes one step: the only one there is, for pre-training, fine-tuning and distillation alike.

    Each loss is divided by its count over the global batch before the gradient is taken, so that the same rows give the
    same step however they are split. Where a loss or the gradient is not finite, only the step number changes.

    Args:
      batch: arrays [rows of this device, ...].
      loss_fn: (params, batch, keys) -> Outcome.
      counts: batch -> the count of each loss of `loss_fn`, from the batch alone.
      axis_name: the mapped axis to sum over, where the batch is split over devices.
      microbatches: parts of the batch, computed one after another; must divide the rows of this device.
      frozen: a bool for each parameter, True where no gradient is computed; None = a gradient for all. Nothing below
        the lowest parameter that learns is then part of the backward pass.
      joint: takes the part of `loss_fn` where a loss compares the rows of the global batch with each other.

    Returns:
      The new state, and {"losses": {name: Mean}, "metrics": {name: Mean}, "tokens": int32 []} over the global batch.
    """
    key = jax.random.fold_in(state.key, state.step)
    sample = jax.random.fold_in(key, _SAMPLE)
    if axis_name is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))

    def total(tree: Any) -> Any:
        return tree if axis_name is None else jax.lax.psum(tree, axis_name)

    divisors = {name: jnp.maximum(count, 1) for name, count in total(counts(batch)).items()}

    def of_outcome(outcome: Outcome) -> tuple[jax.Array, Any]:
        value = sum(loss.sum / divisors[name] for name, loss in outcome.losses.items())
        return cast(jax.Array, value), {"losses": outcome.losses, "metrics": outcome.metrics}

    def of_part(params: Any, part: dict[str, jax.Array], part_key: jax.Array) -> Any:
        """The outcome of some rows or, with a joint loss, their vectors."""
        if frozen is not None:
            params = jax.tree.map(lambda x, stays: jax.lax.stop_gradient(x) if stays else x, params, frozen)
        return (joint.vectors if joint else loss_fn)(params, part, Keys(part_key, sample))

    if joint is None:
        grads, sums = _gradient(lambda *part: of_outcome(of_part(*part)), state.params, batch, key, microbatches)
    else:
        grads, sums = _joint_gradient(joint, of_part, of_outcome, state.params, batch, key, microbatches, axis_name)
    grads, sums, tokens = total((grads, sums, jnp.count_nonzero(batch["sequence_ids"])))
    state, sums = _updated(state, grads, sums)
    return state, sums | {"tokens": tokens}


def _updated(state: TrainState, grads: Any, sums: Any) -> tuple[TrainState, Any]:
    """Returns the next state, and the sums with figures about the gradient; they are 0 where that is not finite."""
    norm = _norm(grads)
    finite = jnp.isfinite(norm) & jnp.isfinite(sum(loss.sum for loss in sums["losses"].values()))

    params, opt_state = _where(finite, partial(_changed, state.optimizer, grads), state.params, state.opt_state)
    sums = jax.tree.map(lambda x: jnp.where(finite, x, 0), sums)
    sums["metrics"] |= {
        "grad_norm": Mean(jnp.where(finite, norm, 0), finite.astype(jnp.float32)),
        "skipped": Mean(1 - finite.astype(jnp.float32), jnp.ones(())),
    }
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state), sums


def _where(finite: jax.Array, change: Callable, *same: Any) -> Any:
    """Returns change(*same) where `finite` is True, otherwise `same`.

    The form depends on the platform, here and nowhere else. A condition is the faster one on a CPU. On accelerators
    its results are new arrays, as large as parameters and optimizer state, which are then copied; a selection is part
    of the update.
    """

    def selected(*same: Any) -> Any:
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), change(*same), same)

    def conditional(*same: Any) -> Any:
        return jax.lax.cond(finite, change, lambda *same: same, *same)

    return jax.lax.platform_dependent(*same, cpu=conditional, default=selected)


def _norm(grads: Any) -> jax.Array:
    import optax

    return optax.tree.norm(grads)


def _changed(optimizer: "optax.GradientTransformation", grads: Any, params: Any, opt_state: Any) -> tuple[Any, Any]:
    """Returns the parameters and the optimizer's state after an update."""
    import optax

    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def _gradient(
    objective: Callable, params: Any, batch: dict[str, jax.Array], key: jax.Array, microbatches: int
) -> tuple[Any, Any]:
    """Returns the gradient and the sums of `objective` on the batch, each added up over its microbatches."""
    gradient = jax.grad(objective, has_aux=True)
    if microbatches == 1:
        return gradient(params, batch, key)
    parts, keys = _parts(batch, key, microbatches)
    shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], parts), key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def accumulate(so_far: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, so_far, gradient(params, *part)), None

    sums, _ = jax.lax.scan(accumulate, zeros, (parts, keys))
    return sums


def _parts(batch: dict[str, jax.Array], key: jax.Array, microbatches: int) -> tuple[dict[str, jax.Array], jax.Array]:
    """Returns the microbatches, arrays [microbatches, rows, ...], and a key for each."""
    # [rows] -> [rows / k, k] -> [k, rows / k]: each part keeps rows of every device, so nothing moves between them.
    parts = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, microbatches, *x.shape[1:]), 0, 1), batch)
    return parts, jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(microbatches))


def _joint_gradient(
    joint: Joint,
    vectors: Callable[[Any, dict[str, jax.Array], jax.Array], jax.Array],
    of_outcome: Callable[[Outcome], tuple[jax.Array, Any]],
    params: Any,
    batch: dict[str, jax.Array],
    key: jax.Array,
    microbatches: int,
    axis_name: str | None,
) -> tuple[Any, Any]:
    """Returns the gradient and the sums of a joint loss; the gradient is exact, however the rows are split.

    Three parts: the vectors of all rows, without a gradient of the model; the losses, and their gradient with respect
    to the vectors; then the gradient of the model, for which each of several microbatches computes its vectors again.

    Source: Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup".
    """
    if microbatches == 1:  # nothing needs to be computed twice
        mine, pull_back = jax.vjp(lambda params: vectors(params, batch, key), params)
    else:
        parts = jax.lax.map(lambda part: vectors(params, *part), _parts(batch, key, microbatches))
        mine = jnp.swapaxes(parts, 0, 1).reshape(-1, *parts.shape[2:])

    def compare(mine: jax.Array) -> tuple[jax.Array, Any]:
        rows = {name: batch[name] for name in joint.reads} | {"vectors": mine}
        everyone = rows
        if axis_name is not None:
            everyone = jax.lax.all_gather(rows, axis_name, tiled=True)
        return of_outcome(joint.outcome(rows, everyone))

    # The gradient of a gathered array is that of the losses on all devices.
    pulls, sums = jax.grad(compare, has_aux=True)(mine)
    if microbatches == 1:
        return pull_back(pulls)[0], sums

    def pulled(params: Any, part: dict[str, jax.Array], part_key: jax.Array) -> tuple[jax.Array, Any]:
        return jnp.sum(vectors(params, part, part_key) * part["pull"]), ()

    grads, _ = _gradient(pulled, params, batch | {"pull": pulls}, key, microbatches)
    return grads, sums


def several_steps(
    states: tuple[TrainState, ...], batch: dict[str, jax.Array], **options: Any
) -> tuple[tuple[TrainState, ...], list[Any]]:
    """Takes one step with each of several states at once, as `train_step` does; arrays are [rows, states, ...]."""
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *states)
    step: Any = partial(train_step, **options)
    stepped = jax.vmap(step, in_axes=(0, 1))(stacked, batch)

    def of_state(i: int) -> Any:
        return jax.tree.map(lambda array: array[i], stepped)

    parts = [of_state(i) for i in range(len(states))]
    return tuple(state for state, _ in parts), [sums for _, sums in parts]


def evaluate_step(
    params: Any, batch: dict[str, jax.Array], *, loss_fn: LossFunction, axis_name: str | None = None
) -> tuple[Any, dict[str, jax.Array]]:
    """Evaluates one batch: without dropout, and with the same key for sampling in every batch.

    Args:
      batch: arrays [rows of this device, ...].
      axis_name: the mapped axis to sum and gather over, where the batch is split over devices.

    Returns:
      ((losses, metrics), predictions) over the global batch: two dicts of Mean, and a dict of arrays [rows, ...].
    """
    outcome = loss_fn(params, batch, Keys(None, jax.random.fold_in(jax.random.key(0), _SAMPLE)))
    sums, predictions = (outcome.losses, outcome.metrics), outcome.predictions
    if axis_name is not None:
        gather = partial(jax.lax.all_gather, axis_name=axis_name, tiled=True)
        sums, predictions = jax.lax.psum(sums, axis_name), jax.tree.map(gather, predictions)
    return sums, predictions
