"""From text to a token store: in one pass, in bounded memory, and continued after an interruption.

One process reads; workers split documents into sentences and tokenise them; the reader appends what they send, in
order, to arrays in `<out>.partial`. Every second `progress.json` there records how much of the sources the arrays hold.
After a crash the arrays are cut back to that record and the work continues from there, so the store is the same to the
byte. When everything is read, duplicates are found, and the folder is renamed to `<out>`. If that is in a bucket, the
unfinished store is in this machine's cache, and is uploaded in the end.
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from bert_jax import files, memory, storage, tokenizers
from bert_jax.data import corpus, duplicates
from bert_jax.data.encode import COUNTS, SCRATCH, TextChunk, encode_documents
from bert_jax.data.store import ARRAYS, FORMAT, array_dtypes, read_header
from bert_jax.data.store import tokenizer_folder as folder_of_tokenizer
from bert_jax.errors import InputError

CHUNK_CHARACTERS = 1 << 20  # a worker gets documents in chunks of about this size
RECORD_SECONDS = 1.0  # work that a crash can lose
FULL_DISK = "free some space and run the same command again: it continues where it stopped"


class Cursor(NamedTuple):
    """How far the sources have been read."""

    source: int  # index of the source being read
    documents: int  # read from this source
    position: int  # in this source, in the unit of its size


class PrepareStats(NamedTuple):
    """How far a preparation is."""

    documents: int  # in the store so far
    tokens: int  # in the store so far
    bytes_per_second: float  # of text, in this run
    share: float  # of the sources, 0 to 1
    seconds_left: float


def prepare(
    sources: Sequence[str],
    tokenizer_folder: files.PathLike,
    out: files.PathLike,
    *,
    workers: int = 1,
    drop_duplicates: bool = False,
    progress: Callable[[PrepareStats], None] | None = None,
) -> dict[str, Any]:
    """Writes a token store, or continues one whose preparation was interrupted.

    Args:
      sources: what `corpus.documents` takes.
      tokenizer_folder: a tokenizer; the store gets a copy.
      out: the folder to write. A finished store of the same sources and tokenizer is left as it is.
      workers: processes that tokenise; with more than one, this process only reads and writes.
      drop_duplicates: leave out documents that repeat an earlier one, exactly or nearly.
      progress: called after every chunk of about a megabyte.

    Returns:
      The header of the store. Its `summary` counts what was read (documents, sentences, tokens, words, unknown tokens,
      bytes, zero bytes, duplicates), and the documents and tokens that were kept.

    Raises:
      InputError: a source cannot be read (see `corpus.documents`); `out` holds other files; the disk is full.
    """
    memory.keep_freed()  # before the tokenizer starts threads
    texts = corpus.find_files(sources)
    tokenizer = tokenizers.load(tokenizer_folder)
    recipe = recipe_of(texts, tokenizer, drop_duplicates)
    out = files.path(out)
    finished = already_finished(out, recipe)
    if finished is not None:
        return finished
    with files.full_disk_explained(out, FULL_DISK), Writer(out, recipe) as writer:
        if not writer.complete:
            follow = _follower(texts, writer, progress)
            chunks = read_chunks(texts, writer.cursor)
            encoded: Iterator[tuple[TextChunk, Cursor]]
            if workers == 1:
                encoded = ((encode_documents(documents, tokenizer), cursor) for documents, cursor in chunks)
            else:
                encoded = _encode_in_workers(chunks, tokenizer_folder, workers)
            for chunk, cursor in encoded:
                writer.append(chunk, cursor)
                follow()
        return writer.finish(tokenizer)


def recipe_of(
    sources: Sequence[corpus.TextFile], tokenizer: tokenizers.Tokenizer, drop_duplicates: bool
) -> dict[str, Any]:
    """Returns what decides the content of a store: the first part of its header."""
    return {
        "format": FORMAT,
        "tokenizer": {"kind": tokenizer.kind, "fingerprint": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size},
        "sources": [[source.name, source.size] for source in sources],
        "drop_duplicates": drop_duplicates,
    }


def progress_printer() -> Callable[[PrepareStats], None]:
    """Returns a function that shows progress on standard error: one line on a terminal, otherwise a line every 10%."""
    tenths = 0

    def show(progress: PrepareStats) -> None:
        nonlocal tenths
        minutes, seconds = divmod(int(progress.seconds_left), 60)
        line = (
            f"{progress.share:4.0%}  {progress.documents:,} documents  {progress.tokens:,} tokens  "
            f"{progress.bytes_per_second / 1e6:.1f} MB/s  {minutes}:{seconds:02d} left"
        )
        if sys.stderr.isatty():
            print(f"\r{line:<79}", end="\n" if progress.share >= 1 else "", file=sys.stderr, flush=True)
        elif int(10 * progress.share) > tenths:
            tenths = int(10 * progress.share)
            print(line, file=sys.stderr, flush=True)

    return show


def read_chunks(
    sources: Sequence[corpus.TextFile],
    cursor: Cursor,
    read: Callable[[corpus.TextFile], Iterator[tuple[str, int]]] = corpus.read_file,
) -> Iterator[tuple[list[str], Cursor]]:
    """Yields documents in chunks of at least CHUNK_CHARACTERS (except the last), each with the cursor after it."""
    texts: list[str] = []
    size = 0
    for index in range(cursor.source, len(sources)):
        number = 0
        for text, position in read(sources[index]):
            number += 1
            if index == cursor.source and number <= cursor.documents:
                continue
            texts.append(text)
            size += len(text)
            if size >= CHUNK_CHARACTERS:
                yield texts, Cursor(index, number, position)
                texts, size = [], 0
    if texts:
        yield texts, Cursor(len(sources), 0, 0)


def _encode_in_workers(chunks: Iterator, folder: files.PathLike, workers: int) -> Iterator[tuple[TextChunk, Cursor]]:
    # A new interpreter for each worker: forking a process in which JAX has started threads can hang.
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _start_worker, (str(folder),)
    )
    waiting: deque = deque()
    try:
        for texts, cursor in chunks:
            waiting.append((pool.submit(_encode_in_worker, texts), cursor))
            if len(waiting) > 2 * workers:
                done, cursor = waiting.popleft()
                yield done.result(), cursor
        while waiting:
            done, cursor = waiting.popleft()
            yield done.result(), cursor
    except concurrent.futures.process.BrokenProcessPool as error:
        raise InputError(
            "a worker process ended unexpectedly (out of memory?); try again with fewer workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_worker_tokenizer: tokenizers.Tokenizer


def _start_worker(folder: str) -> None:
    global _worker_tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the reader handles Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker_tokenizer = tokenizers.load(folder)


def _end_with_parent() -> None:
    """Ends this worker when the reader is killed; otherwise it would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _encode_in_worker(texts: list[str]) -> TextChunk:
    return encode_documents(texts, _worker_tokenizer)


class Writer:
    """Appends chunks to the arrays of an unfinished store, and finishes it."""

    def __init__(self, out: files.Path, recipe: dict[str, Any]):
        self.out = out
        self.recipe = recipe
        self.folder = storage.partial(out)
        self.dtypes: dict[str, np.dtype] = array_dtypes(recipe["tokenizer"]["vocab_size"]) | SCRATCH
        self.cursor = Cursor(0, 0, 0)
        self.complete = False
        self.entries = dict.fromkeys(self.dtypes, 0)
        self.counts = dict.fromkeys(COUNTS, 0)
        self._files: dict[str, BinaryIO] = {}
        self._recorded_at = time.monotonic()

    def __enter__(self) -> "Writer":
        record = self.folder / "progress.json"
        if record.is_file():
            state = files.read_json(record)
            if state["recipe"] != self.recipe:
                raise InputError(
                    f"{self.folder}: holds an unfinished store of other text, with other options or another tokenizer; "
                    "delete it, or choose another folder"
                )
            self.cursor = Cursor(*state["cursor"])
            self.complete, self.entries, self.counts = state["complete"], state["entries"], state["counts"]
        else:
            files.make_folder(self.folder)
        if not self.complete:
            for name, dtype in self.dtypes.items():
                self._files[name] = files.open_appending(self.folder / f"{name}.bin")
                self._files[name].truncate(self.entries[name] * dtype.itemsize)
            if not record.is_file():
                self._write("document_starts", np.zeros(1, np.int64))
                self.record()
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):  # a full disk was reported before
                file.close()

    def _write(self, name: str, array: np.ndarray) -> None:
        self._files[name].write(np.ascontiguousarray(array, self.dtypes[name]).data)
        self.entries[name] += len(array)

    def append(self, chunk: TextChunk, cursor: Cursor) -> None:
        """Adds a chunk, and from time to time records how far the sources have been read."""
        start = self.entries["tokens"]
        for name, array in chunk.arrays.items():
            self._write(name, array + start if name == "document_starts" else array)
        self.counts = {name: count + chunk.counts[name] for name, count in self.counts.items()}
        self.cursor = cursor
        if time.monotonic() - self._recorded_at > RECORD_SECONDS:
            self.record()

    def record(self) -> None:
        """Writes everything so far to disk, so that it survives a crash."""
        for file in self._files.values():
            files.sync(file)
        state = {name: getattr(self, name) for name in ("recipe", "cursor", "complete", "entries", "counts")}
        files.write_json(self.folder / "progress.json", state)
        self._recorded_at = time.monotonic()

    def finish(self, tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
        """Finds duplicates, drops them if `drop_duplicates` is set, moves the store to `out`, and returns its header.

        Each step may be interrupted and done again: arrays without the dropped documents are written to other files,
        `complete` is recorded, and only then do these files replace the first ones.
        """
        if not self.complete:
            self._finish_arrays()
            self.complete = True
            self.record()
        for name in ARRAYS:
            if (self.folder / f"{name}.kept").exists():
                files.put_in_place(self.folder / f"{name}.kept", self.folder / f"{name}.bin")
        tokenizer.save(folder_of_tokenizer(self.folder))
        entries = {name: self.entries[name] for name in ARRAYS}
        header = self.recipe | {"entries": entries, "summary": _summary(self.counts, entries)}
        files.write_json(self.folder / "header.json", header)
        finish(self.out)
        return header

    def _finish_arrays(self) -> None:
        if not self.counts["documents"]:
            raise InputError(f"{self.recipe['sources'][0][0]}: no document with any token in it")
        for file in self._files.values():
            file.flush()
        arrays = {name: files.memory_map(self.folder / f"{name}.bin", dtype) for name, dtype in self.dtypes.items()}
        exact, near = duplicates.find_duplicates(
            arrays["document_hashes"], arrays["sketches"].reshape(-1, duplicates.BINS)
        )
        self.counts |= {"exact_duplicates": int(exact.sum()), "near_duplicates": int(near.sum())}
        if self.recipe["drop_duplicates"] and (exact | near).any():
            self._write_kept(arrays, ~(exact | near))

    def _write_kept(self, arrays: Mapping[str, np.ndarray], keep_document: np.ndarray) -> None:
        """Writes each array with the documents where `keep_document` is True, in bounded memory."""
        starts = arrays["document_starts"]
        entry_ends = np.cumsum(arrays["document_entries"])
        with contextlib.ExitStack() as stack:
            files = {name: stack.enter_context((self.folder / f"{name}.kept").open("wb")) for name in ARRAYS}
            files["document_starts"].write(np.zeros(1, "<i8").data)
            end = first = 0
            while first < len(keep_document):
                # As many documents as fit into four million tokens, but at least one.
                last = max(first + 1, int(np.searchsorted(starts, starts[first] + (1 << 22))) - 1)
                keep, some = keep_document[first:last], slice(first, last)
                sizes, entries = np.diff(starts[first : last + 1]), arrays["document_entries"][some]
                tokens = arrays["tokens"][starts[first] : starts[last]]
                lengths = arrays["sentence_lengths"][entry_ends[first] - entries[0] : entry_ends[last - 1]]
                ends = end + np.cumsum(sizes[keep])
                end = int(ends[-1]) if len(ends) else end
                files["tokens"].write(tokens[np.repeat(keep, sizes)].data)
                files["sentence_lengths"].write(lengths[np.repeat(keep, entries)].data)
                files["document_starts"].write(ends.astype("<i8").data)
                files["document_hashes"].write(arrays["document_hashes"][some][keep].data)
                first = last
            self.entries |= {name: file.tell() // self.dtypes[name].itemsize for name, file in files.items()}


def _summary(counts: dict[str, int], entries: dict[str, int]) -> dict[str, int | float]:
    """Returns counts of what was read, and of what the store holds."""
    return counts | {
        "unknown_rate": counts["unknown"] / counts["tokens"],
        "tokens_per_word": counts["tokens"] / max(counts["words"], 1),
        "kept_documents": entries["document_hashes"],
        "kept_tokens": entries["tokens"],
    }


def finish(out: files.Path) -> None:
    """Renames a finished store to `out`, or uploads it."""
    folder = storage.partial(out)
    for name in (*(f"{name}.bin" for name in SCRATCH), "progress.json"):
        (folder / name).unlink(missing_ok=True)
    storage.put_in_place(folder, out, last="header.json")


def already_finished(out: files.Path, recipe: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the header if `out` is the finished store, None if it does not exist; raises InputError otherwise."""
    if (storage.partial(out) / "header.json").exists():
        finish(out)
    header = read_header(out)
    if header is None:
        if out.exists() and not files.is_empty_folder(out):
            raise InputError(f"{out}: exists and is not a token store; choose another folder")
        return None
    if any(header.get(name) != recipe[name] for name in recipe):
        raise InputError(
            f"{out}: already holds a store of other text, with other options or another tokenizer; "
            "delete it, or choose another folder"
        )
    return header


def _follower(
    sources: Sequence[corpus.TextFile], writer: Writer, report: Callable[[PrepareStats], None] | None
) -> Callable[[], None]:
    """Returns a function to call after each chunk: it computes speed and time left and passes them to `report`."""
    # Bytes and TFDS examples cannot be added; if both occur, every source counts the same.
    alike = len({source.is_tfds for source in sources}) == 1
    weights = [source.size if alike else 1 for source in sources]

    def share() -> float:
        index, _, position = writer.cursor
        if index == len(sources):
            return 1.0
        within = min(1.0, position / max(sources[index].size, 1))
        return (sum(weights[:index]) + within * weights[index]) / max(sum(weights), 1)

    began, share_before, bytes_before = time.monotonic(), share(), writer.counts["bytes"]

    def follow() -> None:
        if report is None:
            return
        seconds = max(time.monotonic() - began, 1e-9)
        speed = (writer.counts["bytes"] - bytes_before) / seconds
        left = seconds * (1 - share()) / max(share() - share_before, 1e-9)
        report(PrepareStats(writer.counts["documents"], writer.counts["tokens"], speed, share(), left))

    return follow
