"""Vectors of many rows: bert_jax's bulk work and `SentenceTransformer.encode`, which needs sentence-transformers."""

import argparse
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import timing
from bert_jax import bulk
from bert_jax.answering import no_change
from bert_jax.data import parquet
from bert_jax.data.row_errors import RowErrors
from bert_jax.data.rows import stream_rows
from bert_jax.runtime import set_up

THEIRS = "SentenceTransformer"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this benchmark."""
    parser.add_argument("--model", required=True, help="a folder of sentence-transformers, such as MiniLM's")
    parser.add_argument("--texts", required=True, help="rows with text")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[64, 32])


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures both with each batch size, from rows in memory to a file of vectors, without loading and compiling."""
    print(f"\n{timing.HEADER}", flush=True)
    results = []
    for size in options.batch_size:
        arguments = (options.model, options.texts, options.rows, size)
        works = {timing.OURS: (ours, *arguments), THEIRS: (theirs, *arguments)}
        work = f"vectors of {options.rows:,} rows, batch {size}"
        results.append(timing.result(work, "rows/s", timing.alternate(works, options.rounds), {THEIRS: 1.5}))
    return results


def ours(model: str, texts: str, count: int, batch_size: int) -> Callable[[], int]:
    """Returns the work on one window of rows, as `bert_jax embed` does it."""
    set_up()
    bert, _ = bulk.embedding(model, "text", None, no_change, print)
    worker = bulk.Bulk(bert, bulk.Options(count, batch_size))
    rows = list(itertools.islice(stream_rows(texts), count))

    def embed() -> int:
        batches, _ = worker.prepare(bulk.Window(0, rows, list(range(count)), RowErrors()))
        assert batches is not None
        vectors = worker.predictions(batches)["vectors"][:, 0]
        _written(np.arange(count), vectors)
        return count

    return embed


def theirs(model: str, texts: str, count: int, batch_size: int) -> Callable[[], int]:
    """Returns the same with `SentenceTransformer.encode`."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(model, device="cpu")
    sentences = [row.values["text"] for row in itertools.islice(stream_rows(texts), count)]

    def embed() -> int:
        _written(np.arange(count), encoder.encode(sentences, batch_size=batch_size, show_progress_bar=False))
        return count

    return embed


def _written(rows: np.ndarray, vectors: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "part.parquet").write_bytes(parquet.vectors_table({"row": rows}, vectors, "parquet"))
