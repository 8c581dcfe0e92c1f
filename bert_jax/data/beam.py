"""Preparing on Apache Beam (the extra `beam`): the same function on each document, on whichever runner the user has.

Workers read, tokenise and write shards to a folder that all of them can reach; when all are written, this process puts
them together, in the order of the text. The store is the one that `prepare` writes, to the byte. Shards that an
interrupted pipeline left are used by the next one.
"""

import functools
import hashlib
import io
import json
import posixpath
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax import tokenizers
from bert_jax.data import corpus
from bert_jax.data.encode import Block, encode_documents
from bert_jax.data.prepare import (
    BLOCK_CHARACTERS,
    Cursor,
    Writer,
    already_finished,
    full_disk_explained,
    read_blocks,
    recipe_of,
)
from bert_jax.errors import InputError


def prepare(
    sources: Sequence[str],
    tokenizer_folder: str | Path,
    out: str | Path,
    *,
    options: Sequence[str] = (),
    shards: str | None = None,
    drop_duplicates: bool = False,
) -> dict[str, Any]:
    """Writes a token store with a Beam pipeline.

    Args:
      sources: as for `bert_jax.data.prepare.prepare`, or patterns on a file system that Beam knows (gs://...).
      tokenizer_folder: a tokenizer, on this machine; it is sent to the workers.
      out: the folder to write, on this machine: stores are memory-mapped.
      options: Beam's own, such as --runner=DataflowRunner.
      shards: a folder that all workers can write to; None = beside `out`, for runners on this machine.
      drop_duplicates: leave out documents that repeat an earlier one, exactly or nearly.

    Returns:
      The header of the store.

    Raises:
      InputError: as for `bert_jax.data.prepare.prepare`.
    """
    try:
        import apache_beam as beam
        from apache_beam.io.filesystems import FileSystems
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise InputError("preparing on Beam needs the extra: pip install 'bert_jax[beam]'") from error
    out = Path(out)
    found = find_sources(sources)
    tokenizer = tokenizers.load(Path(tokenizer_folder))
    recipe = recipe_of(found, tokenizer, drop_duplicates)
    finished = already_finished(out, recipe)
    if finished is not None:
        return finished
    name = hashlib.sha256(json.dumps([recipe, BLOCK_CHARACTERS]).encode()).hexdigest()[:16]
    # Named by what decides their content, so that shards of another text or tokenizer are never taken for these.
    folder = posixpath.join(shards or str(out.parent), f"{out.name}.shards-{name}")
    if not FileSystems.exists(folder):
        FileSystems.mkdirs(folder)
    files = tuple((path.name, path.read_bytes()) for path in sorted(Path(tokenizer_folder).iterdir()) if path.is_file())
    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        (
            pipeline
            | "Sources" >> beam.Create(list(enumerate(found)))
            | "OneEach" >> beam.Reshuffle()
            | "Read" >> beam.FlatMapTuple(read)
            | "Spread" >> beam.Reshuffle()
            | "Tokenise" >> beam.Map(write_shard, files, folder)
        )
    with full_disk_explained(out), Writer(out, recipe) as writer:
        if not writer.complete:
            for block, cursor in read_shards(folder):
                if cursor > writer.cursor:
                    writer.append(block, cursor)
        header = writer.finish(tokenizer)
    FileSystems.delete([folder])
    return header


def find_sources(sources: Sequence[str]) -> list[corpus.Source]:
    """Resolves what `corpus.find_sources` does, and patterns with a scheme (gs://...) by Beam."""
    from apache_beam.io.filesystems import FileSystems

    found: list[corpus.Source] = []
    for name in sources:
        if "://" not in name:
            found += corpus.find_sources([name])
            continue
        matched = FileSystems.match([name])[0].metadata_list
        if not matched:
            raise InputError(f"{name}: matches no file")
        found += sorted(corpus.Source(file.path, file.size_in_bytes) for file in matched)
    return list(dict.fromkeys(found)) or corpus.find_sources(sources)


def read(index: int, source: corpus.Source) -> Iterator[tuple[int, int, list[str], Cursor]]:
    """Yields the blocks of one source: (its index, number of the block, documents, cursor behind them)."""
    for number, (texts, cursor) in enumerate(read_blocks([source], Cursor(0, 0, 0), read_anywhere)):
        yield index, number, texts, cursor._replace(source=index + cursor.source)


def read_anywhere(source: corpus.Source) -> Iterator[tuple[str, int]]:
    """Reads a source through Beam's file systems; see `corpus.read_source`."""
    if source.is_tfds:
        yield from corpus.read_source(source)
        return
    with open_anywhere(source.name) as raw:
        for text in corpus.read_stream(raw, source.name):
            yield text, 0


def open_anywhere(path: str) -> Any:
    """Opens a file of any of Beam's file systems to read its bytes as they are."""
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


@functools.lru_cache(maxsize=1)
def load_tokenizer(files: tuple[tuple[str, bytes], ...]) -> tokenizers.Tokenizer:
    """Loads the tokenizer that was sent to this worker, once."""
    with tempfile.TemporaryDirectory() as local:
        for name, content in files:
            (Path(local) / name).write_bytes(content)
        return tokenizers.load(Path(local))


def write_shard(
    block_read: tuple[int, int, list[str], Cursor], files: tuple[tuple[str, bytes], ...], folder: str
) -> None:
    """Tokenises a block (see `read`) and writes it as a shard, unless an earlier run did."""
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    index, number, texts, cursor = block_read
    path = posixpath.join(folder, f"{index:08d}-{number:08d}.npz")
    if FileSystems.exists(path):
        return
    block = encode_documents(texts, load_tokenizer(files))
    arrays: dict[str, Any] = {"notes": np.frombuffer(json.dumps([block.counts, cursor]).encode(), np.uint8)}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays, **block.arrays)
    beside = f"{path}.{uuid.uuid4().hex}"  # two workers may be given the same block
    with FileSystems.create(beside, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        file.write(buffer.getvalue())
    FileSystems.rename([beside], [path])


def read_shards(folder: str) -> Iterator[tuple[Block, Cursor]]:
    """Yields the blocks that workers wrote, in the order of the text."""
    from apache_beam.io.filesystems import FileSystems

    files = FileSystems.match([posixpath.join(folder, "*.npz")])[0].metadata_list
    for path in sorted(file.path for file in files):
        with open_anywhere(path) as file:
            arrays = dict(np.load(io.BytesIO(file.read()), allow_pickle=False))
        counts, cursor = json.loads(arrays.pop("notes").tobytes())
        yield Block(arrays, counts), Cursor(*cursor)
