"""From files to documents to sentences, one document in memory at a time."""

import hashlib
import heapq
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

from bert_jax import files, sources
from bert_jax.data import parquet, tfds
from bert_jax.errors import InputError

MAX_DOCUMENT_BYTES = 100_000_000  # longer: nearly always a file without blank lines, which would fill the memory
MOST_ZEROS = 0.25  # share of zero bytes in a line; with more it is a binary file or UTF-16. Fewer are left out later
MAX_SENTENCE_CHARACTERS = 2_000  # longer ones (tables, text without punctuation) are cut between words

_PARQUET = ".parquet"
_JSON_LINES = (".jsonl", ".json", ".ndjson")


class TextFile(NamedTuple):
    """A file of text, or a split of a TFDS data set."""

    name: str  # path, or tfds:name:split
    size: int  # bytes as stored; for TFDS the number of examples

    @property
    def is_tfds(self) -> bool:
        return sources.parse(self.name).kind == "tfds"


def find_files(names: Sequence[str]) -> list[TextFile]:
    """Resolves files, folders, glob patterns and `tfds:name:split` to files, in a fixed order and each once.

    Of a folder all files are read, except those whose names begin with a dot or an underscore.

    Raises:
      InputError: no name was passed, or something named does not exist.
    """
    if not names:
        raise InputError("no text was named; give files, folders, patterns such as 'texts/*.gz' or tfds:name:split")
    texts: dict[str, TextFile] = {}
    for name in names:
        if sources.parse(name).kind == "tfds":
            texts[name] = TextFile(name, len(tfds.open_set(name)[0]))
            continue
        paths = _paths(name)
        if not paths:
            raise InputError(f"{name}: no such file or folder, and no pattern that matches one")
        texts.update((str(path), TextFile(str(path), files.size(path))) for path in paths)
    return list(texts.values())


def _paths(name: str) -> list[files.Path]:
    path = files.path(name)
    if path.is_file():
        return [path]
    if path.is_dir():
        walk = files.walk(path, skip=lambda folder: folder[0] in "._")
        return sorted(folder / name for folder, names in walk for name in names if name[0] not in "._")
    return files.expand(name)


def documents(names: Sequence[str]) -> Iterator[str]:
    """Yields the documents of the sources called `names`, in order.

    Plain text has blank lines between documents; JSON lines (.jsonl, .json, .ndjson) and Parquet have a field `text`;
    any of these may be compressed (.gz, .zst); TFDS sets have a feature `text`.

    Raises:
      InputError: a file is missing, empty, binary, not UTF-8 or not in its format; the message has the line.
    """
    for file in find_files(names):
        for text, _ in read_file(file):
            yield text


def read_file(file: TextFile) -> Iterator[tuple[str, int]]:
    """Yields (document, how much of the file has been read, in the unit of its size)."""
    if file.is_tfds:
        yield from _read_tfds(file.name)
        return
    with files.errors_named(file.name), files.open_bytes(file.name) as raw:
        for text in read_stream(raw, file.name):
            yield text, raw.tell()


def read_stream(raw: BinaryIO, name: str) -> Iterator[str]:
    """Yields the documents of an open file; its format follows from `name`, which also starts the error messages."""
    stream, inner = files.decompressed(raw, name), files.without_compression(name)
    read = _read_text
    if inner.endswith(_PARQUET):
        read = _read_parquet
    elif inner.endswith(_JSON_LINES):
        read = _read_json_lines
    empty = True
    with files.errors_named(name):
        for text in read(stream, name):
            empty = False
            yield text
    if empty:
        raise InputError(f"{name}: empty, or nothing but blank lines; expected text")


def _read_text(stream: BinaryIO, name: str) -> Iterator[str]:
    lines: list[str] = []
    size = first = 0
    for number, line in files.decode_lines(stream, name, MAX_DOCUMENT_BYTES, MOST_ZEROS):
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
    for number, line in files.decode_lines(stream, name, MAX_DOCUMENT_BYTES):
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
            actual = f"the fields {', '.join(row)}" if isinstance(row, dict) else type(row).__name__
            raise InputError(f'{name}:{number}: expected {{"text": "..."}}, found {actual}')
        if text and not text.isspace():
            yield text


def _read_parquet(stream: BinaryIO, name: str) -> Iterator[str]:
    for row, values in enumerate(parquet.read(stream, name, "text"), 1):
        text = values["text"]
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
    """Returns a pattern for the position after a full stop; look-behinds have a fixed width: there is one per width."""
    begins = f"(?<![^\\s{re.escape(_OPENERS)}])"
    by_length = itertools.groupby(sorted(_NO_END.split(), key=len), len)
    return "".join(rf"(?<!{begins}(?:{'|'.join(map(re.escape, words))})\.)" for _, words in by_length)


# A stop, then closing quotes and brackets, then space, then what may begin a sentence; or a line break; or a full-width
# stop. The first character class is on its own in front so that the regex engine can skip to it: 4 ms/MB instead of 22
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
    parts = [text[start:end].strip() for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    if max(map(len, parts)) > MAX_SENTENCE_CHARACTERS:
        parts = [part for sentence in parts for part in _cut(sentence)]
    return list(filter(None, parts))


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
    """Joins the lines of a hard-wrapped document: one whose lines end where the next word would not fit."""
    if max(map(len, text.split("\n", 10)[:10])) > 120:  # for most texts the first lines are enough to decide
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
    """Draws parts of documents evenly from `texts`, at most `characters` in total, in one pass and bounded memory.

    A document longer than 10,000 characters is cut into parts that are drawn independently. The sample depends only
    on the texts and the seed. It is for training a tokenizer on a corpus that does not fit into memory.

    >>> sample(["one", "two", "three"], characters=6, seed=0) == sample(["three", "two", "one"], 6, 0)
    True
    """
    drawn: list[tuple[int, str]] = []  # a heap; its first entry is the part to give up next
    size = 0
    salt = seed.to_bytes(16, signed=True)
    for text in texts:
        text = text.replace("\0", "")
        for start in range(0, len(text), 10_000):
            part = text[start : start + 10_000]
            digest = hashlib.blake2b(part.encode("utf-8", "surrogatepass"), digest_size=8, salt=salt).digest()
            heapq.heappush(drawn, (-int.from_bytes(digest), part))
            size += len(part)
            while size > characters:
                size -= len(heapq.heappop(drawn)[1])
    return [part for _, part in sorted(drawn, reverse=True)]
