"""Turns configs into JSON and back."""

import dataclasses
import types
import typing
from typing import Any

from bert_jax.config.experiment import Experiment
from bert_jax.config.optimizer import Optimizer
from bert_jax.config.tasks import TaskFields
from bert_jax.errors import InputError


def to_json(value: Any) -> Any:
    """Returns a config as `json.dumps` takes it; the key "kind" names the dataclass of a task or of an optimizer."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__} | fields if isinstance(value, TaskFields | Optimizer) else fields
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    return value


def from_json(annotation: Any, value: Any, where: str = "experiment") -> Any:
    """Rebuilds what `to_json` wrote, as the type `annotation`.

    Raises:
      InputError: a field is unknown or missing, or a list has another length; named with its path in `where`.
    """
    union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    options = [o for o in typing.get_args(annotation) if o is not type(None)] if union else [annotation]
    if isinstance(value, dict) and "kind" in value and all(map(dataclasses.is_dataclass, options)):
        named = {option.__name__: option for option in options}
        if value["kind"] not in named:
            raise InputError(f"{where}.kind: {value['kind']!r} is not one of {', '.join(named)}")
        return from_json(named[value["kind"]], {k: v for k, v in value.items() if k != "kind"}, where)
    if union:
        return None if value is None else from_json(options[0], value, where)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected an object with the fields of {annotation.__name__}, got {value!r}")
        hints = typing.get_type_hints(annotation)
        names = {f.name for f in dataclasses.fields(annotation)}
        if unknown := sorted(value.keys() - names):
            raise InputError(f"{where}: unknown field {unknown[0]!r}; known are {', '.join(sorted(names))}")
        return annotation(**{name: from_json(hints[name], item, f"{where}.{name}") for name, item in value.items()})
    if typing.get_origin(annotation) is tuple:
        inner = typing.get_args(annotation)
        if not isinstance(value, list):
            raise InputError(f"{where}: expected a list, got {value!r}")
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        if len(kinds) != len(value):
            raise InputError(f"{where}: expected {len(kinds)} values, got {value!r}")
        return tuple(from_json(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    return value


def experiment_from_json(value: Any, where: str) -> Experiment:
    """Rebuilds an experiment from the JSON of the file `where`.

    Raises:
      InputError: a field is unknown, or has another kind than this version writes.
    """
    try:
        return from_json(Experiment, value, where)
    except (InputError, TypeError) as error:
        problem = str(error).removeprefix(where).lstrip(".: ")
        raise InputError(
            f"{where}: {problem}; if another version of bert_jax wrote this file, use that version, or train the run "
            "again in another workdir"
        ) from None


def differences(old: Any, new: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Returns {path of a field: (old value, new value)} for the fields in which two configs, as JSON, differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        changed: dict[str, tuple[Any, Any]] = {}
        for key in sorted(old.keys() | new.keys()):
            changed |= differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        return changed
    return {} if old == new else {path: (old, new)}
