"""Metrics of a task on a data set."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from bert_jax.data.batch import Arrays
from bert_jax.data.batches import prefetch
from bert_jax.losses import Mean
from bert_jax.tasks import Batches, Evaluation, Task
from bert_jax.training.step import evaluate_step

Sums = dict[str, tuple[float, float]]
# Yields ((losses, metrics), predictions) for each of the batches, in order; such as `WrappedStep.over` with parameters.
Compute = Callable[[Iterable[Arrays]], Iterable[Any]]


def add(sums: Sums, more: dict[str, Mean]) -> None:
    """Adds (sum, count) pairs of one batch to `sums`, in float64 on the host."""
    for name, mean in more.items():
        old = sums.get(name, (0.0, 0.0))
        sums[name] = (old[0] + float(mean.sum), old[1] + float(mean.count))


def divide(sums: Sums) -> dict[str, float]:
    """Returns the means of `sums`; figures with count 0 are left out."""
    return {name: total / count for name, (total, count) in sums.items() if count}


def evaluate(
    task: Task,
    compute: Compute,
    batches: Batches,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Runs all of `batches` once and scores the predictions.

    Args:
      compute: what gives the results of `training.step.evaluate_step` with the task's loss function for each batch.
      progress: called with (batches done, batches in all).
    """
    losses, metrics, predictions = run(compute, batches, progress)
    means = divide(losses)
    evaluation = task.evaluate(predictions, batches)
    total = {"loss": sum(means.values())} if losses else {}
    sums = {**total, **means, **divide(metrics)}
    return evaluation._replace(metrics=sums | evaluation.metrics)


def figure_names(task: Task, params: Any, batches: Batches) -> list[str]:
    """Returns the names of the figures that `evaluate` gives, without running the model.

    Names may depend on the rows, but not on what is predicted: here that is 0 everywhere.
    """
    outputs: dict[Any, Any] = {}  # by the shapes of a batch: to trace the model takes time

    def blank(batch: Arrays) -> Any:
        shapes = tuple((name, x.shape) for name, x in batch.items())
        if shapes not in outputs:
            sums, predictions = jax.eval_shape(partial(evaluate_step, loss_fn=task.loss_fn), params, batch)
            ones = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), sums)  # a figure with count 0 is left out
            outputs[shapes] = ones, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), predictions)
        return outputs[shapes]

    return list(evaluate(task, partial(map, blank), batches).metrics)


def run(
    compute: Compute,
    batches: Batches,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Sums, Sums, Arrays]:
    """Runs all of `batches` once: (losses, metrics, predictions of every example in its original order)."""
    losses: Sums = {}
    metrics: Sums = {}
    parts: list[Arrays] = []
    made = prefetch(batches, 0, batches.num_steps)
    for (batch_losses, batch_metrics), predictions in compute(made):
        add(losses, batch_losses)
        add(metrics, batch_metrics)
        parts.append(predictions)
        progress(len(parts), batches.num_steps)
    return losses, metrics, _in_order(parts, batches)


def _in_order(parts: list[Arrays], batches: Any) -> Arrays:
    """Returns the predictions of all batches in the order of the data set; shorter rows are filled up with zeros."""
    if not parts or not parts[0]:
        return {}
    ordered: Arrays = {}
    for name, first in parts[0].items():
        shape = np.max([part[name].shape[1:] for part in parts], axis=0).astype(int)
        ordered[name] = np.zeros((batches.num_examples, *shape), first.dtype)
    for number, part in enumerate(parts):
        rows = batches.rows(number)
        for name, values in part.items():
            inside = tuple(slice(size) for size in values.shape[1:])
            ordered[name][(rows[rows >= 0], *inside)] = values[rows >= 0]
    return ordered


def mean_figures(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """Returns the means of the figures that every seed reports; None is a figure that is not finite."""
    names = [name for name in figures[0] if all(metrics.get(name) is not None for metrics in figures)]
    return {name: statistics.fmean(metrics[name] for metrics in figures) for name in names}


def over_seeds(runs: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Returns means and sample standard deviations over runs with different seeds, and the runs themselves."""
    figures = list(runs.values())
    means = mean_figures(figures)
    finite = [name for name, mean in means.items() if math.isfinite(mean)]
    spread = {name: statistics.stdev(metrics[name] for metrics in figures) for name in finite}
    return {"metrics": means, "spread": spread, "runs": runs}
