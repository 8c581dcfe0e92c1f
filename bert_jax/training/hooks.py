"""The hooks of every run: a profile, figures, evaluations, progress and checkpoints, each with its own period."""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import jax

from bert_jax import files
from bert_jax.devices import Devices
from bert_jax.errors import InputError
from bert_jax.metrics import lower_is_better
from bert_jax.runs import layout
from bert_jax.tasks import Evaluation
from bert_jax.training import optimizer
from bert_jax.training.evaluate import divide, evaluate, figure_names, mean_figures
from bert_jax.training.loop import Hook, Loop, SeedRun
from bert_jax.training.progress import ProgressBar
from bert_jax.training.run import Run
from bert_jax.training.step import evaluate_step


class Profile(Hook):
    """Records a trace by `jax.profiler` of the steps from `steps[0]` to `steps[1]`; None = of no step.

    The trace also covers what the hooks do between these steps. Use it in a `with` statement: that ends the trace after
    an error.
    """

    def __init__(self, folder: files.Path, steps: tuple[int, int] | None):
        self._folder = folder / layout.PROFILE
        self._first, self._last = steps or (1, 0)
        self._running = False

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        if self._running:
            jax.profiler.stop_trace()

    def begin(self, loop: Loop, step: int) -> None:
        """Starts the trace if it includes the next step."""
        if not self._running and self._first <= step + 1 <= self._last:
            self._running = True
            jax.profiler.start_trace(files.local(self._folder))

    def __call__(self, loop: Loop, step: int) -> None:
        """Ends the trace after its last step, or starts it before its first."""
        if self._running and step >= self._last:
            jax.block_until_ready([seed_run.state for seed_run in loop.active])
            jax.profiler.stop_trace()
            self._running = False
        self.begin(loop, step)


class Figures(Hook):
    """Writes losses, metrics and speed of the steps since the last time."""

    def __init__(self, run: Run, bar: ProgressBar):
        self.every = run.experiment.log_every
        self._learning_rate = optimizer.learning_rate(run.experiment.optimizer, run.experiment.steps)
        self._bar = bar

    def __call__(self, loop: Loop, step: int) -> None:
        """Writes a line to each seed's metrics.jsonl and speed.jsonl, and shows the mean over seeds."""
        loop.collect()
        measured = loop.throughput.figures(loop.devices.peak_flops) | {"memory_bytes": loop.devices.memory()}
        speed = {name: x for name, x in measured.items() if x is not None}
        learning_rate = float(self._learning_rate(step - 1))
        figures = [self._write(seed_run, step, learning_rate, speed) for seed_run in loop.active]
        self._bar.show(step, mean_figures(figures), speed)

    def _write(self, seed_run: SeedRun, step: int, learning_rate: float, speed: dict[str, float]) -> dict[str, float]:
        seed_run.checkpoints.check()
        meta = seed_run.meta
        losses = divide(meta["losses"])
        figures = {"loss": sum(losses.values()), **losses, **divide(meta["metrics"])}
        figures["skipped"] = meta["metrics"]["skipped"][0]
        figures["learning_rate"] = learning_rate
        meta["losses"], meta["metrics"] = {}, {}
        seed_run.workdir.write_figures(step, "train", figures)
        seed_run.workdir.write_speed(step, meta["seconds"], speed)
        return figures


class InterruptedEvaluationError(Exception):
    """An evaluation was cut short because the run is to stop."""


class Evaluate(Hook):
    """Evaluates each seed and, with `keep_best`, saves the weights of its best evaluation.

    An evaluation that was interrupted comes first when the run continues, before the next step.
    """

    def __init__(self, run: Run, devices: Devices, bar: ProgressBar):
        self.every = run.experiment.eval_every
        self._batches = run.task.eval_batches(batch_size=run.experiment.rows_evaluated)
        self._step = devices.wrap(evaluate_step, returns_state=False, loss_fn=run.task.loss_fn)
        self._bar = bar
        for note in self._batches.notes if self._batches is not None else ():
            bar.say(note)

    def begin(self, loop: Loop, step: int) -> None:
        """Evaluates the seeds whose evaluation at `step` was interrupted; checks `keep_best` before the first step."""
        if step == 0 and loop.experiment.keep_best:
            params = loop.seed_runs[0].state.params
            names = figure_names(loop.task, params, self._batches) if self._batches is not None else []
            if loop.experiment.keep_best not in names:
                raise _unknown_figure(loop.experiment.keep_best, names)
        if loop.due(self.every, step):
            self._evaluate(loop, step)

    def __call__(self, loop: Loop, step: int) -> None:
        """Evaluates all seeds that took this step."""
        loop.collect()
        self._evaluate(loop, step)

    def _evaluate(self, loop: Loop, step: int) -> None:
        def watch(done: int, total: int) -> None:
            self._bar.evaluating(done, total)
            if loop.stop_requested and loop.devices.hosts == 1:
                raise InterruptedEvaluationError

        metrics = []
        for seed_run in loop.active:
            if seed_run.meta["evaluated"] == step:
                continue
            evaluation = Evaluation({}, {}, {}, [])
            if self._batches is not None:
                try:
                    evaluation = evaluate(
                        loop.task, partial(self._step.over, seed_run.state.params), self._batches, watch
                    )
                except InterruptedEvaluationError:
                    return
                seed_run.workdir.write_figures(step, "eval", evaluation.metrics)
            record_evaluation(seed_run, step, evaluation)
            metrics.append(evaluation.metrics)
        if metrics:
            self._bar.evaluated(step, mean_figures(metrics))
            loop.throughput.restart()


def record_evaluation(seed_run: SeedRun, step: int, evaluation: Evaluation) -> None:
    """Writes an evaluation to the seed's result.json and, if it is the best with `keep_best`, saves the weights.

    With `keep_best`, result.json holds the best evaluation. A figure that is not finite is never the best; as long as
    there is none, `best_step` is null.
    """
    meta = seed_run.meta
    cost = {"tokens": meta["tokens"], "seconds": round(meta["seconds"], 3), "flops": meta["flops"]}
    result: dict[str, Any] = evaluation._asdict()
    if seed_run.best is not None:
        value = _figure(seed_run.experiment.keep_best, evaluation.metrics)
        meta["waited"] += 1
        if math.isfinite(value) and (meta["best"] is None or value > meta["best"][1]):
            meta["best"], meta["waited"] = (step, value), 0
            seed_run.best.save_once(step, seed_run.state.params)
        elif meta["best"] is not None:
            best = seed_run.workdir.result() or {}
            result = {name: value for name, value in best.items() if name in result}
        result |= {"best_step": meta["best"] and meta["best"][0], "stopped_early": seed_run.stopped}
    seed_run.workdir.write_result({"step": step, **cost} | result)
    meta["evaluated"] = step


def _figure(name: str, metrics: dict[str, float]) -> float:
    """Returns the figure that `keep_best` names, negated where lower is better."""
    if name not in metrics:
        raise _unknown_figure(name, metrics)
    return -metrics[name] if lower_is_better(name) else metrics[name]


def _unknown_figure(name: str, names: Iterable[str]) -> InputError:
    return InputError(f"keep_best: the evaluation has no figure {name!r}; it has {', '.join(names) or 'none'}")


class ShowProgress(Hook):
    """Moves the progress bar and, while steps are slow, writes a line from time to time."""

    def __init__(self, bar: ProgressBar):
        self._bar = bar

    def __call__(self, loop: Loop, step: int) -> None:
        """Shows the last step whose figures were read."""
        if loop.pending and self._bar.due:  # seldom enough that waiting for the device costs nothing
            loop.collect()
            self._bar.heartbeat(f"step {step}/{loop.experiment.steps}")
        self._bar.advance(loop.collected)


class RecordEnd(Hook):
    """Records how the run ended: at which step, whether it was finished, and which signal stopped it."""

    every = 0

    def __init__(self) -> None:
        self.step = 0
        self.finished = True  # also if the run was finished before, and no hook is called
        self.signal: int | None = None

    def end(self, loop: Loop, step: int) -> None:
        """Reads this from the loop."""
        self.step, self.finished, self.signal = step, loop.finished(step), loop.stop_signal


class SaveCheckpoints(Hook):
    """Saves a checkpoint of each seed that took the step; also when the run is stopped."""

    def __init__(self, every: int):
        self.every = every

    def begin(self, loop: Loop, step: int) -> None:
        """Takes `step` as saved: the run continues from its checkpoint, or starts."""
        self._saved = step

    def __call__(self, loop: Loop, step: int) -> None:
        """Saves every seed that took this step."""
        loop.collect()
        for seed_run in loop.active:
            seed_run.save(step)
        self._saved = step

    def end(self, loop: Loop, step: int) -> None:
        """Saves the step at which the run was stopped."""
        if step > self._saved:
            self(loop, step)
