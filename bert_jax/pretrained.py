"""The one door for weights: a SOURCE in, its config, parameters, tokenizer and task out, fitted to a model."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bert_jax import checkpoint, tokenizers
from bert_jax.config import BertConfig, Experiment, TaskFields, from_json
from bert_jax.errors import InputError
from bert_jax.tokenizers import Tokenizer


@dataclass(frozen=True)
class Source:
    """Anything that holds weights, opened: everything but the weights themselves is read at once."""

    where: str  # as the user named it
    config: BertConfig
    tokenizer: Tokenizer
    task: TaskFields | None  # what the weights were trained for, where that is known
    read_params: Callable[[], Any]  # nested dicts of NumPy arrays: {"bert": ..., HEAD: ...}


def read_experiment(workdir: Path) -> Experiment:
    """Reads a workdir's experiment.json.

    Raises:
      InputError: it is missing, no JSON, or has an unknown field.
    """
    path = workdir / "experiment.json"
    try:
        return from_json(Experiment, json.loads(path.read_text()), str(path))
    except FileNotFoundError:
        raise InputError(f"{workdir}: no experiment.json there; a run's workdir has one") from None
    except (json.JSONDecodeError, TypeError) as error:
        raise InputError(f"{path}: {error}; it should be as `bert_jax train` wrote it") from None


def open_source(source: str | Path) -> Source:
    """Opens a SOURCE: a run's workdir.

    Raises:
      InputError: there is no such thing, or it is none of these, or incomplete.
    """
    path = Path(source)
    if not path.exists():
        raise InputError(f"{source}: no such folder; a SOURCE is a run's workdir")
    experiment = read_experiment(path)
    if experiment.model is None:
        raise InputError(f"{path}/experiment.json: it lacks the model; it should be as `bert_jax train` wrote it")
    return Source(
        where=str(source),
        config=experiment.model,
        tokenizer=tokenizers.load(path / "tokenizer"),
        task=_with_fitted(experiment.task, path / "result.json"),
        read_params=lambda: checkpoint.load_params(path / "checkpoints")[1],
    )


def _with_fitted(task: TaskFields, result: Path) -> TaskFields:
    """The task with the fields that its evaluation rows decided, such as the threshold for no answer."""
    found = json.loads(result.read_text()) if result.exists() else {}
    return replace(task, **found.get("fitted", {}))


@dataclass
class LoadingReport:
    """What became of each parameter when weights were fitted to a model; paths like "bert/pooler/kernel"."""

    source: str
    loaded: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)  # of the model, and not in the source: newly initialised
    left_out: list[str] = field(default_factory=list)  # of the source, and not in the model

    def __str__(self) -> str:
        lines = [f"Weights from {self.source}: {len(self.loaded)} arrays loaded"]
        if self.new:
            lines.append(f"  newly initialised: {', '.join(self.new)}")
        if self.left_out:
            lines.append(f"  left out: {', '.join(self.left_out)}")
        return "\n".join(lines)


def _flat(params: Any) -> dict[str, Any]:
    return {"/".join(key.key for key in path): leaf for path, leaf in jax.tree.leaves_with_path(params)}


def fit(params: Any, source: Source) -> tuple[Any, LoadingReport]:
    """Returns `params` with every array that `source` has too taken from there, and a report.

    A task's head fits where its shape does: a classifier for other labels stays newly initialised and is reported.

    Raises:
      InputError: an array of the encoder has another shape there, or the source holds nothing of the encoder.
    """
    theirs = _flat(source.read_params())
    ours = _flat(params)
    report = LoadingReport(source.where)
    for name, array in ours.items():
        if name not in theirs:
            report.new.append(name)
        elif theirs[name].shape == array.shape:
            report.loaded.append(name)
        elif name.startswith(("bert/", "mlm/")):
            raise InputError(
                f"{source.where}: {name} has shape {theirs[name].shape} there and {array.shape} in this experiment's "
                "model; leave the experiment's `model` out to take the source's"
            )
        else:
            report.new.append(f"{name} ({theirs[name].shape} there, {array.shape} here)")
    report.left_out = sorted(theirs.keys() - ours.keys())
    if not any(name.startswith("bert/") for name in report.loaded):
        raise InputError(f"{source.where}: none of the encoder's arrays is there, only {', '.join(sorted(theirs))}")
    taken = set(report.loaded)

    def choose(path: Any, array: Any) -> Any:
        name = "/".join(key.key for key in path)
        return np.asarray(theirs[name], dtype=array.dtype) if name in taken else array

    return jax.tree.map_with_path(choose, params), report
