"""The commands that work on any number of rows, `predict` and `embed`: parsing only, as in `cli`."""

import gc
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from bert_jax import flags
from bert_jax.config.ranges import COUNT, check_range
from bert_jax.errors import InputError

if TYPE_CHECKING:
    from bert_jax.bulk import Options

# Paths stay text here, so that gs://... arrives unchanged and --help needs no library for files.
Path = Annotated[str, tyro.conf.arg(metavar="PATH")]
Paths = Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH [PATH ...]")]
SourceArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
SHARD_ROWS, BATCH_SIZE = 16_384, 64
TaskFlags = Annotated[tuple[str, ...], tyro.conf.Fixed, tyro.conf.Suppress]


def say_on_stderr(line: str) -> None:
    """Prints a line that is not part of a command's output."""
    print(line, file=sys.stderr)


def predict(
    source: SourceArgument,
    input: Paths = ("-",),
    out: Path | None = None,
    shard_rows: int = SHARD_ROWS,
    batch_size: int = BATCH_SIZE,
    on_bad_row: Literal["stop", "skip"] = "stop",
    several_hosts: bool = False,
    task_flags: TaskFlags = (),
) -> None:
    """Predicts for rows: what the model's task predicts or, with an MLM head, the best tokens for each [MASK].

    After the source, fields of its task can be given other values by the flags of `bert_jax train`, such as --task.text
    sentence or --task.unanswerable.

    Args:
        source: The model: a run's workdir, WORKDIR@STEP, WORKDIR@mean:N (the mean of its latest N checkpoints), a
            Hugging Face folder or hf:org/name.
        input: Rows with the fields that the task reads (such as "text"), in any format of the training rows; - is
            standard input, in JSON lines. Several files, and patterns such as 'rows-*.jsonl', need --out.
        out: A folder for the answers, as files of JSON lines, instead of standard output. If this command is
            interrupted, run it again to continue.
        shard_rows: With --out: rows of the input whose answers are in one file.
        batch_size: With --out: rows that are computed at once, fewer if their texts are long.
        on_bad_row: What to do with a row that cannot be used: stop, or skip it; it then gets no answer, and a line
            counts and names such rows.
        several_hosts: With --out: this process is one of several, as for `bert_jax train`; each answers its part.
    """
    from bert_jax import files

    change = partial(flags.task_values, "predict", task_flags)
    if out is not None:
        from bert_jax.bulk import predict_files

        options = _options(shard_rows, batch_size, on_bad_row, several_hosts)
        total = predict_files(source, input, out, options, change=change, say=say_on_stderr)
        print(files.json_text({"out": out, **total}))
        return
    if len(input) != 1 or "*" in input[0]:
        raise InputError("--input: several files need --out, a folder for the answers")
    gc.disable()  # until the first answer: it would look through a million objects of libraries, several times
    try:
        from bert_jax.answering import predict_source

        for answer in predict_source(source, input[0], say_on_stderr, change, on_bad_row == "skip"):
            gc.enable()
            print(files.json_text(answer), flush=True)
    finally:
        gc.enable()


def embed(
    source: SourceArgument,
    input: Paths,
    out: Path,
    field: str = "text",
    id: str | None = None,
    prompt: str | None = None,
    dimensions: int | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    format: Literal["parquet", "arrow"] = "parquet",
    shard_rows: int = SHARD_ROWS,
    batch_size: int = BATCH_SIZE,
    on_bad_row: Literal["stop", "skip"] = "stop",
    several_hosts: bool = False,
    task_flags: TaskFlags = (),
) -> None:
    """Writes a vector for each row to a folder of Parquet or Arrow files, for any number of rows.

    If this command is interrupted, run it again to continue. The files have the columns "row", the number of the row in
    the input, from 0, and "vector". After the source, flags such as --task.pooling cls change how a text becomes a
    vector.

    Args:
        source: The model: a run's workdir, WORKDIR@STEP, WORKDIR@mean:N, a folder of sentence-transformers or Hugging
            Face, or hf:org/name. If its files do not define vectors of texts, they are the means of all states.
        input: Rows, in any format of the training rows; also patterns such as 'rows-*.jsonl'; - is standard input.
        out: The folder to write.
        field: The field or column with the text.
        id: A field whose value becomes the column "id".
        prompt: Name of the model's prompt to put before each text, such as query. By default its default prompt.
        dimensions: Keep only the first N numbers of each vector, for models that were trained for that.
        dtype: Numbers of the vectors.
        format: parquet; or arrow, a stream of record batches, as Hugging Face's `datasets` writes it.
        shard_rows: Rows of the input in one file.
        batch_size: Rows that are computed at once, fewer if their texts are long.
        on_bad_row: What to do with a row that cannot be used: stop, or skip it; a line counts and names such rows.
        several_hosts: This process is one of several, as for `bert_jax train`; each embeds its part of the rows.
    """
    from bert_jax import files
    from bert_jax.bulk import embed_files

    if dimensions is not None:
        check_range("--dimensions", dimensions, COUNT)
    options = _options(shard_rows, batch_size, on_bad_row, several_hosts)
    vectors: dict[str, Any] = {"field": field, "identifier": id, "prompt": prompt}
    vectors |= {"dimensions": dimensions, "dtype": dtype, "form": format}
    change = partial(flags.task_values, "embed", task_flags)
    total = embed_files(source, input, out, options, change=change, say=say_on_stderr, **vectors)
    print(files.json_text({"out": out, **total}))


def _options(shard_rows: int, batch_size: int, on_bad_row: str, several_hosts: bool) -> "Options":
    """Returns the options that both commands have."""
    check_range("--shard-rows", shard_rows, COUNT)
    check_range("--batch-size", batch_size, COUNT)
    from bert_jax.bulk import Options

    part = (0, 1)
    if several_hosts:
        from bert_jax import hosts

        part = hosts.part()
    return Options(shard_rows, batch_size, on_bad_row == "skip", part)
