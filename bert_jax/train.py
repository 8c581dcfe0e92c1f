"""The training step, and the loop around it that every kind of run shares."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from bert_jax import flops, optimizer, pretrained, tasks, tokenizers
from bert_jax.checkpoint import Checkpoints
from bert_jax.config import Experiment
from bert_jax.data.pipeline import Arrays, prefetch
from bert_jax.errors import InputError
from bert_jax.evaluate import Evaluation, add, divide, evaluate
from bert_jax.losses import Mean
from bert_jax.pretrained import Source
from bert_jax.progress import Progress, Stop, Trace
from bert_jax.sharding import Devices, is_first_host
from bert_jax.tasks import Task
from bert_jax.tokenizers import Tokenizer
from bert_jax.workdir import Workdir


class TrainState(struct.PyTreeNode):
    """What changes from step to step, and the optimizer that changes it."""

    step: jax.Array  # int32 []: steps taken
    params: Any  # nested dicts of arrays in param_dtype
    opt_state: Any
    key: jax.Array  # the run's key; each step folds its number in
    optimizer: optax.GradientTransformation = struct.field(pytree_node=False)


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    loss_fn: Callable,
    axis_name: str | None = None,
    microbatches: int = 1,
) -> tuple[TrainState, dict[str, dict[str, Mean]]]:
    """Takes one step: the only one there is, for pre-training, fine-tuning and distillation alike.

    Each loss is divided by its count over the global batch (all devices, all microbatches) before the gradient is
    taken, so that the same rows give the same step however they are split. A step whose loss or gradient is not finite
    changes nothing but the step number, and is counted.

    Args:
      batch: arrays [rows of this device, ...].
      loss_fn: (params, batch, key) -> Outcome.
      axis_name: the mapped axis to sum over, where the batch is split over devices.
      microbatches: parts of the batch, computed one after another; must divide the rows of this device.

    Returns:
      The new state, and {"losses": {name: Mean}, "metrics": {name: Mean}, "tokens": int32 []} over the global batch.
    """
    key = jax.random.fold_in(state.key, state.step)
    if axis_name is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))

    def total(tree: Any) -> Any:
        return tree if axis_name is None else jax.lax.psum(tree, axis_name)

    # Counts depend on the batch alone: XLA drops the forward pass that computing them here seems to need.
    counts = total({name: loss.count for name, loss in loss_fn(state.params, batch, key).losses.items()})

    def objective(params: Any, part: dict[str, jax.Array], part_key: jax.Array) -> tuple[jax.Array, Any]:
        outcome = loss_fn(params, part, part_key)
        value = sum(loss.sum / jnp.maximum(counts[name], 1) for name, loss in outcome.losses.items())
        return value, {"losses": outcome.losses, "metrics": outcome.metrics}

    gradient = jax.grad(objective, has_aux=True)
    if microbatches == 1:
        grads, sums = gradient(state.params, batch, key)
    else:
        # [rows] -> [rows / k, k] -> [k, rows / k]: each part keeps rows of every device, so nothing moves between them.
        parts = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, microbatches, *x.shape[1:]), 0, 1), batch)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(microbatches))
        shapes = jax.eval_shape(gradient, state.params, jax.tree.map(lambda x: x[0], parts), key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def accumulate(so_far: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, so_far, gradient(state.params, *part)), None

        (grads, sums), _ = jax.lax.scan(accumulate, zeros, (parts, keys))
    grads, sums, tokens = total((grads, sums, jnp.count_nonzero(batch["sequence_ids"])))

    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(norm) & jnp.isfinite(sum(loss.sum for loss in sums["losses"].values()))
    updates, opt_state = state.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    params, opt_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), (params, opt_state), (state.params, state.opt_state)
    )
    sums = jax.tree.map(lambda x: jnp.where(finite, x, 0), sums)
    sums["metrics"] |= {
        "grad_norm": Mean(jnp.where(finite, norm, 0), finite.astype(jnp.float32)),
        "skipped": Mean(1 - finite.astype(jnp.float32), jnp.ones(())),
    }
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state), sums | {"tokens": tokens}


@dataclass(frozen=True)
class Run:
    """An experiment with everything it left open filled in, and what it needs."""

    experiment: Experiment  # model, label names and number of steps included
    task: Task
    tokenizer: Tokenizer
    source: Source | None  # what init_from names, where it is still needed


def resolve(experiment: Experiment, workdir: Workdir | None = None) -> Run:
    """Fills in what the experiment leaves to its sources: model, vocabulary size, label names, number of steps.

    Where `workdir` has a checkpoint, the run's own tokenizer and model are the sources.

    Raises:
      InputError: something is missing, or two sides disagree.
    """
    resuming = workdir is not None and workdir.latest_step() is not None
    source = None if resuming or experiment.init_from is None else pretrained.open_source(experiment.init_from)
    if workdir is not None and resuming:
        tokenizer = tokenizers.load(workdir.tokenizer)
        stored = pretrained.read_experiment(workdir.path).model
    else:
        tokenizer = _find_tokenizer(experiment, source)
        stored = source.config if source else None
    config = experiment.model or stored
    if config is None:
        raise InputError("experiment: give `model` (a BertConfig), or `init_from` to take the model from there")
    config = replace(config, vocab_size=config.vocab_size or tokenizer.vocab_size)
    if config.vocab_size != tokenizer.vocab_size:
        raise InputError(
            f"model.vocab_size: the model has {config.vocab_size} pieces and the tokenizer {tokenizer.vocab_size}; "
            "set it to 0 to take the tokenizer's"
        )
    fields = tasks.TASKS[type(experiment.task).__name__].resolve(experiment.task)
    task = tasks.make(fields, config, tokenizer)
    steps = experiment.steps
    if steps <= 0:
        if experiment.epochs <= 0:
            raise InputError("experiment: give `steps` or `epochs`")
        batches = task.train_batches(batch_size=experiment.batch_size, steps=1, seed=experiment.seed)
        steps = max(1, round(experiment.epochs * batches.num_examples / experiment.batch_size))
    return Run(replace(experiment, task=fields, model=config, steps=steps), task, tokenizer, source)


def _find_tokenizer(experiment: Experiment, source: Source | None) -> Tokenizer:
    if experiment.tokenizer is not None:
        tokenizer = tokenizers.load(Path(experiment.tokenizer))
        if source is not None and source.tokenizer.fingerprint != tokenizer.fingerprint:
            raise InputError(
                f"tokenizer: {experiment.tokenizer} is not the one {source.where} was trained with; leave it out"
            )
        return tokenizer
    if source is not None:
        return source.tokenizer
    stores = getattr(experiment.task, "stores", ())
    if stores:
        return tokenizers.load(Path(stores[0]) / "tokenizer")
    raise InputError("experiment: give `tokenizer` (a folder written by `bert_jax tokenizer`) or `init_from`")


def initial_state(run: Run, devices: Devices, say: Callable[[str], None]) -> TrainState:
    """The state before the first step: random, and from `init_from` whatever is there."""
    state = devices.make(partial(random_state, run, optimizer.make(run.experiment.optimizer, run.experiment.steps)))
    if run.source is None:
        return state
    params, report = pretrained.fit(state.params, run.source)
    say(str(report))
    params = devices.place(params)
    return state.replace(params=params, opt_state=devices.make(state.optimizer.init, params))


def random_state(run: Run, transformation: optax.GradientTransformation) -> TrainState:
    """The state before the first step of a run from scratch."""
    key = jax.random.fold_in(jax.random.key(run.experiment.seed), 0x1717)
    params = run.task.model.init(key, tasks.dummy_batch(run.task))["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=transformation.init(params),
        key=jax.random.key(run.experiment.seed),
        optimizer=transformation,
    )


def train(
    experiment: Experiment,
    workdir: str | Path,
    *,
    profile: tuple[int, int] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Runs `experiment` in `workdir`, or continues it there exactly, and returns what result.json holds.

    Args:
      profile: first and last step of a trace by `jax.profiler`, written to the workdir's folder `profile`.
      say: takes what a person should read, on the first host alone.

    Raises:
      InputError: the experiment, its data or the workdir is not usable; what the workdir held is untouched. Or
        training could not go on: after a full disk or a lost file it continues, once that is mended, from the last
        checkpoint.
    """
    first = is_first_host()
    with Workdir(Path(workdir), writes=first) as place:
        try:
            run = resolve(experiment, place)
            place.claim(run.experiment, run.tokenizer)
            loop = Loop(run, place, say if first else lambda _: None)
            place.record_environment(loop.start, loop.devices.describe())
            return loop.run(profile)
        except OSError as error:
            raise InputError(
                f"{error.filename or place.path}: {error.strerror or error}; mend that and give the same command "
                "again: it goes on from the last checkpoint"
            ) from error


class InterruptedEvaluationError(Exception):
    """An evaluation was cut short, because the run is to stop."""


class Loop:
    """One run's loop: steps, figures, evaluations and checkpoints, each when it is due."""

    def __init__(self, run: Run, place: Workdir, say: Callable[[str], None]):
        self.experiment, self.task, self.place, self.say = run.experiment, run.task, place, say
        e = run.experiment
        self.devices = Devices(e.sharding, e.batch_size, e.fsdp)
        if e.batch_size % (self.devices.count * e.microbatches):
            raise InputError(
                f"microbatches: {e.microbatches} does not divide the {e.batch_size // self.devices.count} rows of each "
                "device; choose a divisor"
            )
        self.batches = self.task.train_batches(
            batch_size=e.batch_size,
            steps=e.steps,
            seed=e.seed,
            multiple=self.devices.count * e.microbatches,
            host=self.devices.host,
            hosts=self.devices.hosts,
        )
        self.eval_batches = self.task.eval_batches(batch_size=e.batch_size)
        self.schedule = optimizer.learning_rate(e.optimizer, e.steps)
        self.checkpoints = Checkpoints(place.checkpoints, e.keep_checkpoints)
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
        }
        self.state = self._first_state(run)
        self.start = int(self.state.step)
        self.compiled = self.devices.train_step(train_step, loss_fn=self.task.loss_fn, microbatches=e.microbatches)
        self.compiled_eval = self.devices.evaluate_step(self.task.loss_fn)

    def _first_state(self, run: Run) -> TrainState:
        # 1. A checkpoint in this workdir: go on from there, exactly.
        # 2. `init_from`: its encoder and every head that fits (in `initial_state`).
        # 3. Nothing: random.
        latest = self.checkpoints.latest()
        if latest is None:
            return initial_state(run, self.devices, self.say)
        like = self.devices.shapes(
            jax.eval_shape(lambda: initial_state(replace(run, source=None), self.devices, print))
        )
        params, opt_state, self.meta = self.checkpoints.restore(latest, like.params, like.opt_state)
        self.say(f"Continuing {self.place.path} at step {latest} of {self.experiment.steps}")
        step, key = self.devices.make(lambda: (jnp.int32(latest), jax.random.key(self.experiment.seed)))
        return TrainState(step=step, params=params, opt_state=opt_state, key=key, optimizer=like.optimizer)

    def run(self, profile: tuple[int, int] | None = None) -> dict[str, Any]:
        """Takes the steps that are left; `profile` as in `train`."""
        e, step = self.experiment, self.start
        result = self.place.result()
        if step == e.steps and result is not None and result["step"] == step:
            self.say(f"{self.place.path}: finished already, at step {step}")
            return result
        self.place.rewind(step, self.meta["evaluated"])
        pending: list[Any] = []  # figures still on the device: reading them at once would make it wait for us
        with Stop() as stop, Progress(step, e.steps, self.say) as progress, Trace(self.place.path, profile) as trace:
            if self._due(e.eval_every, step) and self.meta["evaluated"] < step:
                self._evaluate(step, progress, stop)  # it was cut short when the run was stopped
            for batch in prefetch(self.batches, step, e.steps):
                step += 1
                trace.before(step)
                self.state, sums = self.compiled(self.state, batch)
                trace.after(step, self.state)
                pending.append((step, sums, self._size(batch)))
                due_log, due_eval = self._due(e.log_every, step), self._due(e.eval_every, step)
                if due_log or due_eval or len(pending) >= 100:
                    self._collect(pending, progress)
                if due_log:
                    self._log(step, progress)
                if due_eval:
                    self._evaluate(step, progress, stop)
                stopping = self._stopping(step, stop)
                if stopping or self._due(e.checkpoint_every, step):
                    self._collect(pending, progress)
                    self.checkpoints.save(step, self.state.params, self.state.opt_state, self.meta)
                if stopping:
                    break
        self.checkpoints.close()
        if self.meta["evaluated"] < e.steps:
            self.say(f"Stopped at step {step} of {e.steps}; the same command goes on from there")
        return self.place.result() or {}

    def _due(self, every: int, step: int) -> bool:
        return step == self.experiment.steps or (every > 0 and step > 0 and step % every == 0)

    def _stopping(self, step: int, stop: Stop) -> bool:
        # Hosts hear of the signal at different steps; asking all of them costs a wait, so it is done now and then.
        if self.devices.hosts == 1:
            return stop.requested
        return step % 10 == 0 and self.devices.agree(stop.requested)

    def _size(self, batch: Arrays) -> tuple[int, int]:
        """Positions of the whole batch, and operations to compute it."""
        assert self.experiment.model is not None
        hosts = self.devices.hosts
        return hosts * batch["sequence_ids"].size, hosts * flops.training_step(self.experiment.model, batch)

    def _collect(self, pending: list[Any], progress: Progress) -> None:
        for step, sums, (slots, operations) in jax.device_get(pending):
            add(self.meta["losses"], sums["losses"])
            add(self.meta["metrics"], sums["metrics"])
            self.meta["tokens"] += int(sums["tokens"])
            self.meta["flops"] += operations
            progress.advance(step, int(sums["tokens"]), slots, operations)
            self.meta["skipped_in_a_row"] += 1
            if not sums["metrics"]["skipped"].sum:
                self.meta["skipped_in_a_row"] = 0
            if self.meta["skipped_in_a_row"] >= self.experiment.max_skipped:
                self._give_up(step)
        pending.clear()
        self.meta["seconds"] += progress.lap()

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

    def _log(self, step: int, progress: Progress) -> None:
        self.checkpoints.check()
        losses = divide(self.meta["losses"])
        figures = {"loss": sum(losses.values()), **losses, **divide(self.meta["metrics"])}
        figures["skipped"] = self.meta["metrics"]["skipped"][0]
        figures["learning_rate"] = float(self.schedule(step - 1))
        self.meta["losses"], self.meta["metrics"] = {}, {}
        self.place.write_figures(step, "train", figures)
        speed = progress.speed(self.devices.peak_flops) | {"memory_bytes": self.devices.memory()}
        self.place.write_speed(step, self.meta["seconds"], {name: x for name, x in speed.items() if x is not None})
        progress.show(step, figures)

    def _evaluate(self, step: int, progress: Progress, stop: Stop) -> None:
        def watch(done: int, total: int) -> None:
            progress.evaluating(done, total)
            if stop.requested and self.devices.hosts == 1:
                raise InterruptedEvaluationError

        found = Evaluation({}, {}, {}, [])
        if self.eval_batches is not None:
            try:
                found = evaluate(self.task, self.compiled_eval, self.state.params, self.eval_batches, watch)
            except InterruptedEvaluationError:
                return
            self.place.write_figures(step, "eval", found.metrics)
        cost = {"tokens": self.meta["tokens"], "seconds": round(self.meta["seconds"], 3), "flops": self.meta["flops"]}
        self.place.write_result({"step": step, **cost} | found._asdict())
        self.meta["evaluated"] = step
        progress.evaluated(step, found.metrics)
