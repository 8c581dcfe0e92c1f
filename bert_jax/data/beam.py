"""Prepares a store on Apache Beam (the extra `beam`), with any of its runners.

Workers read, tokenise and write shards to a folder that all of them can write to. Then this process joins the shards in
the order of the text. The store equals the one that `prepare` writes, to the byte. The next pipeline uses the shards
that an interrupted one wrote.
"""

import functools
import hashlib
import json
import posixpath
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bert_jax import files, tokenizers
from bert_jax.data import corpus
from bert_jax.data.encode import TextChunk, encode_documents
from bert_jax.data.prepare import (
    CHUNK_CHARACTERS,
    FULL_DISK,
    Cursor,
    Writer,
    already_finished,
    read_chunks,
    recipe_of,
)
from bert_jax.errors import InputError


def prepare(
    sources: Sequence[str],
    tokenizer_folder: files.PathLike,
    out: files.PathLike,
    *,
    options: Sequence[str] = (),
    shards: str | None = None,
    drop_duplicates: bool = False,
) -> dict[str, Any]:
    """Writes a token store with a Beam pipeline.

    Args:
      sources: as for `bert_jax.data.prepare.prepare`, or patterns on a file system of Beam (gs://...).
      tokenizer_folder: a tokenizer on this machine; it is sent to the workers.
      out: the folder to write. This process joins the shards on its own disk first, also for one in a bucket.
      options: options of Beam, such as --runner=DataflowRunner.
      shards: a folder that all workers can write to; None = next to `out`, for runners on this machine.
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
    out = files.path(out)
    texts = find_files(sources)
    tokenizer = tokenizers.load(tokenizer_folder)
    recipe = recipe_of(texts, tokenizer, drop_duplicates)
    finished = already_finished(out, recipe)
    if finished is not None:
        return finished
    name = hashlib.sha256(json.dumps([recipe, CHUNK_CHARACTERS]).encode()).hexdigest()[:16]
    # Named by what decides their content, so that shards of another text or tokenizer are never used here.
    folder = posixpath.join(shards or str(out.parent), f"{out.name}.shards-{name}")
    if not FileSystems.exists(folder):
        FileSystems.mkdirs(folder)
    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        _add_steps(pipeline, texts, read_files(tokenizer_folder), folder)
    with files.full_disk_explained(out, FULL_DISK), Writer(out, recipe) as writer:
        if not writer.complete:
            for chunk, cursor in read_shards(folder):
                if cursor > writer.cursor:
                    writer.append(chunk, cursor)
        header = writer.finish(tokenizer)
    FileSystems.delete([folder])
    return header


def _add_steps(
    pipeline: Any, texts: list[corpus.TextFile], tokenizer: tuple[tuple[str, bytes], ...], folder: str
) -> None:
    """Adds what the workers do: read the texts, tokenise them, write shards to `folder`."""
    import apache_beam as beam

    (
        pipeline
        | "Sources" >> beam.Create(list(enumerate(texts)))
        | "OneEach" >> beam.Reshuffle()
        | "Read" >> beam.FlatMapTuple(read)
        | "Spread" >> beam.Reshuffle()
        | "Tokenise" >> beam.Map(write_shard, tokenizer, folder)
    )


def read_files(folder: files.PathLike) -> tuple[tuple[str, bytes], ...]:
    """Returns (name, content) of each file in a folder, to send them to the workers."""
    paths = sorted(files.Path(folder).iterdir())
    return tuple((path.name, path.read_bytes()) for path in paths if path.is_file())


def find_files(sources: Sequence[str]) -> list[corpus.TextFile]:
    """Resolves names like `corpus.find_files`; patterns with a scheme (gs://...) are resolved by Beam."""
    from apache_beam.io.filesystems import FileSystems

    texts: list[corpus.TextFile] = []
    for name in sources:
        if "://" not in name:
            texts += corpus.find_files([name])
            continue
        matched = FileSystems.match([name])[0].metadata_list
        if not matched:
            raise InputError(f"{name}: matches no file")
        texts += sorted(corpus.TextFile(file.path, file.size_in_bytes) for file in matched)
    return list(dict.fromkeys(texts)) or corpus.find_files(sources)


def read(index: int, source: corpus.TextFile) -> Iterator[tuple[int, int, list[str], Cursor]]:
    """Yields the chunks of one source: (its index, number of the chunk, documents, cursor after them)."""
    for number, (texts, cursor) in enumerate(read_chunks([source], Cursor(0, 0, 0), read_anywhere)):
        yield index, number, texts, cursor._replace(source=index + cursor.source)


def read_anywhere(source: corpus.TextFile) -> Iterator[tuple[str, int]]:
    """Reads a source through Beam's file systems; see `corpus.read_file`."""
    if source.is_tfds:
        yield from corpus.read_file(source)
        return
    with open_anywhere(source.name) as raw:
        for text in corpus.read_stream(raw, source.name):
            yield text, 0


def open_anywhere(path: str) -> Any:
    """Opens a file on any of Beam's file systems, without decompressing it."""
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


@functools.lru_cache(maxsize=1)
def load_tokenizer(contents: tuple[tuple[str, bytes], ...]) -> tokenizers.Tokenizer:
    """Loads the tokenizer that was sent to this worker, once."""
    with files.temporary_folder() as folder:
        for name, content in contents:
            files.write_whole(files.Path(folder) / name, content)
        return tokenizers.load(folder)


def write_shard(
    chunk_read: tuple[int, int, list[str], Cursor], tokenizer: tuple[tuple[str, bytes], ...], folder: str
) -> None:
    """Tokenises a chunk (see `read`) and writes it as a shard, unless an earlier run did."""
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    index, number, texts, cursor = chunk_read
    path = posixpath.join(folder, f"{index:08d}-{number:08d}.npz")
    if FileSystems.exists(path):
        return
    chunk = encode_documents(texts, load_tokenizer(tokenizer))
    arrays: dict[str, Any] = {"notes": np.frombuffer(json.dumps([chunk.counts, cursor]).encode(), np.uint8)}
    unfinished = f"{path}.{uuid.uuid4().hex}"  # two workers may get the same chunk
    with FileSystems.create(unfinished, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        file.write(files.pack_arrays(arrays | chunk.arrays))
    FileSystems.rename([unfinished], [path])


def read_shards(folder: str) -> Iterator[tuple[TextChunk, Cursor]]:
    """Yields the chunks that workers wrote, in the order of the text."""
    from apache_beam.io.filesystems import FileSystems

    shards = FileSystems.match([posixpath.join(folder, "*.npz")])[0].metadata_list
    for path in sorted(shard.path for shard in shards):
        with open_anywhere(path) as file:
            arrays = files.unpack_arrays(file.read())
        counts, cursor = json.loads(arrays.pop("notes").tobytes())
        yield TextChunk(arrays, counts), Cursor(*cursor)
