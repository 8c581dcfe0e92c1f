"""`bert_jax.train`: from an experiment and a workdir to a trained model."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from bert_jax import buckets, files, hosts
from bert_jax.config import Experiment, to_json
from bert_jax.devices import Devices
from bert_jax.errors import InputError
from bert_jax.runs import layout
from bert_jax.runs.workdir import Workdir, environment, has_steps
from bert_jax.runtime import set_up
from bert_jax.training.budget import steps_within
from bert_jax.training.evaluate import over_seeds
from bert_jax.training.hooks import Evaluate, Figures, Profile, SaveCheckpoints, ShowProgress
from bert_jax.training.loop import Hook, Loop
from bert_jax.training.progress import ProgressBar
from bert_jax.training.run import Run, resolve

# What shows that a folder holds a model, a tokenizer or a token store.
NOT_IN_A_WORKDIR = ("config.json", "model.safetensors", "pytorch_model.bin", "vocab.txt", "spiece.model", "header.json")


def train(
    experiment: Experiment,
    workdir: files.PathLike,
    *,
    profile: tuple[int, int] | None = None,
    say: Callable[[str], None] = print,
    hooks: Sequence[Hook] = (),
) -> dict[str, Any]:
    """Runs `experiment` in `workdir`, or continues it there exactly, and returns what result.json holds.

    With several seeds, each has its own workdir in `workdir`, like that of a run with this seed alone. The result, also
    written to seeds.json, is then {"step", "metrics": means, "spread": standard deviations, "runs": all}.

    Args:
      profile: first and last step of a trace by `jax.profiler`, written to the workdir's folder `profile`.
      say: is called with each line for the user, on the first host only.
      hooks: are called between steps, after the evaluation of a step and before its checkpoint. See `Hook`.

    Raises:
      InputError: the experiment, its data or the workdir is not usable; the files in the workdir are unchanged. Or
        training had to end, for example because the disk is full: when the cause is mended, the same call continues
        from the last checkpoint.
    """
    set_up()
    folder = files.path(workdir)
    if hosts.number() != (0, 1):
        hosts.check_alike({"experiment": to_json(experiment), "workdir": str(folder), "software": environment()})
    _check_folder(folder)
    paths = _workdir_of_each_seed(experiment, folder)
    say = say if hosts.is_first() else _say_nothing
    try:
        with ExitStack() as stack:
            workdirs = [stack.enter_context(Workdir(path, writes=hosts.is_first())) for path in paths]
            run, loop = _start(experiment, workdirs, say)
            if loop.finished(loop.start):
                say(f"{paths[0]}: finished already, at step {loop.start}")
                results = loop.results()
            else:
                bar = stack.enter_context(ProgressBar(loop.start, run.experiment.steps, say))
                traced = profile if hosts.is_first() or not files.is_remote(folder) else None
                trace = stack.enter_context(Profile(workdirs[0].growing, traced))
                before = [trace, Figures(run, bar), Evaluate(run, loop.devices, bar), ShowProgress(bar)]
                results = loop.run([*before, *hooks, SaveCheckpoints(run.experiment.checkpoint_every)])
    except Exception as error:
        of_bucket = buckets.problem(error) if files.is_remote(folder) else None
        if not isinstance(error, OSError) and of_bucket is None:
            raise
        problem = of_bucket or getattr(error, "strerror", None) or error
        raise InputError(
            f"{getattr(error, 'filename', None) or folder}: {problem}; mend that and run the same command again: it "
            "continues from the last checkpoint"
        ) from error
    if experiment.seeds == 1:
        return results[0]
    metrics = {str(experiment.seed + i): result.get("metrics", {}) for i, result in enumerate(results)}
    result = {"step": min(result.get("step", 0) for result in results), **over_seeds(metrics)}
    if hosts.is_first():
        files.write_json(folder / layout.SEEDS, result)
    return result


def _check_folder(folder: files.Path) -> None:
    """Raises InputError if a folder that is not a workdir yet holds a model, a tokenizer or a token store."""
    if (folder / layout.EXPERIMENT).exists() or not folder.is_dir():
        return
    other = next((name for name in NOT_IN_A_WORKDIR if (folder / name).exists()), None)
    if other is not None:
        raise InputError(f"{folder}: holds {other}, which is not of a run; name another --workdir")


def _workdir_of_each_seed(experiment: Experiment, folder: files.Path) -> list[files.Path]:
    if experiment.seeds == 1:
        return [folder]
    if (folder / layout.EXPERIMENT).exists() and has_steps(folder):
        raise InputError(f"{folder}: holds a run with one seed; use another --workdir")
    return [folder / layout.seed_run(experiment.seed + i) for i in range(experiment.seeds)]


def _start(experiment: Experiment, workdirs: Sequence[Workdir], say: Callable[[str], None]) -> tuple[Run, Loop]:
    """Returns the run of the first seed, and the loop of all seeds, ready for the first step or to continue."""
    resuming = all(workdir.latest_step() is not None for workdir in workdirs)
    run = resolve(replace(experiment, seeds=1), workdirs[0] if resuming else None)
    e = run.experiment
    for note in run.task.notes():
        say(note)
    devices = Devices(e.compute.sharding, e.batch_size, e.compute.fsdp)
    if not e.steps:
        steps = workdirs[0].stored_steps()
        if steps:
            say(f"{workdirs[0].path}: the run has {steps:,} steps, as measured when it began")
        e = replace(e, minutes=0.0, steps=steps or steps_within(run, experiment.seeds, devices, say))
        run = replace(run, experiment=e)
    runs = [replace(run, experiment=replace(e, seed=e.seed + i)) for i in range(experiment.seeds)]
    for seed_run, workdir in zip(runs, workdirs, strict=True):
        for name, (before, now) in workdir.claim(seed_run.experiment, seed_run.tokenizer).items():
            say(f"{workdir.path}: continues with {name} {now} instead of {before}")
    loop = Loop(runs, workdirs, devices, say)
    for workdir in workdirs:
        workdir.record_environment(loop.start, loop.devices.describe())
    return run, loop


def _say_nothing(text: str) -> None:
    del text
