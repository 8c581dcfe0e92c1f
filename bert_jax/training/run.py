"""What a run is: its experiment with everything filled in, its task, and the state that it starts from."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bert_jax import files, pretrained, sources, tasks, tokenizers
from bert_jax.config import Compute, Experiment, OptimizerFields
from bert_jax.data.sizes import BatchSizes, stages
from bert_jax.data.store import tokenizer_folder
from bert_jax.devices import Devices
from bert_jax.errors import InputError
from bert_jax.pretrained import Weights
from bert_jax.runs import checkpoint, layout
from bert_jax.runs.workdir import Workdir
from bert_jax.tasks import Task
from bert_jax.tokenizers import Tokenizer
from bert_jax.training import optimizer
from bert_jax.training.step import TrainState


class BranchPoint(NamedTuple):
    """The checkpoint of another run from which a run goes on."""

    checkpoints: files.Path  # the folder
    step: int


@dataclass(frozen=True)
class Run:
    """An experiment with all fields filled in, and the task, tokenizer and weights that belong to it."""

    experiment: Experiment  # model, label names and number of steps included
    task: Task
    tokenizer: Tokenizer
    source: Weights | None  # the weights of init_from; None if there are none, or the run continues from a checkpoint
    branch: BranchPoint | None = None  # where the run leaves the one of branch_from

    def with_compute(self, compute: Compute) -> "Run":
        """Returns the same run, computed in another way."""
        task = tasks.make(self.task.fields, self.task.config, self.tokenizer, compute)
        return replace(self, experiment=replace(self.experiment, compute=compute), task=task)


def resolve(experiment: Experiment, workdir: Workdir | None = None) -> Run:
    """Returns the run of an experiment: fills in model, vocabulary size, label names and number of steps.

    They come from `init_from`, the tokenizer and the data. If `workdir` has a checkpoint, model and tokenizer are those
    stored there. Where `minutes` decide the number of steps, it stays 0.

    Raises:
      InputError: a field that is needed is missing, or the model and the tokenizer do not have the same size.
    """
    resuming = workdir is not None and workdir.latest_step() is not None
    first = experiment.branch_from or experiment.init_from
    source = None if resuming or first is None else pretrained.open_source(first)
    if workdir is not None and resuming:
        tokenizer = tokenizers.load(workdir.tokenizer)
        stored = pretrained.read_experiment(workdir.path).model
    else:
        tokenizer = _find_tokenizer(experiment, source)
        added = tasks.pieces_to_add(experiment.task, tokenizer)
        if added:
            tokenizer = tokenizer.with_pieces(added)
            source = source and pretrained.add_pieces(source, added)
        stored = source.config if source else None
    config = experiment.model or stored
    if config is None:
        raise InputError("experiment: give `model` (a BertConfig), or `init_from` to take the model from there")
    config = replace(config, vocab_size=config.vocab_size or config.rows(tokenizer.vocab_size))
    tokenizer = pretrained.with_frame(tokenizer, config)
    # A source may have spare rows, after those of its tokens.
    has_spare_rows = stored is not None and config.vocab_size == stored.vocab_size > tokenizer.vocab_size
    if config.vocab_size not in (tokenizer.vocab_size, config.rows(tokenizer.vocab_size)) and not has_spare_rows:
        raise InputError(
            f"model.vocab_size: the model has {config.vocab_size} tokens and the tokenizer {tokenizer.vocab_size}; "
            "set it to 0 to use the tokenizer's size"
        )
    replace(experiment, model=config).check(tokenizer.frame.longest(config.max_position_embeddings))
    task = tasks.resolve(experiment.task, config, tokenizer, experiment.compute)
    steps = max(experiment.steps, 0)
    if not steps and experiment.epochs > 0:
        batches = task.train_batches(batch_size=experiment.batch_size, steps=1, seed=experiment.seed)
        steps = max(1, round(experiment.epochs * batches.num_examples / experiment.mean_batch_size))
    if not steps and experiment.minutes <= 0:
        raise InputError("experiment: give `steps`, `epochs` or `minutes`")
    full = replace(experiment, task=task.fields, model=config, steps=steps)
    if experiment.branch_from is None:
        return Run(full, task, tokenizer, source)
    return Run(full, task, tokenizer, None, branch_point(full))


def batch_sizes(experiment: Experiment, steps: int) -> BatchSizes:
    """Returns the rows in each of `steps` steps."""
    return BatchSizes(tuple(stages(experiment.batch_schedule or ((1.0, experiment.batch_size),), steps)))


def check_sizes(experiment: Experiment, devices: int) -> None:
    """Raises InputError if devices and microbatches do not get equal parts of the batch at every step."""
    microbatches = experiment.compute.microbatches
    sizes = [("batch_schedule", size) for _, size in experiment.batch_schedule]
    for field, size in [*sizes, ("eval_batch_size", experiment.eval_batch_size)]:
        if size % devices:
            raise InputError(f"{field}: {size} rows do not divide by the {devices} devices; choose a multiple")
    for size in [size for _, size in experiment.batch_schedule] or [experiment.batch_size]:
        if size // devices % microbatches:
            raise InputError(
                f"compute.microbatches: {microbatches} does not divide the {size // devices} rows of each device; "
                "choose a divisor"
            )


def step_options(run: Run, params: Any) -> dict[str, Any]:
    """Returns the options of `train_step` for a run: what it learns, in how many parts, and what is frozen.

    Args:
      params: the model's parameters, or their shapes.
    """
    e = run.experiment
    assert e.model is not None
    return {
        "loss_fn": run.task.loss_fn,
        "counts": run.task.counts,
        "joint": run.task.joint,
        "microbatches": e.compute.microbatches,
        "frozen": optimizer.frozen(params, e.optimizer, e.model),
    }


def branch_point(experiment: Experiment) -> BranchPoint:
    """Returns the checkpoint that `branch_from` names.

    Raises:
      InputError: it is not a checkpoint of a run with one seed, that run has another model or optimizer, or no step
        would be left to take.
    """
    source = str(experiment.branch_from)
    parts = sources.parse(source, pretrained.is_workdir)
    folder = files.path(parts.name)
    if parts.kind != "path" or parts.mean or not pretrained.is_workdir(folder):
        raise InputError(f"branch_from: must be WORKDIR@STEP of a run with one seed, got {source}")
    step = checkpoint.find_step(folder / layout.CHECKPOINTS, parts.step)
    before = pretrained.read_experiment(folder)
    same = {
        "model": before.model == experiment.model,
        "optimizer": _state_of(before.optimizer) == _state_of(experiment.optimizer),
    }
    for name in (name for name in same if not same[name]):
        there, here = getattr(before, name), getattr(experiment, name)
        raise InputError(f"branch_from: {source} has another {name} than this run: {there}, and here {here}")
    if step >= experiment.steps:
        raise InputError(f"branch_from: {source} is at step {step}; `steps` must be larger, got {experiment.steps}")
    return BranchPoint(folder / layout.CHECKPOINTS, step)


def _state_of(optimizer: OptimizerFields) -> tuple[Any, ...]:
    """What decides the arrays of the optimizer's state."""
    return type(optimizer), optimizer.frozen_layers, optimizer.head_only


def _find_tokenizer(experiment: Experiment, source: Weights | None) -> Tokenizer:
    if experiment.tokenizer is not None:
        tokenizer = tokenizers.load(experiment.tokenizer)
        if source is not None and source.tokenizer.fingerprint != tokenizer.fingerprint:
            raise InputError(
                f"tokenizer: {source.where} was trained with another tokenizer than {experiment.tokenizer}; leave the "
                "field out to use the right one"
            )
        return tokenizer
    if source is not None:
        return source.tokenizer
    stores = experiment.task.token_stores
    if stores:
        return tokenizers.load(tokenizer_folder(stores[0]))
    raise InputError("experiment: give `tokenizer` (a folder written by `bert_jax tokenizer`) or `init_from`")


def random_states(run: Run, devices: Devices) -> Callable[[int], TrainState]:
    """Returns the function that makes the random state of a seed; it is compiled once for all seeds."""
    e = run.experiment
    assert e.model is not None
    return devices.maker(partial(random_state, run, optimizer.make(e.optimizer, e.steps, e.model)), np.int32(0))


def initial_state(
    run: Run, devices: Devices, random: Callable[[int], TrainState], say: Callable[[str], None]
) -> TrainState:
    """Returns the state before the first step: the weights of `init_from`, and random ones for the other parameters.

    Args:
      random: what `random_states` returns.
    """
    e = run.experiment
    state = random(e.seed)
    if run.source is None:
        return state
    assert e.model is not None
    reinitialised = pretrained.top_layers(e.model, e.reinit_layers)
    params, report = pretrained.fit(state.params, run.source, reinitialised, e.task.output_names)
    say(str(report))
    params = devices.place(params)
    return state.replace(params=params, opt_state=devices.make(state.optimizer.init, params))


def random_state(run: Run, transformation: optax.GradientTransformation, seed: jax.typing.ArrayLike) -> TrainState:
    """Returns the state before the first step with random weights only."""
    key = jax.random.fold_in(jax.random.key(seed), 0x1717)
    params = run.task.model.init(key, run.task.dummy_batch())["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=transformation.init(params),
        key=jax.random.key(seed),
        optimizer=transformation,
    )
