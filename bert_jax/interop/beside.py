"""Our own file in a Hugging Face folder: what a trained model needs and the folder's other files have no place for."""

from dataclasses import fields, replace
from typing import Any

from bert_jax import files
from bert_jax.config import TASK_KINDS, Compute, TaskFields, TextVectors, from_json, to_json
from bert_jax.errors import InputError

NAME = "bert_jax.json"
FORMATS = ("dtype", "param_dtype")  # the fields of `Compute` that change answers


def read(folder: files.Path) -> dict[str, Any]:
    """Returns the file's content: {"task": ..., "compute": ...}, both optional; empty without the file."""
    return files.read_json(folder / NAME) if (folder / NAME).exists() else {}


def kind_of(architecture: str | None) -> type[TaskFields] | None:
    """Returns the task of a class of transformers, such as "ForTokenClassification"; None if it has no task."""
    kinds = (kind for kind in TASK_KINDS.values() if kind.hugging_face_class)
    return next((kind for kind in kinds if kind.hugging_face_class == architecture), None)


def with_fields(task: TaskFields | None, ours: Any, where: str) -> TaskFields:
    """Returns the task with the fields in `ours`, which is what the file has under "task".

    Args:
      task: as the folder's config.json describes it.
      where: the file, for errors.

    Raises:
      InputError: the fields are those of another task than config.json has, or a field is wrong.
    """
    kind = type(task).__name__ if task else "none"
    if task is None or not isinstance(ours, dict) or ours.get("kind") != kind:
        theirs = ours.get("kind") if isinstance(ours, dict) else ours
        raise InputError(f"{where}: has fields of the task {theirs!r}, but the task in config.json is {kind!r}")
    names = ours.keys() - {"kind"}
    known = _names(type(task))
    if unknown := sorted(names - known):
        raise InputError(f"{where}: unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}")
    values = from_json(type(task), {name: ours[name] for name in names}, f"{where}: task")
    return replace(task, **{name: getattr(values, name) for name in names})


def is_assumed(task: TaskFields) -> bool:
    """Returns whether a task has the fields that a folder without this file has, and was not trained here."""
    known = {field.name: field.default for field in fields(task)}
    names = _names(type(task)) - {"max_length"}
    return not getattr(task, "train", "") and all(getattr(task, name) == known[name] for name in names)


def compute_of(ours: dict[str, Any], where: str) -> Compute:
    """Returns the number formats in the file's content, or the defaults."""
    return from_json(Compute, ours.get("compute", {}), f"{where}: compute")


def write(folder: files.Path, task: TaskFields | None, compute: Compute) -> list[str]:
    """Writes the file, if there is anything for it.

    Returns:
      What transformers does otherwise with the folder, as sentences for the user.
    """
    ours: dict[str, Any] = {}
    notes: list[str] = []
    kind = kind_of(task.hugging_face_class) if task else None
    if isinstance(task, TextVectors):  # the files of sentence-transformers define the task
        kind = type(task)
    if task is not None and kind is not None:
        values = to_json(task)
        ours["task"] = {"kind": kind.__name__} | {name: values[name] for name in sorted(_names(kind))}
        notes += task.unknown_to_hugging_face
    if compute != Compute():
        ours["compute"] = {name: getattr(compute, name) for name in FORMATS}
        notes.append(f"bert_jax computes in {compute.dtype}, as in training; transformers does in float32")
    if ours:
        files.write_json(folder / NAME, ours)
        notes.append(f"{NAME} has what only bert_jax reads")
    return notes


def _names(kind: type[TaskFields]) -> set[str]:
    return {field.name for field in fields(kind)} - kind.for_training - kind.in_hugging_face
