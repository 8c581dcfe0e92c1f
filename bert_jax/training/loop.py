"""The loop that every kind of run shares."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax import flops
from bert_jax.config import Experiment
from bert_jax.data.batch import Arrays
from bert_jax.data.batches import prefetch
from bert_jax.devices import Devices, WrappedStep
from bert_jax.errors import InputError
from bert_jax.metrics import lower_is_better
from bert_jax.runs import layout
from bert_jax.runs.checkpoint import Checkpoints
from bert_jax.runs.workdir import Workdir, write_json
from bert_jax.runtime import is_first_host, set_up
from bert_jax.training import optimizer
from bert_jax.training.evaluate import Evaluation, add, divide, evaluate, mean_figures, over_seeds
from bert_jax.training.progress import Progress, Stop, Trace
from bert_jax.training.run import Run, initial_state, resolve
from bert_jax.training.step import TrainState, evaluate_step, several_steps, train_step


def train(
    experiment: Experiment,
    workdir: str | Path,
    *,
    profile: tuple[int, int] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Runs `experiment` in `workdir`, or continues it there exactly, and returns what result.json holds.

    With several seeds, each has a workdir of its own in `workdir`, like that of a run with this seed alone, and what is
    returned, and kept as seeds.json, is {"step", "metrics": means, "spread": standard deviations, "runs": all}.

    Args:
      profile: first and last step of a trace by `jax.profiler`, written to the workdir's folder `profile`.
      say: takes what a person should read, on the first host alone.

    Raises:
      InputError: the experiment, its data or the workdir is not usable; what the workdir held is untouched. Or
        training could not go on: after a full disk or a lost file it continues, once that is mended, from the last
        checkpoint.
    """
    set_up()
    first, folder = is_first_host(), Path(workdir)
    seeds = range(experiment.seed, experiment.seed + experiment.seeds)
    if not seeds:
        raise InputError(f"seeds: {experiment.seeds} must be at least 1")
    if experiment.patience and not experiment.keep_best:
        raise InputError("patience: name the figure that should get better in keep_best, such as loss")
    if experiment.seeds > 1 and (folder / layout.EXPERIMENT).exists():
        raise InputError(f"{folder}: holds a run with one seed; use another --workdir")
    paths = [folder] if experiment.seeds == 1 else [folder / layout.seed_run(seed) for seed in seeds]
    try:
        with ExitStack() as stack:
            places = [stack.enter_context(Workdir(path, writes=first)) for path in paths]
            saved = all(place.latest_step() is not None for place in places)
            run = resolve(replace(experiment, seeds=1), places[0] if saved else None)
            runs = [replace(run, experiment=replace(run.experiment, seed=seed)) for seed in seeds]
            for one, place in zip(runs, places, strict=True):
                place.claim(one.experiment, one.tokenizer)
            loop = Loop(runs, places, say if first else lambda _: None)
            for place in places:
                place.record_environment(loop.start, loop.devices.describe())
            results = loop.run(profile)
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: {error.strerror or error}; mend that and give the same command "
            "again: it goes on from the last checkpoint"
        ) from error
    if experiment.seeds == 1:
        return results[0]
    step = min(result.get("step", 0) for result in results)
    found = {"step": step, **over_seeds({str(s): r.get("metrics", {}) for s, r in zip(seeds, results, strict=True)})}
    if first:
        write_json(folder / layout.SEEDS, found)
    return found


class InterruptedEvaluationError(Exception):
    """An evaluation was cut short, because the run is to stop."""


class Member:
    """One seed of a run: its weights, its batches, its workdir, and how far it is."""

    def __init__(self, run: Run, place: Workdir, devices: Devices, say: Callable[[str], None]):
        e = run.experiment
        self.experiment, self.place, self.devices, self.say = e, place, devices, say
        self.batches = run.task.train_batches(
            batch_size=e.batch_size,
            steps=e.steps,
            seed=e.seed,
            multiple=devices.count * e.microbatches,
            host=devices.host,
            hosts=devices.hosts,
        )
        self.checkpoints = Checkpoints(place.checkpoints, e.keep_checkpoints)
        self.best = Checkpoints(place.best, keep=1) if e.keep_best else None
        # Sums since the last line of figures, and totals since the start: saved with each checkpoint, so that a
        # continued run writes the very lines that an uninterrupted one would.
        self.meta: dict[str, Any] = {
            "losses": {},
            "metrics": {},
            "tokens": 0,
            "flops": 0,
            "seconds": 0.0,
            "skipped_in_a_row": 0,
            "evaluated": 0,  # the last step that was
            "best": None,  # (step, figure) of the best evaluation, with keep_best
            "waited": 0,  # evaluations since then
        }
        self.run = run

    def begin(self, step: int | None) -> None:
        """Takes the state at `step`, the latest checkpoint that all seeds have, or None to start."""
        # 1. A checkpoint in this workdir: go on from there, exactly.
        # 2. `init_from`: its encoder and every head that fits (in `initial_state`).
        # 3. Nothing: random.
        self.start = step or 0
        if step is None:
            self.state = initial_state(self.run, self.devices, self.say)
            return
        like = self.devices.shapes(
            jax.eval_shape(lambda: initial_state(replace(self.run, source=None), self.devices, print))
        )
        params, opt_state, self.meta = self.checkpoints.restore(step, like.params, like.opt_state)
        self.say(f"Continuing {self.place.path} at step {step} of {self.experiment.steps}")
        number, key = self.devices.make(lambda: (jnp.int32(step), jax.random.key(self.experiment.seed)))
        self.state = TrainState(step=number, params=params, opt_state=opt_state, key=key, optimizer=like.optimizer)

    @property
    def stopped(self) -> bool:
        """Whether its patience is at an end."""
        return 0 < self.experiment.patience <= self.meta["waited"]

    def add(self, step: int, sums: Any, operations: int) -> None:
        """Adds the sums of one step to those that are not written yet."""
        add(self.meta["losses"], sums["losses"])
        add(self.meta["metrics"], sums["metrics"])
        self.meta["tokens"] += int(sums["tokens"])
        self.meta["flops"] += operations
        self.meta["skipped_in_a_row"] += 1
        if not sums["metrics"]["skipped"].sum:
            self.meta["skipped_in_a_row"] = 0
        if self.meta["skipped_in_a_row"] >= self.experiment.max_skipped:
            self._give_up(step)

    def _give_up(self, step: int) -> None:
        self.checkpoints.close()
        batch = self.place.write_batch(step, self.batches(step - 1))
        good = self.checkpoints.latest()
        raise InputError(
            f"step {step}: the loss or its gradient was not finite in {self.meta['skipped_in_a_row']} steps in a row, "
            f"and nothing was learned from them; the batch of this step is in {batch}; the last good checkpoint is "
            + (f"that of step {good} in {self.place.checkpoints}" if good else "none: no step was saved before")
            + "; look at that batch, or start another --workdir with a lower optimizer.learning_rate"
        )

    def log(self, step: int, learning_rate: float, speed: dict[str, float]) -> dict[str, float]:
        """Writes the figures of the steps since the last call, and returns them."""
        self.checkpoints.check()
        losses = divide(self.meta["losses"])
        figures = {"loss": sum(losses.values()), **losses, **divide(self.meta["metrics"])}
        figures["skipped"] = self.meta["metrics"]["skipped"][0]
        figures["learning_rate"] = learning_rate
        self.meta["losses"], self.meta["metrics"] = {}, {}
        self.place.write_figures(step, "train", figures)
        self.place.write_speed(step, self.meta["seconds"], speed)
        return figures

    def keep(self, step: int, found: Evaluation) -> None:
        """Writes an evaluation to the workdir and, where it is the best, keeps the weights."""
        cost = {"tokens": self.meta["tokens"], "seconds": round(self.meta["seconds"], 3), "flops": self.meta["flops"]}
        kept: dict[str, Any] = found._asdict()
        if self.best is not None:
            value = self._figure(found.metrics)
            self.meta["waited"] += 1
            if self.meta["best"] is None or value > self.meta["best"][1]:
                self.meta["best"], self.meta["waited"] = (step, value), 0
                self.best.keep(step, self.state.params)
            else:
                kept = {name: x for name, x in (self.place.result() or {}).items() if name in kept}
            kept |= {"best_step": self.meta["best"][0], "stopped_early": self.stopped}
        self.place.write_result({"step": step, **cost} | kept)
        self.meta["evaluated"] = step

    def _figure(self, metrics: dict[str, float]) -> float:
        """What `keep_best` names, the larger the better."""
        name = self.experiment.keep_best
        if name not in metrics:
            raise InputError(f"keep_best: the evaluation has no figure {name!r}; it has {', '.join(metrics) or 'none'}")
        return -metrics[name] if lower_is_better(name) else metrics[name]

    def save(self, step: int) -> None:
        """Saves all that it takes to go on from `step`."""
        self.checkpoints.save(step, self.state.params, self.state.opt_state, self.meta)

    def close(self) -> None:
        """Waits until everything is written."""
        self.checkpoints.close()
        if self.best is not None:
            self.best.close()


def stack_seeds(several: WrappedStep, states: Sequence[TrainState], batches: Sequence[Arrays]) -> Arrays | None:
    """Returns the batches of several seeds as one batch for `several`, or None where seeds take their steps in turn.

    At once is faster on accelerators, if memory allows. Batches of different shapes are not padded to one shape: with
    other shapes a seed gets other dropout than in a run of its own.
    """
    shapes = {tuple(x.shape for x in batch.values()) for batch in batches}
    if len(states) == 1 or len(shapes) > 1 or not several.devices.parallel:
        return None
    stacked = {name: np.stack([batch[name] for batch in batches], axis=1) for name in batches[0]}
    return stacked if several.fits(tuple(states), stacked) else None


class Loop:
    """The loop of a run with one seed or several: steps, figures, evaluations and checkpoints, each when it is due."""

    def __init__(self, runs: Sequence[Run], places: Sequence[Workdir], say: Callable[[str], None]):
        e = runs[0].experiment
        self.experiment, self.task, self.say = e, runs[0].task, say
        self.devices = Devices(e.sharding, e.batch_size, e.fsdp)
        if e.batch_size % (self.devices.count * e.microbatches):
            raise InputError(
                f"microbatches: {e.microbatches} does not divide the {e.batch_size // self.devices.count} rows of each "
                "device; choose a divisor"
            )
        self.members = [
            Member(run, place, self.devices, say if run is runs[0] else lambda _: None)
            for run, place in zip(runs, places, strict=True)
        ]
        self.eval_batches = self.task.eval_batches(batch_size=e.batch_size)
        self.schedule = optimizer.learning_rate(e.optimizer, e.steps)
        self.start = self._begin()
        assert e.model is not None
        frozen = optimizer.frozen(self.members[0].state.params, e.optimizer, e.model)
        options = {"loss_fn": self.task.loss_fn, "microbatches": e.microbatches, "frozen": frozen}
        self.compiled = self.devices.wrap(train_step, **options)
        self.together = self.devices.wrap(several_steps, **options)
        self.compiled_eval = self.devices.wrap(evaluate_step, returns_state=False, loss_fn=self.task.loss_fn)

    def _begin(self) -> int:
        """Gives every seed its state, and returns the step they are at: the last that all still running ones saved."""
        for member in self.members:
            member.begin(member.checkpoints.latest())
        running = self._active() or self.members
        start = max(set.intersection(*(set(member.checkpoints.steps()) for member in running)), default=0)
        for member in running:
            if member.start != start:
                member.begin(start or None)
        return start

    def run(self, profile: tuple[int, int] | None = None) -> list[dict[str, Any]]:
        """Takes the steps that are left, and returns each seed's result; `profile` as in `train`."""
        e, step, place = self.experiment, self.start, self.members[0].place
        if all(self._finished(member, step) for member in self.members):
            self.say(f"{place.path}: finished already, at step {step}")
            return [member.place.result() or {} for member in self.members]
        for member in self.members:
            member.place.rewind(step, member.meta["evaluated"])
        pending: list[Any] = []  # figures still on the device: reading them at once would make it wait for us
        with Stop() as stop, Progress(step, e.steps, self.say) as progress, Trace(place.path, profile) as trace:
            last = e.steps
            # An evaluation that was cut short when the run was stopped comes before the next step.
            if self._due(e.eval_every, step) and any(member.meta["evaluated"] < step for member in self.members):
                last = last if self._evaluate(step, progress, stop) else step
            for batches in prefetch(self._batches, step, last):
                step += 1
                active = self._active()
                trace.before(step)
                sizes = [self._size(batches[member.experiment.seed]) for member in active]
                pending.append((step, active, self._step(active, batches), sizes))
                trace.after(step, active[0].state)
                due_log, due_eval = self._due(e.log_every, step), self._due(e.eval_every, step)
                if due_log or due_eval or len(pending) >= 100:
                    self._collect(pending, progress)
                elif progress.due:  # seldom enough that waiting for the device costs nothing
                    self._collect(pending, progress)
                    progress.sign(f"step {step}/{e.steps}")
                if due_log:
                    self._log(step, progress)
                if due_eval:
                    self._evaluate(step, progress, stop)
                stopping = self._stopping(step, stop) or not self._active()
                if stopping or self._due(e.checkpoint_every, step):
                    self._collect(pending, progress)
                    for member in active:
                        member.save(step)
                if stopping:
                    break
        for member in self.members:
            member.close()
        if not all(self._finished(member, step) for member in self.members):
            self.say(f"Stopped at step {step} of {e.steps}; the same command goes on from there")
        return [member.place.result() or {} for member in self.members]

    def _active(self) -> list[Member]:
        return [member for member in self.members if not member.stopped]

    def _finished(self, member: Member, step: int) -> bool:
        result = member.place.result()
        return member.stopped or (step == self.experiment.steps and result is not None and result["step"] == step)

    def _batches(self, step: int) -> dict[int, Arrays]:
        """The batch of each seed that has not stopped."""
        return {member.experiment.seed: member.batches(step) for member in self._active()}

    def _step(self, active: Sequence[Member], batches: dict[int, Arrays]) -> list[Any]:
        """Takes a step with each seed and returns its sums: in one program where memory allows, else in turn."""
        mine = [batches[member.experiment.seed] for member in active]
        together = stack_seeds(self.together, [member.state for member in active], mine)
        if together is not None:
            states, found = self.together(tuple(member.state for member in active), together)
            for member, state in zip(active, states, strict=True):
                member.state = state
            return found
        found = []
        for member, batch in zip(active, mine, strict=True):
            member.state, sums = self.compiled(member.state, batch)
            found.append(sums)
        return found

    def _due(self, every: int, step: int) -> bool:
        return step == self.experiment.steps or (every > 0 and step > 0 and step % every == 0)

    def _stopping(self, step: int, stop: Stop) -> bool:
        # Hosts hear of the signal at different steps; asking all of them costs a wait, so it is done now and then.
        if self.devices.hosts == 1:
            return stop.requested
        return step % 10 == 0 and self.devices.any_host(stop.requested)

    def _size(self, batch: Arrays) -> tuple[int, int]:
        """Positions of the whole batch, and operations to compute it."""
        assert self.experiment.model is not None
        hosts = self.devices.hosts
        return hosts * batch["sequence_ids"].size, hosts * flops.training_step(self.experiment.model, batch)

    def _collect(self, pending: list[Any], progress: Progress) -> None:
        for step, members, sums, sizes in pending:
            for member, found, (slots, operations) in zip(members, jax.device_get(sums), sizes, strict=True):
                member.add(step, found, operations)
                progress.advance(step, int(found["tokens"]), slots, operations)
        pending.clear()
        active, seconds = self._active() or self.members, progress.lap()
        for member in active:
            member.meta["seconds"] += seconds / len(active)

    def _log(self, step: int, progress: Progress) -> None:
        measured = progress.speed(self.devices.peak_flops) | {"memory_bytes": self.devices.memory()}
        speed = {name: x for name, x in measured.items() if x is not None}
        figures = [member.log(step, float(self.schedule(step - 1)), speed) for member in self._active()]
        progress.show(step, mean_figures(figures))

    def _evaluate(self, step: int, progress: Progress, stop: Stop) -> bool:
        """Evaluates the seeds that were not yet, and returns whether it came to its end."""

        def watch(done: int, total: int) -> None:
            progress.evaluating(done, total)
            if stop.requested and self.devices.hosts == 1:
                raise InterruptedEvaluationError

        figures = []
        for member in self._active():
            if member.meta["evaluated"] == step:
                continue
            found = Evaluation({}, {}, {}, [])
            if self.eval_batches is not None:
                try:
                    found = evaluate(self.task, self.compiled_eval, member.state.params, self.eval_batches, watch)
                except InterruptedEvaluationError:
                    return False
                member.place.write_figures(step, "eval", found.metrics)
            member.keep(step, found)
            figures.append(found.metrics)
        if figures:
            progress.evaluated(step, mean_figures(figures))
        return True
