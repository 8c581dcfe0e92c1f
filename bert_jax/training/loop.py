"""The loop that takes the steps of a run, and the hooks that it calls between them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax import flops
from bert_jax.data.batch import Arrays
from bert_jax.data.batches import prefetch
from bert_jax.devices import Devices, WrappedStep
from bert_jax.errors import InputError
from bert_jax.runs.checkpoint import Checkpoints, load_state
from bert_jax.runs.workdir import Workdir
from bert_jax.training.evaluate import add
from bert_jax.training.progress import Stop, Throughput
from bert_jax.training.run import Run, batch_sizes, check_sizes, initial_state, random_states, step_options
from bert_jax.training.step import TrainState, several_steps, train_step

# Steps whose figures may stay on the device before the loop reads them.
MAX_PENDING = 100


class Hook:
    """Something that is done between steps. Subclasses override the methods that they need."""

    every: int = 1  # steps between two calls; 0 = only after the last step of the run

    def begin(self, loop: "Loop", step: int) -> None:
        """Is called once, when the run starts or continues, before `step` + 1 is taken and its batch is made."""

    def __call__(self, loop: "Loop", step: int) -> None:
        """Is called after each step that `every` divides, and after the last step of the run."""

    def end(self, loop: "Loop", step: int) -> None:
        """Is called once after the last step that this process takes, also if the run was stopped; not on an error."""


class SeedRun:
    """One seed of a run: its weights, its batches, its workdir and its figures so far."""

    def __init__(
        self,
        run: Run,
        workdir: Workdir,
        devices: Devices,
        random: Callable[[int], TrainState],
        say: Callable[[str], None],
    ):
        e = run.experiment
        self.experiment, self.workdir, self.seed, self.start = e, workdir, e.seed, 0
        self.first = run.branch.step if run.branch else 0  # the step before the first one that this run takes
        self._run, self._devices, self._random, self._say = run, devices, random, say
        batches = run.task.train_batches(
            batch_size=batch_sizes(e, e.steps),
            steps=e.steps,
            seed=e.seed,
            multiple=devices.count * e.compute.microbatches,
            host=devices.host,
            hosts=devices.hosts,
        )
        for note in batches.notes:
            say(note)
        self.batches: Callable[[int], Arrays] = batches
        self.checkpoints = Checkpoints(workdir.checkpoints, e.keep_checkpoints)
        self.best = Checkpoints(workdir.best, keep=1) if e.keep_best else None
        # Sums since the last line of figures, and totals since the start. They are saved with each checkpoint, so that
        # a continued run writes the same lines as an uninterrupted one.
        self.meta: dict[str, Any] = {
            "losses": {},
            "metrics": {},
            "tokens": 0,
            "flops": 0,
            "seconds": 0.0,
            "skipped_in_a_row": 0,
            "evaluated": 0,  # the last step that was evaluated
            "best": None,  # (step, figure) of the best evaluation, with keep_best
            "waited": 0,  # evaluations since then
        }

    def begin(self, step: int | None) -> None:
        """Sets the state: that of the checkpoint of `step`, or the first one if `step` is None."""
        # 1. A checkpoint in this workdir: continue from there, exactly.
        # 2. `branch_from`: continue from that checkpoint, exactly, with this run's schedule.
        # 3. `init_from`: its encoder and every head that fits (in `initial_state`).
        # 4. Otherwise random weights.
        branch = self._run.branch
        self.start = step or self.first
        if step is None and branch is None:
            self.state = initial_state(self._run, self._devices, self._random, self._say)
            return
        like = self._devices.shapes(jax.eval_shape(self._random, self.seed))
        if step is None and branch is not None:
            step, where = branch.step, self.experiment.branch_from
            params, opt_state, self.meta = load_state(branch.checkpoints, step, like.params, like.opt_state)
        else:
            assert step is not None
            where = str(self.workdir.path)
            params, opt_state, self.meta = self.checkpoints.restore(step, like.params, like.opt_state)
        self._say(f"Continuing {where} at step {step} of {self.experiment.steps}")
        number, key = self._devices.make(lambda: (jnp.int32(step), jax.random.key(self.seed)))
        self.state = TrainState(step=number, params=params, opt_state=opt_state, key=key, optimizer=like.optimizer)

    @property
    def stopped(self) -> bool:
        """Whether `patience` evaluations in a row brought no improvement."""
        return 0 < self.experiment.patience <= self.meta["waited"]

    def add(self, step: int, sums: Any, operations: int) -> None:
        """Adds the sums of one step to those of the steps before it.

        Raises:
          InputError: this is the last of `max_skipped` steps in a row that were skipped.
        """
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
        batch = self.workdir.write_batch(step, self.batches(step - 1))
        good = self.checkpoints.latest()
        last = "none was saved before" if good is None else f"that of step {good} in {self.workdir.checkpoints}"
        raise InputError(
            f"step {step}: the loss or its gradient was not finite in {self.meta['skipped_in_a_row']} steps in a row, "
            f"and these steps changed no weights; the batch of this step is in {batch}; the last good checkpoint: "
            f"{last}; look at that batch, or start another --workdir with a lower optimizer.learning_rate"
        )

    def save(self, step: int) -> None:
        """Saves everything that continuing from `step` needs; the figures up to `step` are in the workdir before."""
        self.workdir.sync()
        self.checkpoints.save(step, self.state.params, self.state.opt_state, self.meta)

    def close(self) -> None:
        """Waits until all checkpoints are written."""
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
    """The loop of a run with one seed or several.

    Hooks may read its attributes: `experiment`, `task`, `devices`, `seed_runs` (all of them), `active` (the seed runs
    that took the last step), `throughput`, `pending` and `collected`.
    """

    def __init__(self, runs: Sequence[Run], workdirs: Sequence[Workdir], devices: Devices, say: Callable[[str], None]):
        e = runs[0].experiment
        check_sizes(e, devices.count)
        self.experiment, self.task, self.devices, self._say = e, runs[0].task, devices, say
        random = random_states(runs[0], devices)
        self.seed_runs = [
            SeedRun(run, workdir, devices, random, say if run is runs[0] else lambda _: None)
            for run, workdir in zip(runs, workdirs, strict=True)
        ]
        self.start = self._begin()
        self.active = self._running()
        self.throughput = Throughput()
        self.pending: list[Any] = []  # steps whose figures are still on the device: reading them waits for it
        self.collected = self.start  # the last step whose figures were read
        options = step_options(runs[0], self.seed_runs[0].state.params)
        self._single = devices.wrap(train_step, **options)
        self._several = devices.wrap(several_steps, **options)
        self._stop = Stop()

    def _begin(self) -> int:
        """Sets the state of every seed, and returns their step: the last one that all running seeds have saved."""
        for seed_run in self.seed_runs:
            seed_run.begin(seed_run.checkpoints.latest())
        running = self._running()
        if not running:  # every seed has run out of patience, each at a step of its own
            return max(seed_run.start for seed_run in self.seed_runs)
        saved = set.intersection(*(set(seed_run.checkpoints.steps()) for seed_run in running))
        start = max(saved, default=running[0].first)
        for seed_run in running:
            if seed_run.start != start:
                seed_run.begin(start if saved else None)
        return start

    def run(self, hooks: Sequence[Hook]) -> list[dict[str, Any]]:
        """Takes the steps that are left, calls the hooks that are due after each, and returns the seeds' results."""
        step, steps = self.start, self.experiment.steps
        for seed_run in self.seed_runs:
            seed_run.workdir.rewind(step, seed_run.meta["evaluated"])
        with self._stop:
            self.throughput.restart()
            for hook in hooks:
                hook.begin(self, step)
            for batches in prefetch(self._batches, step, steps):
                if self._stopping(step):
                    break
                step += 1
                self.active = self._running()
                mine = [batches[seed_run.seed] for seed_run in self.active]
                stacked = stack_seeds(self._several, [seed_run.state for seed_run in self.active], mine)
                if stacked is None:
                    sums = []
                    for seed_run, batch in zip(self.active, mine, strict=True):
                        seed_run.state, seed_sums = self._single(seed_run.state, batch)
                        sums.append(seed_sums)
                else:
                    states, sums = self._several(tuple(seed_run.state for seed_run in self.active), stacked)
                    for seed_run, state in zip(self.active, states, strict=True):
                        seed_run.state = state
                self.pending.append((step, self.active, sums, [self._size(batch) for batch in mine]))
                if len(self.pending) >= MAX_PENDING:
                    self.collect()
                for hook in hooks:
                    if self.due(hook.every, step):
                        hook(self, step)
            for hook in hooks:
                hook.end(self, step)
        for seed_run in self.seed_runs:
            seed_run.close()
        if not self.finished(step):
            self._say(f"Stopped at step {step} of {steps}; the same command continues from there")
        return self.results()

    def finished(self, step: int) -> bool:
        """Returns whether at `step` every seed has stopped, or has taken and evaluated the last step."""
        at_end = step == self.experiment.steps
        results = zip(self.seed_runs, self.results(), strict=True)
        return all(seed_run.stopped or (at_end and result.get("step") == step) for seed_run, result in results)

    def results(self) -> list[dict[str, Any]]:
        """Returns what each seed's result.json holds."""
        return [seed_run.workdir.result() or {} for seed_run in self.seed_runs]

    def due(self, every: int, step: int) -> bool:
        """Returns whether something with the period `every` is due after `step`."""
        return step == self.experiment.steps or (every > 0 and step > 0 and step % every == 0)

    def collect(self) -> None:
        """Reads the figures of the steps since the last call, which waits until the device has computed them."""
        for step, seed_runs, sums, sizes in self.pending:
            for seed_run, seed_sums, (positions, operations) in zip(
                seed_runs, jax.device_get(sums), sizes, strict=True
            ):
                seed_run.add(step, seed_sums, operations)
                self.throughput.add(int(seed_sums["tokens"]), positions, operations)
            self.collected = step
        self.pending.clear()
        seconds = self.throughput.lap()
        for seed_run in self.active:
            seed_run.meta["seconds"] += seconds / len(self.active)

    def stop(self) -> None:
        """Ends the run after this step and saves it, as a signal does. The same command continues from there."""
        self._stop.requested = True

    @property
    def stop_requested(self) -> bool:
        """Whether this process received a signal, or a hook called `stop`."""
        return self._stop.requested

    @property
    def stop_signal(self) -> int | None:
        """The number of the signal that this process received, or None."""
        return self._stop.signal

    def _stopping(self, step: int) -> bool:
        if not self._running():
            return True
        # A signal reaches the hosts at different steps. Asking all hosts takes time, so it is done every tenth step.
        if self.devices.hosts == 1:
            return self._stop.requested
        return step % 10 == 0 and self.devices.any_host(self._stop.requested)

    def _running(self) -> list[SeedRun]:
        return [seed_run for seed_run in self.seed_runs if not seed_run.stopped]

    def _batches(self, step: int) -> dict[int, Arrays]:
        """Returns the batch of each seed that has not stopped."""
        return {seed_run.seed: seed_run.batches(step) for seed_run in self._running()}

    def _size(self, batch: Arrays) -> tuple[int, int]:
        """Returns the positions in the whole batch, and the operations that a step on it takes."""
        model, hosts = self.experiment.model, self.devices.hosts
        assert model is not None
        task = self.experiment.task
        operations = flops.training_step(model, batch, task.generator(model), task.read(model))
        return hosts * batch["sequence_ids"].size, hosts * operations
