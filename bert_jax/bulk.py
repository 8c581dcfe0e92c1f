"""Vectors or answers for any number of rows: with little memory, in shards, and an interrupted run continues.

The input is read window by window. A window's rows are computed sorted by length, so that padding is small, and become
one shard, which is written whole. So the shards that are there tell where to continue, and a shard depends on its own
rows alone: whether a run was interrupted changes no byte.
"""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from bert_jax import files, tasks
from bert_jax import params as named
from bert_jax.amounts import time_text
from bert_jax.answering import Change, filled_masks, no_change, open_for_rows
from bert_jax.config import SentenceEmbedding, TextVectors, to_json
from bert_jax.data import parquet
from bert_jax.data.batches import ByLength, RowBatches
from bert_jax.data.row_errors import MOST_REPORTED, BadRowsError, RowErrors
from bert_jax.data.rows import Row, read_json_lines, stream_rows
from bert_jax.data.summary import Summary
from bert_jax.devices import Devices
from bert_jax.errors import InputError
from bert_jax.predict import PretrainedBert, load
from bert_jax.training.evaluate import run
from bert_jax.training.step import evaluate_step

# More lengths than in training: with thousands of batches, compiling more shapes costs less than padding.
BUCKETS = (*range(8, 48, 4), *range(48, 64, 8), *range(64, 128, 16), *range(128, 256, 32), *range(256, 512, 64))
BUCKETS += (512, 768, 1024, 2048)
LONG = 128  # tokens; where texts are longer, fewer are computed at once, so that they need no more memory
CACHED = 1024  # tokens that are computed at once on a CPU, whose caches hold what is computed of them
SETTINGS, END, PARTS = "_settings.json", "_end.json", "_parts"  # names that readers of a folder of Parquet leave out
SAY_EVERY = 10.0  # seconds between two lines of progress
LINES = (".jsonl", ".tsv", ".csv")  # endings of files with about a line for each row
UNCOMPARED = frozenset({"source"})  # settings that decide nothing: the same model may have another path


class Options(NamedTuple):
    """How rows are worked on, whatever is made of them."""

    shard_rows: int  # rows of the input in a shard
    batch_size: int  # rows that are computed at once, fewer if they are long
    skip: bool = False  # leave out bad rows, instead of an error
    part: tuple[int, int] = (0, 1)  # (host, hosts): every host makes each `hosts`-th shard


class Window(NamedTuple):
    """Rows of the input that follow each other."""

    number: int
    rows: list[Row]
    numbers: list[int]  # of each row among all rows of the input, bad ones included, from 0
    unread: RowErrors  # the problems of rows that cannot be read at all

    def numbers_of(self, rows: Sequence[Row]) -> list[int]:
        """Returns the numbers of some of the rows."""
        number_of = {id(row): number for row, number in zip(self.rows, self.numbers, strict=True)}
        return [number_of[id(row)] for row in rows]


def windows(
    inputs: Sequence[str], size: int, skip: bool, wanted: Callable[[int], bool], columns: Sequence[str] = ()
) -> Iterator[Window]:
    """Yields the windows of `size` rows whose numbers are `wanted`; the others are read, and forgotten.

    Args:
      inputs: sources of rows, one after the other, or "-" for JSON lines from standard input.
      skip: leave out rows that cannot be read, instead of an error.
    """
    errors = RowErrors() if skip else None
    window, left_out = Window(0, [], [], RowErrors()), 0
    for count, row in enumerate(_rows(inputs, columns, errors)):
        window.rows.append(row)
        window.numbers.append(count + left_out + (errors.count if errors else 0))
        if len(window.rows) == size:
            unread = errors.take() if errors else RowErrors()
            left_out += unread.count
            if wanted(window.number):
                yield window._replace(unread=unread)
            window = Window(window.number + 1, [], [], RowErrors())
    unread = errors.take() if errors else RowErrors()
    if (window.rows or unread.count) and wanted(window.number):
        yield window._replace(unread=unread)


def _rows(inputs: Sequence[str], columns: Sequence[str], errors: RowErrors | None) -> Iterator[Row]:
    for source in inputs:
        if source == "-":
            for rows in read_json_lines(files.standard_input(), "stdin", errors):
                yield from rows
        else:
            yield from stream_rows(source, columns, "jsonl", errors)


class Shards:
    """A folder of numbered files, each written whole.

    Args:
      folder: made if needed.
      settings: everything that decides the files' content, as JSON.
      ending: of the files' names.
      part: see `Options`; the first host writes the settings.

    Raises:
      InputError: the folder holds something else, or shards that were made with other settings.
    """

    def __init__(self, folder: files.Path, settings: dict[str, Any], ending: str, part: tuple[int, int] = (0, 1)):
        self.folder, self._ending = folder, ending
        stored = folder / SETTINGS
        if stored.exists():
            self._check(files.read_json(stored), settings)
            return
        host, hosts = part
        ours: tuple[str, ...] = (PARTS, SETTINGS)  # what a kill before the first shard leaves
        if hosts > 1:
            ours += (END, "part-")  # others may be earlier than the first host
        if folder.exists() and any(not path.name.startswith(ours) for path in files.matching(folder, "*")):
            raise InputError(f"{folder}: holds something else; name a new folder")
        files.make_folder(folder / PARTS)
        if host == 0:
            files.write_json(stored, settings)

    def _check(self, stored: dict[str, Any], settings: dict[str, Any]) -> None:
        names = [name for name in {**stored, **settings} if name not in UNCOMPARED]
        for name in names:
            was, now = stored.get(name), settings.get(name)
            if was != now:
                model = f", from {stored.get('source')}" if name == "model" else ""
                raise InputError(
                    f"{self.folder}: was begun with another {name}: {_shown(was)} there{model}, {_shown(now)} here; "
                    "name another folder"
                )

    def done(self, number: int) -> bool:
        """Returns whether a shard is there."""
        return self._path(number).exists()

    def write(self, number: int, content: bytes, summary: Summary) -> None:
        """Writes a shard, and before it what became of its rows."""
        counts = {
            "rows": summary.rows,
            "skipped": summary.skipped.count,
            "problems": summary.skipped.lines()[:MOST_REPORTED],
            "cut": summary.cut,
            "lost": summary.lost,
            "tokens": summary.tokens,
        }
        files.write_json(self.folder / PARTS / f"{number:05d}.json", counts)
        files.write_whole(self._path(number), content)

    def end(self, say: Callable[[str], None]) -> dict[str, int]:
        """Adds up what became of all rows, stores it, and returns it; `say` gets lines about bad and cut rows."""
        total: dict[str, int] = {}
        problems: list[str] = []
        for path in files.matching(self.folder / PARTS, "*.json"):
            counts = files.read_json(path)
            problems += counts.pop("problems")[: MOST_REPORTED - len(problems)]
            total = {name: total.get(name, 0) + count for name, count in counts.items()}
        files.write_json(self.folder / END, total)
        if skipped := total.get("skipped", 0):
            listed = "\n  ".join(problems) + (f"\n  ... and {skipped - len(problems)} more" * (skipped > len(problems)))
            say(f"{skipped:,} of {skipped + total['rows']:,} rows were skipped:\n  {listed}")
        if total.get("cut"):
            share = total["lost"] / total["tokens"]
            say(f"{total['cut']:,} of {total['rows']:,} rows were cut; {share:.1%} of all tokens were lost")
        return total

    def _path(self, number: int) -> files.Path:
        return self.folder / f"part-{number:05d}{self._ending}"


def _shown(value: Any) -> str:
    text = files.json_text(value)
    return text if len(text) <= 60 else text[:57] + "..."


class Progress:
    """Prints from time to time how many rows are done, how fast it goes and how long it will take."""

    def __init__(self, total: int | None, say: Callable[[str], None]):
        self._total, self._say = total, say
        self._start = self._said = time.monotonic()
        self._done = self._earlier = 0

    def skip(self, rows: int) -> None:
        """Counts rows that an earlier run has done."""
        self._earlier += rows

    def add(self, rows: int) -> None:
        """Counts rows that are done now."""
        self._done += rows
        now = time.monotonic()
        if now - self._said < SAY_EVERY:
            return
        self._said = now
        done, rate = self._earlier + self._done, self._done / (now - self._start)
        left = "" if self._total is None else f", {time_text(max(0, self._total - done) / rate)} left"
        of_all = "" if self._total is None else f" of {self._total:,}"
        self._say(f"{done:,}{of_all} rows, {rate:,.0f} rows/s{left}")


def about(inputs: Sequence[str]) -> int | None:
    """Returns about how many rows the inputs have; None if that takes reading them as rows."""
    total = 0
    for source in inputs:
        path = files.path(source) if source != "-" else None
        if path is None or not path.is_file():
            return None
        ending = files.path(files.without_compression(source)).suffix
        if ending == ".parquet":
            total += parquet.num_rows(source)
        elif ending in LINES:
            total += _lines(source)
        else:
            return None
    return total


def _lines(source: str) -> int:
    with files.errors_named(source), files.open_bytes(source) as raw:
        stream = files.decompressed(raw, source)
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


def ahead(items: Iterator[Any], prepare: Callable[[Any], Any]) -> Iterator[tuple[Any, Any]]:
    """Yields each item with prepare(item); a thread prepares the next one while the caller works on this one."""
    with ThreadPoolExecutor(1) as pool:

        def take() -> tuple[Any, Any] | None:
            item = next(items, None)
            return None if item is None else (item, prepare(item))

        future = pool.submit(take)
        while (pair := future.result()) is not None:
            future = pool.submit(take)
            yield pair


class Bulk:
    """A model on all devices of this host, for windows of rows."""

    def __init__(self, bert: PretrainedBert, options: Options):
        assert bert.task is not None
        task = tasks.make(bert.task, bert.config, bert.tokenizer, bert.compute)
        if not isinstance(task, tasks.Answering):
            raise InputError("a pre-training run fills masks; it has no task to predict with")
        self.task, self._bert, self._skip = task, bert, options.skip
        local = jax.local_devices()
        self._batch_size = -(-options.batch_size // len(local)) * len(local)
        self._most_tokens = CACHED if local[0].platform == "cpu" else LONG * self._batch_size
        self._count = len(local)
        devices = Devices("auto", self._batch_size, devices=local)
        self._step = devices.wrap(evaluate_step, returns_state=False, loss_fn=task.loss_fn)
        self._params = devices.place(bert.params)

    def prepare(self, window: Window) -> tuple[RowBatches | None, Summary]:
        """Returns batches of a window's rows, None if there are none or all are bad, and what became of the rows."""
        if not window.rows:
            return None, Summary()
        self._bert.check_second_text(window.rows)
        try:
            batches = self.task.predict_batches(window.rows, batch_size=self._batch_size, skip=self._skip)
        except BadRowsError as error:
            if not self._skip:
                raise
            return None, Summary(skipped=error.errors)
        return batches, batches.summary

    def predictions(self, batches: RowBatches) -> dict[str, np.ndarray]:
        """Returns the predictions for all rows of the batches, in their order."""
        by_length = ByLength(batches, self._batch_size, self._most_tokens, self._count, BUCKETS)
        return run(partial(self._step.over, self._params), by_length)[2]


def fingerprint(bert: PretrainedBert) -> str:
    """Returns a hash of a model's weights, architecture and vocabulary."""
    digest = hashlib.sha256(f"{bert.config}{bert.compute}{bert.tokenizer.fingerprint}".encode())
    for name, array in sorted(named.flatten(jax.device_get(bert.params)).items()):
        digest.update(f"{name}{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]


def work(
    shards: Shards,
    inputs: Sequence[str],
    prepare: Callable[[Window], Any],
    finish: Callable[[Window, Any], tuple[bytes, Summary]],
    options: Options,
    say: Callable[[str], None],
    columns: Sequence[str] = (),
) -> dict[str, int]:
    """Makes all shards that are not there, and returns what became of all rows.

    Args:
      prepare: what a thread makes of a window ahead.
      finish: (window, prepared) -> the shard's bytes, and what became of its rows.
    """
    progress = Progress(about(inputs), say)
    size, (host, hosts) = options.shard_rows, options.part

    def wanted(number: int) -> bool:
        mine = number % hosts == host
        if mine and shards.done(number):
            progress.skip(size)
        return mine and not shards.done(number)

    for window, prepared in ahead(windows(inputs, size, options.skip, wanted, columns), prepare):
        content, summary = finish(window, prepared)
        shards.write(window.number, content, summary.with_unread(window.unread))
        progress.add(len(window.rows))
    return shards.end(say)


def expand(inputs: Sequence[str]) -> list[str]:
    """Returns the inputs with patterns such as data/*.jsonl replaced by the files that they match."""
    expanded: list[str] = []
    for one in inputs:
        matches = [str(path) for path in files.expand(one)] if "*" in one else [one]
        if not matches:
            raise InputError(f"{one}: no file has such a name")
        expanded += matches
    return expanded


def _settings(source: str, bert: PretrainedBert, inputs: Sequence[str], options: Options) -> dict[str, Any]:
    """Returns the settings that vectors and answers have."""
    sizes = [[one, files.size(one) if one != "-" and files.path(one).is_file() else None] for one in inputs]
    decisive = {name: getattr(options, name) for name in ("shard_rows", "batch_size", "skip")}
    return {"source": source, "model": fingerprint(bert), "input": sizes, **decisive}


def embedding(
    source: str, field: str, prompt: str | None, change: Change, say: Callable[[str], None]
) -> tuple[PretrainedBert, SentenceEmbedding]:
    """Loads a SOURCE as a model that gives a vector for the text in `field`, and returns it and its task.

    Raises:
      InputError: its files define vectors that cannot be computed, or it has no such prompt.
    """
    bert = load(source)
    if bert.vectors_problem:
        raise InputError(bert.vectors_problem)
    for note in bert.notes:
        say(f"{source}: {note}")
    task = bert.task
    if not isinstance(task, SentenceEmbedding):
        say(
            f"{source}: does not define vectors of texts; these are means of all states, not normalised, unless "
            "--task.pooling and --task.normalized change that"
        )
        longest = bert.tokenizer.frame.longest(bert.config.max_position_embeddings)
        task = SentenceEmbedding(max_length=bert.max_length or longest, **vars(TextVectors()))
    task = dataclasses.replace(task, query=(field,), positive=(field,))
    if prompt is not None:
        task.prompt(prompt)
        task = dataclasses.replace(task, default_prompt=prompt)
    task = dataclasses.replace(task, **change(task))
    return dataclasses.replace(bert, task=task, task_problem=""), task


def _first(vectors: np.ndarray, width: int, normalized: bool) -> np.ndarray:
    """Returns the first `width` numbers of each vector, with length 1 if `normalized`."""
    if vectors.shape[1] == width:
        return vectors
    vectors = vectors[:, :width]
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12) if normalized else vectors


def embed_files(
    source: str,
    inputs: Sequence[str],
    out: str,
    options: Options,
    *,
    field: str = "text",
    identifier: str | None = None,
    prompt: str | None = None,
    dimensions: int | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    form: Literal["parquet", "arrow"] = "parquet",
    change: Change = no_change,
    say: Callable[[str], None] = print,
) -> dict[str, int]:
    """Writes a vector for each row of the inputs to a folder, and returns what became of the rows.

    A shard has the columns "row" (the row's number in the input, from 0), "id" if `identifier` names a field, and
    "vector". The same call continues an interrupted one.

    Args:
      source: the model; if it does not define vectors of texts, they are the means of all states.
      inputs: sources of rows, see `bert_jax.data.rows.read_rows`; "-" is standard input.
      field: holds the text.
      prompt: name of the prompt before each text; None = the source's default prompt.
      dimensions: keep only the first N numbers of each vector; it is normalised after that.
      change: gives fields of the task other values, such as the pooling.

    Raises:
      InputError: a row is bad, or `out` holds something else, or vectors of another model or width.
    """
    inputs = expand(inputs)
    bert, task = embedding(source, field, prompt, change, say)
    width = dimensions or bert.config.hidden_size
    if width > bert.config.hidden_size:
        raise InputError(f"--dimensions: must be at most {bert.config.hidden_size}, the model's, got {width}")
    how = {name: to_json(getattr(task, name)) for name in ("pooling", "normalized", "max_length")}
    settings: dict[str, Any] = {"width": width, "dtype": dtype, "format": form, "vectors": how, "prompt": task.prompt()}
    settings |= {"field": field, "id": identifier}
    settings |= _settings(source, bert, inputs, options)
    shards = Shards(files.path(out), settings, f".{form}", options.part)
    bulk = Bulk(bert, options)

    def finish(window: Window, prepared: tuple[RowBatches | None, Summary]) -> tuple[bytes, Summary]:
        batches, summary = prepared
        vectors = bulk.predictions(batches)["vectors"][:, 0] if batches else np.zeros((0, width), np.float32)
        vectors = _first(vectors, width, task.normalized)
        rows = batches.table if batches else []
        columns: dict[str, Any] = {"row": np.array(window.numbers_of(rows), np.int64)}
        if identifier is not None:
            columns["id"] = [str(row.values.get(identifier, "")) for row in rows]
        return parquet.vectors_table(columns, vectors.astype(dtype), form), summary

    return work(shards, inputs, bulk.prepare, finish, options, say)


def predict_files(
    source: str,
    inputs: Sequence[str],
    out: str,
    options: Options,
    *,
    change: Change = no_change,
    say: Callable[[str], None] = print,
) -> dict[str, int]:
    """Writes the answer to each row of the inputs to a folder, as JSON lines, like `embed_files` writes vectors.

    A line has the row's number in the input, "row", and the answer.
    """
    inputs = expand(inputs)
    bert, fills_masks = open_for_rows(source, say, change)
    settings: dict[str, Any] = {"task": to_json(bert.task) if bert.task else None}
    settings |= _settings(source, bert, inputs, options)
    shards = Shards(files.path(out), settings, ".jsonl", options.part)
    bulk = None if fills_masks else Bulk(bert, options)

    def finish(window: Window, prepared: Any) -> tuple[bytes, Summary]:
        if bulk is None:
            errors = RowErrors()
            pairs = list(filled_masks(bert, window.rows, errors if options.skip else None))
            rows, answers = [row for row, _ in pairs], [answer for _, answer in pairs]
            summary = Summary(len(rows), errors)
        else:
            batches, summary = prepared
            rows = batches.table if batches else []
            answers = bulk.task.decode(bulk.predictions(batches), batches.features, rows) if batches else []
        numbers = window.numbers_of(rows)
        lines = [{"row": number} | answer for number, answer in zip(numbers, answers, strict=True)]
        return "".join(files.json_text(line) + "\n" for line in lines).encode(), summary

    prepare = bulk.prepare if bulk else lambda window: None
    columns = getattr(bert.task, "columns", ())
    return work(shards, inputs, prepare, finish, options, say, columns)
