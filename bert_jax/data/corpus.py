"""Files to documents to sentences, one at a time: nothing here holds more than one document."""

import glob
import gzip
import hashlib
import heapq
import io
import itertools
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import zstandard

from bert_jax import sources
from bert_jax.data import tfds
from bert_jax.errors import InputError

MAX_DOCUMENT_BYTES = 100_000_000  # a longer one is nearly always a file without blank lines; it would fill the memory
MAX_SENTENCE_CHARACTERS = 2_000  # longer ones (tables, text without punctuation) are cut between words

_PARQUET = ".parquet"
_JSON_LINES = (".jsonl", ".json", ".ndjson")


class Source(NamedTuple):
    """One file, or one split of a TFDS data set."""

    name: str  # path, or tfds:name:split
    size: int  # bytes as stored; for TFDS the number of examples

    @property
    def is_tfds(self) -> bool:
        return sources.parse(self.name).kind == "tfds"


def find_sources(names: Sequence[str]) -> list[Source]:
    """Resolves files, folders, glob patterns and `tfds:name:split` to sources, in a fixed order and each once.

    Folders are read whole, but for files whose names begin with a dot or an underscore.

    Raises:
      InputError: nothing was named, or something named is not there.
    """
    if not names:
        raise InputError("no text was named; give files, folders, patterns such as 'texts/*.gz' or tfds:name:split")
    found: dict[str, Source] = {}
    for name in names:
        if sources.parse(name).kind == "tfds":
            found[name] = Source(name, len(tfds.open_set(name)[0]))
            continue
        paths = _paths(name)
        if not paths:
            raise InputError(f"{name}: no such file or folder, and no pattern that matches one")
        found.update((str(path), Source(str(path), path.stat().st_size)) for path in paths)
    return list(found.values())


def _paths(name: str) -> list[Path]:
    path = Path(name)
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = (p for p in path.rglob("*") if not any(part[0] in "._" for part in p.relative_to(path).parts))
        return sorted(p for p in inside if p.is_file())
    return sorted(p for p in map(Path, glob.glob(name, recursive=True)) if p.is_file())


def documents(names: Sequence[str]) -> Iterator[str]:
    """Yields the documents of the sources called `names`, in order.

    Plain text has blank lines between documents; JSON lines (.jsonl, .json, .ndjson) and Parquet have a field `text`;
    any of these may be compressed (.gz, .zst); TFDS sets have a feature `text`.

    Raises:
      InputError: a source is missing, empty, binary, not UTF-8 or otherwise not what its name says; with the line.
    """
    for source in find_sources(names):
        for text, _ in read_source(source):
            yield text


def read_source(source: Source) -> Iterator[tuple[str, int]]:
    """Yields (document, how much of the source has been read, in the unit of its size)."""
    if source.is_tfds:
        yield from _read_tfds(source.name)
        return
    try:
        with open(source.name, "rb") as raw:
            for text in read_stream(raw, source.name):
                yield text, raw.tell()
    except OSError as error:
        if isinstance(error, gzip.BadGzipFile):
            raise InputError(f"{source.name}: not a gzip file although its name ends in .gz ({error})") from error
        raise InputError(f"{source.name}: cannot be read: {error.strerror or error}") from error


def read_stream(raw: BinaryIO, name: str) -> Iterator[str]:
    """Yields the documents of an open file; `name` tells the format and stands in errors."""
    stream, inner = _decompress(raw, name)
    if inner.endswith(_PARQUET):
        texts = _read_parquet(stream, name)
    elif inner.endswith(_JSON_LINES):
        texts = _read_json_lines(stream, name)
    else:
        texts = _read_text(stream, name)
    empty = True
    try:
        for text in texts:
            empty = False
            yield text
    except (EOFError, zlib.error, zstandard.ZstdError) as error:
        raise InputError(f"{name}: damaged or cut off within its compressed data ({error})") from error
    if empty:
        raise InputError(f"{name}: empty, or nothing but blank lines; expected text")


def _decompress(raw: BinaryIO, name: str) -> tuple[BinaryIO, str]:
    """Returns the uncompressed stream and the name without the suffix of the compression."""
    if name.endswith(".gz"):
        return gzip.GzipFile(fileobj=raw), name[:-3]  # type: ignore[return-value]
    if name.endswith(".zst"):
        reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
        return io.BufferedReader(reader, 1 << 20), name[:-4]
    return raw, name


def _lines(stream: BinaryIO, name: str) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, line); refuses what is not UTF-8 text."""
    for number, raw in enumerate(iter(lambda: stream.readline(MAX_DOCUMENT_BYTES + 1), b""), 1):
        if len(raw) > MAX_DOCUMENT_BYTES:
            raise InputError(f"{name}:{number}: longer than {MAX_DOCUMENT_BYTES:,} bytes; split it")
        try:
            line = raw.decode()
        except UnicodeDecodeError as error:
            raise InputError(
                f"{name}:{number}: not UTF-8 (byte 0x{raw[error.start]:02x}); "
                f"convert the file, for instance with iconv -t utf-8, or name it for its compression (.gz, .zst)"
            ) from error
        if "\0" in line:
            raise InputError(f"{name}:{number}: a zero byte; this is a binary file, expected UTF-8 text")
        yield number, line.removeprefix("\ufeff") if number == 1 else line


def _read_text(stream: BinaryIO, name: str) -> Iterator[str]:
    lines: list[str] = []
    size = first = 0
    for number, line in _lines(stream, name):
        if line.isspace():
            if lines:
                yield "".join(lines)
            lines, size = [], 0
            continue
        if not lines:
            first = number
        lines.append(line)
        size += len(line)
        if size > MAX_DOCUMENT_BYTES:
            raise InputError(
                f"{name}:{first}: a document of more than {MAX_DOCUMENT_BYTES:,} characters; "
                "put a blank line between documents, or give JSON lines with one document each"
            )
    if lines:
        yield "".join(lines)


def _read_json_lines(stream: BinaryIO, name: str) -> Iterator[str]:
    for number, line in _lines(stream, name):
        if line.isspace():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{name}:{number}: not JSON ({error.msg}); expected an object with text on each line"
            ) from error
        text = row.get("text") if isinstance(row, dict) else None
        if not isinstance(text, str):
            found = f"the fields {', '.join(row)}" if isinstance(row, dict) else type(row).__name__
            raise InputError(f'{name}:{number}: expected {{"text": "..."}}, found {found}')
        if text and not text.isspace():
            yield text


def _read_parquet(stream: BinaryIO, name: str) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(stream)
    except pyarrow.ArrowInvalid as error:
        raise InputError(f"{name}: not a Parquet file ({error})") from error
    if "text" not in table.schema_arrow.names:
        raise InputError(f"{name}: no column text; its columns are {', '.join(table.schema_arrow.names)}")
    row = 0
    for batch in table.iter_batches(batch_size=256, columns=["text"]):
        for text in batch.column(0).to_pylist():
            row += 1
            if not isinstance(text, str):
                raise InputError(f"{name}, row {row}: text is {type(text).__name__}, expected a string")
            if text and not text.isspace():
                yield text


def _read_tfds(name: str) -> Iterator[tuple[str, int]]:
    rows, features = tfds.open_set(name)
    if "text" not in features:
        raise InputError(f"{name}: no feature text; its features are {', '.join(features)}")
    for number in range(len(rows)):
        text = str(tfds.plain(features["text"], rows[number]["text"]))
        if text and not text.isspace():
            yield text, number + 1


_OPENERS = "\"'“‘«(["
_CLOSERS = "\"'”’»)\\]"
# A full stop after one of these does not end a sentence; nor after an initial, but "I" is mostly the pronoun.
_NO_END = """
    Mr Mrs Ms Messrs Mme Mlle Dr Prof Rev Hon St Sr Jr Gen Col Maj Capt Lt Sgt Gov Sen Rep Pres
    vs cf viz al Fig Figs Eq Eqs Sec Ch Nos Vol pp ed eds trans approx ca Dept Univ Mt e.g i.e eg ie
    A B C D E F G H J K L M N O P Q R S T U V W X Y Z
"""


def _not_behind_an_abbreviation() -> str:
    """Returns a pattern for the place behind a full stop; a look-behind has one width, so there is one for each."""
    begins = f"(?<![^\\s{re.escape(_OPENERS)}])"
    by_length = itertools.groupby(sorted(_NO_END.split(), key=len), len)
    return "".join(rf"(?<!{begins}(?:{'|'.join(map(re.escape, words))})\.)" for _, words in by_length)


# A stop, then closing quotes and brackets, then space, then what may begin a sentence; or a line break; or a full-width
# stop. The first character class stands alone in front so that the regex engine can skip to it: 4 ms/MB instead of 22
# with the three cases as alternatives.
_BOUNDARY = re.compile(
    r"[.!?…\n。！？]"
    rf"(?:(?<=[.!?…]){_not_behind_an_abbreviation()}[.!?…]*[{_CLOSERS}]*\s+(?=[{_OPENERS}]*[^\W_a-zß-öø-ÿ])"
    r"|(?<=\n)\s*"
    r"|(?<=[。！？])[。！？]*[”’」』）]*\s*)"
)


def sentences(text: str) -> list[str]:
    """Splits a document into sentences, in order; none is empty or longer than MAX_SENTENCE_CHARACTERS.

    A line break ends a sentence, unless the document is hard-wrapped: then a blank line does.

    >>> sentences("Dr. Watson paused. “Why?” he asked. Nobody knew")
    ['Dr. Watson paused.', '“Why?” he asked.', 'Nobody knew']
    """
    text = _unwrap(text)
    ends = [match.end() for match in _BOUNDARY.finditer(text)]
    found = [text[start:end].strip() for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    if max(map(len, found)) > MAX_SENTENCE_CHARACTERS:
        found = [part for sentence in found for part in _cut(sentence)]
    return list(filter(None, found))


def _cut(sentence: str) -> list[str]:
    """Cuts a sentence between words so that no part is too long; an empty one has no part."""
    parts = []
    start = 0
    while len(sentence) - start > MAX_SENTENCE_CHARACTERS:
        end = sentence.rfind(" ", start + 1, start + MAX_SENTENCE_CHARACTERS) + 1 or start + MAX_SENTENCE_CHARACTERS
        parts.append(sentence[start:end].rstrip())
        start = end
    parts.append(sentence[start:])
    return [part for part in parts if part]


def _unwrap(text: str) -> str:
    """Joins the lines of a hard-wrapped document, one whose lines end where the next word would not have fitted."""
    if max(map(len, text.split("\n", 10)[:10])) > 120:  # the first lines tell most texts without a look at the others
        return text
    lines = text.split("\n")
    width = max(map(len, lines))
    if not 50 <= width <= 120:
        return text
    breaks = [(line.rstrip(), after.split(None, 1)) for line, after in itertools.pairwise(lines) if line.strip()]
    inside = [(line, words[0]) for line, words in breaks if words]
    wrapped = sum(len(line) + 1 + len(word) > width and line[-1] not in ".!?…" for line, word in inside)
    if 2 * wrapped <= len(inside):
        return text
    paragraphs = re.split(r"\n\s*\n", text)
    return "\n".join(" ".join(paragraph.split("\n")) for paragraph in paragraphs)


def sample(texts: Iterable[str], characters: int, seed: int) -> list[str]:
    """Draws pieces of documents evenly from `texts`, `characters` in all at most, in one pass and bounded memory.

    A document longer than 10,000 characters is cut into pieces, each drawn for itself. Which are drawn depends on
    the texts and the seed alone. For training a tokenizer on a corpus that does not fit.

    >>> sample(["one", "two", "three"], characters=6, seed=0) == sample(["three", "two", "one"], 6, 0)
    True
    """
    drawn: list[tuple[int, str]] = []  # a heap with the piece to give up first on top
    size = 0
    salt = seed.to_bytes(16, signed=True)
    for text in texts:
        for start in range(0, len(text), 10_000):
            piece = text[start : start + 10_000]
            digest = hashlib.blake2b(piece.encode("utf-8", "surrogatepass"), digest_size=8, salt=salt).digest()
            heapq.heappush(drawn, (-int.from_bytes(digest), piece))
            size += len(piece)
            while size > characters:
                size -= len(heapq.heappop(drawn)[1])
    return [piece for _, piece in sorted(drawn, reverse=True)]
