"""The fields of experiments and of tasks as flags."""

import contextlib
import dataclasses
import io
import re
from argparse import ArgumentError, ArgumentParser
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import tyro

from bert_jax import sweeps
from bert_jax.config import BertConfig, preset
from bert_jax.errors import InputError

MODEL_HELP = (
    "--model PRESET takes a model by its name, such as modernbert-tiny, in place of the file's, with a vocabulary as "
    "large as the tokenizer's; flags --model.FIELD change it further."
)


def parse_experiments(
    command: str, args: Sequence[str], kind: Any, fields: dict[str, Any], usage: str
) -> dict[str, Any]:
    """Returns the parsed options, a `kind`, of each experiment by its name; empty after --help."""
    if not args or args[0].startswith("-"):
        print(usage)
        if not args or args[0] not in ("-h", "--help"):
            raise InputError("the first argument must be an experiment file")
        return {}
    path, flags = args[0], args[1:]
    # --init-from and --model decide which model the flags --model.FIELD change, so they are read before the others.
    first = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in ("--init-from", "--model", "--only"):
        first.add_argument(flag)
    try:
        early, rest = first.parse_known_args(flags)
    except ArgumentError as error:
        raise InputError(f"{error.argument_name}: {error.message}") from None
    # For training it is a field of the task, which is also the name in `evaluate` and `predict`.
    rest = [re.sub(r"^--on-bad-row(?=$|=)", "--task.on-bad-row", flag) for flag in rest]
    sweep = sweeps.load_experiments(path)
    parsed = {}
    for name, experiment in sweeps.select(sweep, early.only, path).items():
        if early.init_from is not None:
            experiment = dataclasses.replace(experiment, init_from=early.init_from)
        if early.model is not None:
            experiment = dataclasses.replace(experiment, model=_preset(early.model))
        if any(flag.startswith("--model.") for flag in rest):
            experiment = dataclasses.replace(experiment, model=sweeps.model_of(experiment, sweep))
        parse = partial(
            tyro.cli,
            kind,
            config=(tyro.conf.AvoidSubcommands,),
            default=kind(experiment=experiment, **fields),
            args=rest,
            prog=f"bert_jax {command} {path}",
            description=f"{kind.__doc__}\n\n{MODEL_HELP}",
        )
        parsed[name] = _with_one_line(parse)
    return parsed


def _preset(name: str) -> BertConfig:
    try:
        return preset(name, vocab_size=0)
    except InputError as error:
        raise InputError(f"--model: {error}") from None


def _with_one_line(parse: Callable[[], Any]) -> Any:
    """Calls `parse`; a wrong value of a config is raised as it is, without the frame that tyro prints."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return parse()
    except SystemExit as end:
        cause: BaseException | None = end
        while cause is not None and not isinstance(cause, InputError):
            cause = cause.__context__
    if cause is not None:
        raise cause from None
    return parse()  # again, to print the help, or what is wrong with the flags


def without_task_flags(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits arguments into the others and those of the task: flags such as --task.text, and their values."""
    split: tuple[list[str], list[str]] = ([], [])
    of_task = False
    for arg in args:
        if arg.startswith("--"):
            of_task = arg.startswith("--task.")
        split[of_task].append(arg)
    return split


def task_values(command: str, flags: Sequence[str], task: Any) -> dict[str, Any]:
    """Returns the fields that flags give another value, for a source with this task."""
    if not flags:
        return {}
    if task is None:
        raise InputError(f"{flags[0]}: this source has no task")
    kind: Any = dataclasses.make_dataclass("_Task", [("task", type(task))])
    config = (tyro.conf.AvoidSubcommands,)
    prog = f"bert_jax {command} SOURCE"
    parsed = _with_one_line(partial(tyro.cli, kind, config=config, default=kind(task), args=list(flags), prog=prog))
    names = [flag.removeprefix("--task.").partition("=")[0].replace("-", "_") for flag in flags if flag[:2] == "--"]
    known = {field.name for field in dataclasses.fields(task)}
    names = [name if name in known else name.removeprefix("no_") for name in names]  # such as --task.no-balanced
    return {name: getattr(parsed.task, name) for name in names}
