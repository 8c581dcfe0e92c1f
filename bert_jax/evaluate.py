"""Metrics of a task on a data set."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bert_jax.data.pipeline import Arrays, prefetch
from bert_jax.losses import Mean
from bert_jax.tasks import Batches, Task

Sums = dict[str, tuple[float, float]]


def add(sums: Sums, more: dict[str, Mean]) -> None:
    """Adds (sum, count) pairs of one batch to `sums`, in float64 on the host."""
    for name, mean in more.items():
        old = sums.get(name, (0.0, 0.0))
        sums[name] = (old[0] + float(mean.sum), old[1] + float(mean.count))


def divide(sums: Sums) -> dict[str, float]:
    """The means of `sums`; a figure that nothing counted towards is left out."""
    return {name: total / count for name, (total, count) in sums.items() if count}


def evaluate(
    task: Task,
    step: Callable,
    params: Any,
    batches: Batches,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, float], Arrays]:
    """Runs all of `batches` once.

    Args:
      step: `Devices.evaluate_step` of the task's loss function.
      progress: called with (batches done, batches in all).

    Returns:
      ({figure: value}, predictions of every example in its original order); "loss" is the objective.
    """
    losses: Sums = {}
    metrics: Sums = {}
    parts: list[Arrays] = []
    for number, batch in enumerate(prefetch(batches, 0, batches.num_steps)):
        (batch_losses, batch_metrics), predictions = jax.device_get(step(params, batch))
        add(losses, batch_losses)
        add(metrics, batch_metrics)
        parts.append(predictions)
        progress(number + 1, batches.num_steps)
    predictions = _in_order(parts, batches)
    means = divide(losses)
    return {"loss": sum(means.values()), **means, **divide(metrics), **task.score(predictions, batches)}, predictions


def _in_order(parts: list[Arrays], batches: Any) -> Arrays:
    """Puts the rows of all batches back where the data set has them."""
    if not parts or not parts[0]:
        return {}
    rows = np.concatenate([batches.rows(step) for step in range(batches.num_steps)])
    present = rows >= 0
    ordered = {}
    for name in parts[0]:
        values = np.concatenate([part[name] for part in parts])[present]
        ordered[name] = np.empty_like(values)
        ordered[name][rows[present]] = values
    return ordered


def examples_of(task: Task, predictions: Arrays, batches: Any, count: int = 10) -> list[dict[str, Any]]:
    """The first few examples, as given and as answered; none where the task answers nothing."""
    if not predictions:
        return []
    rows = batches.table[:count]
    answers = task.decode({name: array[:count] for name, array in predictions.items()}, rows)
    return [{"input": row.values, **answer} for row, answer in zip(rows, answers, strict=True)]
