"""Reads workdirs: records of runs, and variants, which are runs that differ only in their seed.

Reports are often made while runs are still training or after they were killed. So a file that is missing, cut off or
malformed is not an error: only its content is missing, and `RunRecord.problems` lists it.
"""

import dataclasses
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bert_jax import files
from bert_jax.errors import InputError
from bert_jax.runs import layout

# Folders inside a workdir that contain no runs and possibly very many files.
_NOT_RUNS = frozenset({layout.CHECKPOINTS, layout.TOKENIZER, "store"})
_RUN_FILES = (layout.EXPERIMENT, layout.METRICS, layout.RESULT)


@dataclass(frozen=True)
class RunRecord:
    """The files of one workdir of `bert_jax train`."""

    path: files.Path  # the folder
    name: str  # the folder's path, shortened but still unique in the report
    experiment: dict[str, Any]  # experiment.json; empty if it could not be read
    figures: dict[tuple[str, str], dict[int, float]]  # {(figure, split): {step: value}}, from metrics.jsonl
    speed: list[dict[str, float]]  # the lines of speed.jsonl
    result: dict[str, Any]  # result.json; empty if there is none yet
    problems: tuple[str, ...]  # one sentence for each missing or broken file, or value that is not finite
    other_scores: dict[str, dict[str, float]] = field(default_factory=dict)  # by file: those of `evaluate --data`

    @property
    def kind(self) -> str:
        """The name of the task's dataclass: only runs of one kind are compared."""
        task = self.experiment.get("task")
        return str(task["kind"]) if isinstance(task, dict) and "kind" in task else "Unknown task"

    @property
    def step(self) -> int:
        """The last step in any of the files."""
        steps = [step for curve in self.figures.values() for step in curve]
        steps += [int(line["step"]) for line in self.speed if "step" in line]
        return max([*steps, _whole(self.result.get("step"))])

    @property
    def planned_steps(self) -> int | None:
        """The experiment's number of steps; None if it is given in epochs."""
        return _whole(self.experiment.get("steps")) or None

    @property
    def finished(self) -> bool:
        """True if the last planned step was evaluated; without planned steps, if there is a result."""
        return bool(self.result) and _whole(self.result.get("step")) >= (self.planned_steps or 0)

    @property
    def scores(self) -> dict[str, float]:
        """The metrics of result.json or, before that exists, of the last evaluation in metrics.jsonl."""
        if self.result:
            return numbers(self.result.get("metrics"))
        return {name: curve[max(curve)] for (name, split), curve in self.figures.items() if split == "eval"}


@dataclass(frozen=True)
class Variant:
    """One experiment, run with one seed or with several."""

    name: str  # the common part of its runs' names
    runs: tuple[RunRecord, ...]  # in the order of their names

    @property
    def fields(self) -> dict[str, Any]:
        """{path of a field: value} of the experiment, without the seed."""
        return dict(_flatten({key: value for key, value in self.runs[0].experiment.items() if key != "seed"}))


@dataclass(frozen=True)
class RunNotes:
    """Tables and texts of notes.json files, shown at the top of a report."""

    tables: list[dict[str, Any]] = field(default_factory=list)  # each with "title", "columns" and "rows"
    texts: list[dict[str, Any]] = field(default_factory=list)  # each with "title" and "lines"
    problems: tuple[str, ...] = ()  # why a notes.json, or a part of it, is not shown


def find_runs(workdirs: Sequence[files.Path]) -> tuple[list[RunRecord], RunNotes]:
    """Reads every run in the given folders and in the folders below them, in natural order of their names.

    Raises:
      InputError: a path is not a folder, or contains neither a run nor a notes.json.
    """
    folders, noted = find_folders(workdirs)
    top = files.common_folder(folders or noted)
    runs = [read_run(path, path.relative_to(top).as_posix() if path != top else path.name) for path in folders]
    return sorted(runs, key=lambda run: _natural(run.name)), _read_notes(noted)


def find_folders(workdirs: Sequence[files.Path]) -> tuple[list[files.Path], list[files.Path]]:
    """Returns the folders with a run and those with a notes.json, each once, without reading the files.

    Raises:
      InputError: a path is not a folder, or contains neither a run nor a notes.json.
    """
    runs: dict[files.Path, None] = {}
    noted: dict[files.Path, None] = {}
    for workdir in workdirs:
        if not workdir.is_dir():
            what = "is a file" if workdir.exists() else "does not exist"
            raise InputError(f"{workdir}: {what}; give a workdir of `bert_jax train`, or a folder of such workdirs")
        folders = [files.resolve(folder) for folder in _folders(workdir)]
        here = [folder for folder in folders if any((folder / name).is_file() for name in _RUN_FILES)]
        with_notes = [folder for folder in folders if (folder / layout.NOTES).is_file()]
        if not here and not with_notes:
            raise InputError(
                f"{workdir}: contains no run, and neither do its subfolders; a run has the file {layout.EXPERIMENT} "
                "that `bert_jax train --workdir` writes"
            )
        runs |= dict.fromkeys(here)
        noted |= dict.fromkeys(with_notes)
    return list(runs), list(noted)


def read_run(path: files.Path, name: str) -> RunRecord:
    """Reads one workdir, in any state."""
    problems: list[str] = []
    figures: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    not_finite: dict[str, int] = {}
    for line in _read_lines(path / layout.METRICS, problems):
        for figure, value in line.items():
            if figure in ("step", "split") or not (value is None or is_number(value)):
                continue
            if value is not None and _is_finite(value):
                figures[figure, str(line.get("split", "train"))][_whole(line.get("step"))] = value
            else:
                not_finite.setdefault(figure, _whole(line.get("step")))
    problems += [f"{figure} was not a finite number at step {step:,}" for figure, step in not_finite.items()]
    speed = path / layout.SPEED
    result = path / layout.RESULT
    run = RunRecord(
        path,
        name,
        _read_object(path / layout.EXPERIMENT, problems),
        dict(figures),
        [numbers(line) for line in _read_lines(speed, problems)] if speed.exists() else [],
        _read_object(result, problems) if result.exists() else {},
        (),
        _read_other_scores(path / layout.RESULTS, problems),
    )
    if not run.finished:
        steps = f"{run.step:,} of {run.planned_steps:,}" if run.planned_steps else f"{run.step:,}"
        scores = "scores are from the last evaluation" if run.scores else "not evaluated yet"
        problems.insert(0, f"still running or stopped at step {steps}: {scores}")
    return dataclasses.replace(run, problems=tuple(problems))


def group_seeds(runs: Iterable[RunRecord]) -> list[Variant]:
    """Groups runs whose experiments differ only in `seed`, in the order of each group's first run.

    If a seed occurs twice in a group, the runs are repetitions and not a sample. Then each folder is a group.
    """
    same: dict[str, list[RunRecord]] = defaultdict(list)
    for run in runs:
        rest = {key: value for key, value in run.experiment.items() if key != "seed"}
        same[json.dumps(rest, sort_keys=True) if rest else run.name].append(run)
    variants = []
    for group in same.values():
        by_folder: dict[files.Path, list[RunRecord]] = defaultdict(list)
        repeated = len({str(run.experiment.get("seed")) for run in group}) < len(group)
        for run in group:
            by_folder[run.path.parent if repeated else files.Path()].append(run)
        variants += [Variant(_common_name(part), tuple(part)) for part in by_folder.values()]
    names = [variant.name for variant in variants]
    return [Variant(v.runs[0].name, v.runs) if names.count(v.name) > 1 else v for v in variants]


def numbers(value: Any) -> dict[str, float]:
    """Returns the entries of a dict that are finite numbers; {} for any other value."""
    if not isinstance(value, dict):
        return {}
    return {str(key): item for key, item in value.items() if is_number(item) and _is_finite(item)}


def is_number(value: Any) -> bool:
    """Returns True if a JSON value is a number that fits in a float; booleans are not numbers."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, float)


def _whole(value: Any) -> int:
    return int(value) if is_number(value) and _is_finite(value) else 0


def _is_finite(value: float) -> bool:
    # Larger than any float32: only a broken file contains such numbers, and their squares overflow.
    return math.isfinite(value) and abs(value) < 1e100


def _natural(name: str) -> list[tuple[float, str]]:
    # Digits compare as numbers: limit-1000 follows limit-100, and lr3e-5 precedes lr1e-4.
    parts = re.split(r"(\d+(?:\.\d+)?(?:e-?\d+)?)", name)
    return [(float(part), "") if i % 2 else (-1.0, part) for i, part in enumerate(parts)]


def _folders(top: files.Path) -> Iterator[files.Path]:
    for folder, _ in files.walk(top, skip=lambda name: name in _NOT_RUNS or name.startswith(".")):
        yield folder


def _flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield path, value
        return
    for key, item in value.items():
        yield from _flatten(item, f"{path}.{key}" if path else str(key))


def _common_name(runs: list[RunRecord]) -> str:
    """Returns the name of a group of seeds: its runs' names without the seed's number."""
    if len(runs) == 1:
        return runs[0].name
    common = []
    for column in zip(*(run.name.split("/") for run in runs), strict=False):
        parts = set(column)
        if len(parts) > 1:
            parts = {re.sub(r"(?:(?:^|[-_ .]+)(?:seed|s)?)?[-_ .=]*\d+$", "", part) for part in parts}
        common.append(parts.pop() if len(parts) == 1 else "")
    return "/".join(filter(None, common)) or runs[0].path.parent.name


def _read_object(path: files.Path, problems: list[str]) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        problems.append(f"{path.name} is missing")
        return {}
    except (OSError, ValueError, RecursionError):
        problems.append(f"{path.name} could not be read as JSON: it may be half-written")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{path.name} is not a JSON object")
        return {}
    return value


def _read_other_scores(folder: files.Path, problems: list[str]) -> dict[str, dict[str, float]]:
    results = [_read_object(path, problems) for path in files.matching(folder, "*.json")]
    scores = {str(result.get("data")): numbers(result.get("metrics")) for result in results}
    return {data: figures for data, figures in scores.items() if figures}


def _read_lines(path: files.Path, problems: list[str]) -> list[dict[str, Any]]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        problems.append(f"{path.name} is missing")
        return []
    objects = []
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError
            objects.append(value)
        except (ValueError, RecursionError):
            problems.append(
                f"{path.name}: its last line is cut off"
                if number == len(lines)
                else f"{path.name}:{number} is not a JSON object"
            )
    return objects


def _read_notes(folders: Iterable[files.Path]) -> RunNotes:
    tables: list[dict[str, Any]] = []
    texts: list[dict[str, Any]] = []
    problems: list[str] = []
    for folder in folders:
        broken: list[str] = []
        value = _read_object(folder / layout.NOTES, broken)
        problems += [f"{folder.name}: {problem}" for problem in broken]
        for key, into, content in (("tables", tables, "rows"), ("texts", texts, "lines")):
            items = value.get(key, [])
            for item in items if isinstance(items, list) else [None]:
                if isinstance(item, dict) and isinstance(item.get(content), list):
                    into.append(item)
                else:
                    problems.append(f'{folder.name}: {layout.NOTES}: an entry of "{key}" has no list of {content}')
    return RunNotes(tables, texts, tuple(problems))
