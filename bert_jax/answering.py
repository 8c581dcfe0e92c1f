"""Answers of a source to files of rows, and its evaluation on them."""

import dataclasses
import itertools
import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

from bert_jax import files, pretrained
from bert_jax import params as named
from bert_jax.config import Labelled, TaskFields, to_json
from bert_jax.data.row_errors import RowErrors
from bert_jax.data.rows import Row, read_json_lines, stream_rows, text_of
from bert_jax.data.summary import Summary
from bert_jax.errors import InputError
from bert_jax.predict import PretrainedBert, load
from bert_jax.runs import layout
from bert_jax.training.evaluate import over_seeds

LARGEST_PART = 1024  # rows whose answers are computed before the first of them is given
Change = Callable[[TaskFields | None], dict[str, Any]]  # from a source's task to the fields that get other values


def no_change(task: TaskFields | None) -> dict[str, Any]:
    """Leaves all fields of a task as they are."""
    del task
    return {}


def evaluate_source(
    source: str,
    data: str | None = None,
    say: Callable[[str], None] = print,
    change: Change = no_change,
    on_bad_row: Literal["stop", "skip"] | None = None,
) -> dict[str, Any]:
    """Evaluates a SOURCE and returns the metrics; a workdir keeps the result.

    That of the run's own rows is in result.json. That of `data` is in a file of its own in the folder `results`, and
    leaves result.json as it is. In the workdir of a run with several seeds, all seeds are evaluated; the result is that
    of `evaluate.over_seeds`.

    Args:
      say: is called with lines for the user: how the source was read, how many rows were scored, left out, or cut.
      change: gives fields of the task other values; the result on the run's own rows is then not stored.
      on_bad_row: as in `Labelled`; None = that of the run for its own rows, "stop" for `data`.
    """
    folder = files.path(source)
    runs = pretrained.seeds_in(folder)
    if runs:
        paths = {run: str(folder / layout.seed_run(run)) for run in runs}
        of_seeds = {run: evaluate_source(path, data, say, change, on_bad_row) for run, path in paths.items()}
        result = over_seeds(of_seeds)
        changed = change(pretrained.open_source(paths[runs[0]]).task)
        if data is not None:
            _write_result_of(folder, data, changed, result)
        elif not changed:
            seeds = folder / layout.SEEDS
            files.write_json(seeds, files.read_json(seeds) | result)
        return result
    bert = load(source)
    changed = change(bert.task)
    bert = bert.with_fields(**changed) if changed else bert
    for note in bert.notes:
        say(f"{source}: {note}")
    policy = on_bad_row or ("stop" if data is not None else None)
    if policy and isinstance(bert.task, Labelled):
        bert = dataclasses.replace(bert, task=dataclasses.replace(bert.task, on_bad_row=policy))
    result = bert.evaluate(data, say)
    path = folder / layout.RESULT
    if data is not None:
        del result["fitted"]  # other rows decide nothing about the run
        say(f"{source}: scored on all {result['rows']:,} rows of {data}")
        if (folder / layout.EXPERIMENT).exists():
            _write_result_of(folder, data, changed, result)
    elif path.exists() and changed:
        say(f"{path}: left as it is, because fields of the task were changed")
    elif path.exists():
        earlier = json.loads(path.read_text())
        earlier.pop("data", None)  # earlier versions wrote the scores of other files here
        files.write_json(path, earlier | result)
    return result["metrics"]


def _write_result_of(folder: files.Path, data: str, changed: dict[str, Any], result: dict[str, Any]) -> None:
    """Writes an evaluation of `data` to a file with its name; others of that name get a number."""
    results = files.make_folder(folder / layout.RESULTS)
    name = re.sub(r"[^\w.=-]+", "_", posixpath.basename(data))[-100:]
    of_what = {"data": data} | (
        {"task": {field: to_json(value) for field, value in changed.items()}} if changed else {}
    )
    for number in itertools.count(1):
        path = results / (f"{name}.json" if number == 1 else f"{name}-{number}.json")
        stored = files.read_json(path) if path.exists() else of_what
        if {key: stored[key] for key in ("data", "task") if key in stored} == of_what:
            files.write_json(path, of_what | result)
            return


def predict_source(
    source: str,
    data: str,
    say: Callable[[str], None] = print,
    change: Change = no_change,
    skip: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yields the answer to each row of `data`: the task's or, with an MLM head, the tokens for each [MASK].

    Rows are read and answered some at a time, and those of standard input when they arrive.

    Args:
      data: rows as `bert_jax.data.rows.read_rows` reads them; a file whose ending names no format holds JSON lines, and
        "-" is standard input with JSON lines.
      say: is called with lines for the user: how the source was read and, at the end, how many rows were left out or
        cut.
      change: gives fields of the task other values.
      skip: leave out bad rows instead of an error.

    Raises:
      InputError: a row is bad or lacks a field; it is named with its file and line. The rows before it were answered.
    """
    summary = Summary()
    errors = summary.skipped if skip else None
    bert, fills_masks = open_for_rows(source, say, change)
    if data == "-":
        arriving: Iterator[Iterable[Row]] = read_json_lines(files.standard_input(), "stdin", errors)
    else:
        arriving = iter([stream_rows(data, getattr(bert.task, "columns", ()), otherwise="jsonl", errors=errors)])
    for rows in arriving:
        for part in _parts(rows, bert.batch_size):
            if fills_masks:
                yield from (answer for _, answer in filled_masks(bert, part, errors))
                continue
            answers, more = bert.answer(part, skip)
            summary.add(more)
            yield from answers
    for line in summary.lines("stdin" if data == "-" else data):
        say(line)


def open_for_rows(source: str, say: Callable[[str], None], change: Change) -> tuple[PretrainedBert, bool]:
    """Loads a SOURCE that answers rows, and returns it and whether its answers are tokens for each [MASK]."""
    bert = load(source)
    changed = change(bert.task)
    bert = bert.with_fields(**changed) if changed else bert
    for note in bert.notes:
        say(f"{source}: {note}")
    return bert, bert.task.fills_masks if bert.task is not None else named.MLM in bert.params


def _parts(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Yields parts of the rows, the first of `size` rows, the next ones longer: they are computed by length.

    If a row cannot be read, the rows before it come first.
    """
    part: list[Row] = []
    try:
        for row in rows:
            part.append(row)
            if len(part) == size:
                yield part
                part, size = [], min(2 * size, LARGEST_PART)
    except InputError:
        if part:
            yield part
        raise
    if part:
        yield part


def filled_masks(
    bert: PretrainedBert, rows: Sequence[Row], skipped: RowErrors | None
) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Yields rows with a text and their answers; bad rows are added to `skipped` or, if that is None, raised."""
    for row in rows:
        errors = RowErrors()
        text = text_of(row, "text", errors)
        try:
            errors.check()
            answer = {"text": text, "fill_mask": bert.fill_mask(text)}
        except InputError as error:
            if skipped is None:
                raise
            skipped.add(row.where, str(error).removeprefix(f"{row.where}: "))
            continue
        yield row, answer
