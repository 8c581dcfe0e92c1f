"""All access to files: open, list, write whole, read line by line, lock, map into memory.

No other module opens a file by itself; tests/test_imports.py checks that. `Path` is etils' path, which reads gs:// and
s3:// through fsspec. Memory maps, locks, appending to a file and replacing a folder need a local disk, and raise
InputError for a remote path: `storage` does them there in another way.
"""

import contextlib
import errno
import fcntl
import glob
import gzip
import io
import itertools
import json
import math
import os
import posixpath
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

import numpy as np
import zstandard

from bert_jax import buckets
from bert_jax.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path as Path  # etils' path has its methods, and no annotations
else:
    from etils.epath import Path

PathLike = str | os.PathLike[str]


# --- Paths


def path(name: PathLike) -> Path:
    """Returns the path that a user wrote, local or remote.

    Raises:
      InputError: its bucket cannot be used (see `buckets.connect`), or it was a path of pathlib on its way here.
    """
    if is_remote(name):
        buckets.connect(os.fspath(name))
    elif re.match("(gs|s3):/", os.fspath(name)):
        raise InputError(f"{name}: has lost a slash, as in pathlib.Path; pass gs://... as text")
    return Path(name)


def _epath(name: PathLike) -> Any:
    """Returns a path with the methods that only etils' has."""
    return Path(name)


def is_remote(name: PathLike) -> bool:
    """True if the path is not on a local disk."""
    return "://" in os.fspath(name)


def local(name: PathLike, purpose: str = "this is") -> str:
    """Returns a local path as text, for libraries that open files themselves.

    Args:
      purpose: the subject of the error message, such as "a token store is".

    Raises:
      InputError: the path is remote.
    """
    if is_remote(name):
        raise InputError(f"{name}: {purpose} read and written on a local disk only; copy it there first")
    return os.fspath(name)


def resolve(name: PathLike) -> Path:
    """Returns the absolute path; of a local one, with symbolic links followed."""
    return Path(name) if is_remote(name) else Path(os.path.realpath(name))


def common_folder(paths: list[Path]) -> Path:
    """Returns the lowest folder that holds all of the paths, each of which is absolute; Path() if there is none."""
    if not any(map(is_remote, paths)):
        return Path(os.path.commonpath(paths))
    parts = [os.fspath(one).split("/") for one in paths]
    common = itertools.takewhile(lambda names: len(set(names)) == 1, zip(*parts, strict=False))
    return Path("/".join(names[0] for names in common))


def cache_folder() -> Path:
    """Returns the folder for what can be made again; $XDG_CACHE_HOME names the one in which it is."""
    return Path(os.environ.get("XDG_CACHE_HOME") or home() / ".cache") / "bert_jax"


def home() -> Path:
    """Returns the user's home folder."""
    return Path(os.path.expanduser("~"))


# --- Listing


def expand(pattern: str) -> list[Path]:
    """Returns the files that a glob pattern matches, sorted; ** matches any number of folders of a local path."""
    if is_remote(pattern):
        bucket, _, inside = pattern.partition("://")[2].partition("/")
        matches = list(Path(pattern[: pattern.index("://") + 3] + bucket).glob(inside))
    else:
        matches = [Path(match) for match in glob.glob(pattern, recursive=True)]
    return sorted(one for one in matches if one.is_file())


def matching(folder: PathLike, pattern: str) -> list[Path]:
    """Returns what lies in a folder and matches a pattern without folders, such as *.index, sorted."""
    if is_remote(folder):
        return sorted(Path(folder).glob(pattern))
    return sorted(Path(folder, name) for name in glob.glob(pattern, root_dir=folder))


def walk(folder: PathLike, skip: Callable[[str], bool] | None = None) -> Iterator[tuple[Path, list[str]]]:
    """Yields (folder, names of its files) for a folder and all below it, in the order of their names.

    Args:
      skip: tells by its name whether a folder is left out, with everything below it.
    """
    for top, folders, names in _walk_remote(Path(folder)) if is_remote(folder) else os.walk(folder):
        folders[:] = sorted(name for name in folders if skip is None or not skip(name))
        yield Path(top), sorted(names)


def _walk_remote(top: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    # Not `Path.walk`, whose paths lack the gs:// where fsspec's file system leaves it out.
    inside = buckets.file_system(top).ls(os.fspath(top), detail=True)
    folders = [posixpath.basename(one["name"]) for one in inside if one["type"] == "directory"]
    yield top, folders, [posixpath.basename(one["name"]) for one in inside if one["type"] != "directory"]
    for name in folders:
        yield from _walk_remote(top / name)


def is_empty_folder(name: PathLike) -> bool:
    """True if the path is a folder with nothing in it."""
    return Path(name).is_dir() and not any(Path(name).iterdir())


def size(name: PathLike) -> int:
    """Returns the size of a file in bytes."""
    # Not `Path.stat` for local files: it fails where the user has no name, as in many containers.
    return _epath(name).stat().length if is_remote(name) else os.stat(name).st_size


def modified(name: PathLike) -> float:
    """Returns when a file was last written, in seconds since 1970."""
    return float(_epath(name).stat().mtime or 0) if is_remote(name) else os.stat(name).st_mtime


# --- Writing


def partial(name: PathLike) -> Path:
    """Returns where a file or folder is built until it is whole: next to it, so that it can be renamed."""
    return Path(name).with_name(Path(name).name + ".partial")


def put_in_place(unfinished: PathLike, name: PathLike) -> None:
    """Renames a file or folder to `name`; a file that is there is replaced, in one step."""
    os.replace(local(unfinished), local(name))


@contextlib.contextmanager
def replacing(name: PathLike) -> Iterator[Path]:
    """Yields the path to write instead of `name`, and puts what was written there in place; nothing if that failed."""
    unfinished = partial(name)
    remove(unfinished)
    yield unfinished
    put_in_place(unfinished, name)


def write_whole(name: PathLike, content: str | bytes) -> None:
    """Writes a file so that a reader, also after a crash, sees the old content or the new one, never a part of it."""
    content = content.encode() if isinstance(content, str) else content
    if is_remote(name):
        Path(name).write_bytes(content)  # an object appears when it is whole
        return
    try:
        with open(partial(name), "wb") as file:
            file.write(content)
            sync(file)
        put_in_place(partial(name), name)
    except OSError:
        with contextlib.suppress(OSError):
            remove(partial(name))
        raise


def write_json(name: PathLike, value: Any) -> None:
    """Writes JSON, indented, like `write_whole`."""
    write_whole(name, json_text(value, indent=2) + "\n")


def json_text(value: Any, indent: int | None = None) -> str:
    """Returns JSON, with characters as they are; numbers that are not finite are null, because JSON has none."""
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json_text(_without_nan(value), indent)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, such as in the name of a file that is not UTF-8
        return json.dumps(value, indent=indent)
    return text


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def open_appending(name: PathLike) -> BinaryIO:
    """Opens a local file, made where it is missing, to write at its end."""
    return open(local(name, "a file that grows is"), "ab")


def append_line(name: PathLike, line: str) -> None:
    """Adds a line to a local file, made where it is missing."""
    with open_appending(name) as file:
        file.write(line.encode() + b"\n")


def sync(file: BinaryIO) -> None:
    """Returns when all that was written to an open file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def make_folder(name: PathLike) -> Path:
    """Makes a folder and those above it (in a bucket, its first file does); raises InputError if that is impossible."""
    try:
        if not is_remote(name):
            Path(name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{name}: this folder cannot be made: {error.strerror}") from error
    return Path(name)


def remove(name: PathLike) -> None:
    """Removes a file, or a folder with everything in it; nothing if there is none."""
    if Path(name).is_dir():
        _epath(name).rmtree() if is_remote(name) else shutil.rmtree(name)
    else:
        Path(name).unlink(missing_ok=True)


def free_space(name: PathLike) -> int:
    """Returns how many bytes can still be written to the disk of a local folder."""
    return shutil.disk_usage(name).free


temporary_folder = tempfile.TemporaryDirectory  # yields the path of a new local folder, and removes it in the end


@contextlib.contextmanager
def full_disk_explained(name: PathLike, advice: str) -> Iterator[None]:
    """Turns a full disk into an InputError that names the path and ends in `advice`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(f"{name}: the disk is full; {advice}") from error


# --- Only on a local disk


def lock(name: PathLike, wait: bool = False) -> TextIO:
    """Makes and locks a file; the lock ends when the file is closed, or with the process.

    Args:
      wait: until another process gives the lock back, instead of raising BlockingIOError.

    Raises:
      BlockingIOError: another process has the lock.
      OSError: the file cannot be made.
    """
    file = open(local(name, "a lock is"), "w")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        file.close()
        raise BlockingIOError(error.errno, error.strerror) from None
    return file


def memory_map(name: PathLike, dtype: np.dtype) -> np.ndarray:
    """Returns the array in a file, read from the disk where it is used: [file size / item size], read-only."""
    return np.memmap(local(name, "a token store is"), dtype, mode="r")


# --- Arrays


def save_arrays(name: PathLike, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays as an .npz file."""
    with Path(name).open("wb") as file:
        file.write(pack_arrays(arrays))


def pack_arrays(arrays: dict[str, np.ndarray]) -> bytes:
    """Returns the bytes of an .npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpack_arrays(content: bytes) -> dict[str, np.ndarray]:
    """Returns the arrays in the bytes of an .npz file."""
    return dict(np.load(io.BytesIO(content), allow_pickle=False))


# --- Reading text


@contextlib.contextmanager
def errors_named(name: PathLike) -> Iterator[None]:
    """Turns what goes wrong while a file is opened, decompressed and read into an InputError that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{name}: this is a folder; expected a file") from None
    except gzip.BadGzipFile as error:
        raise InputError(f"{name}: not a gzip file although its name ends in .gz ({error})") from error
    except (EOFError, zlib.error, zstandard.ZstdError) as error:
        raise InputError(f"{name}: damaged or cut off within its compressed data ({error})") from error
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror or error}") from error


class _ZstdFile(io.RawIOBase):
    """The content of a file of Zstandard frames. Unlike zstandard's own reader, it notices that the file is cut off."""

    def __init__(self, raw: BinaryIO):
        self._raw = raw
        self._frame: Any = None  # the decompressor of a frame that has begun
        self._compressed = b""
        self._content = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._content:
            self._compressed = self._compressed or self._raw.read(1 << 16)
            if not self._compressed:
                if self._frame is not None:
                    raise EOFError("the file ends within a frame")
                return 0
            self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            self._content = memoryview(self._frame.decompress(self._compressed))
            self._compressed = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        size = min(len(buffer), len(self._content))
        buffer[:size], self._content = self._content[:size], self._content[size:]
        return size


def open_bytes(name: PathLike) -> BinaryIO:
    """Opens a file to read its bytes."""
    raw = path(name).open("rb")
    # fsspec's files read lines slowly, and of any length.
    return io.BufferedReader(raw, 1 << 20) if is_remote(name) else raw


def decompressed(raw: BinaryIO, name: str) -> BinaryIO:
    """Returns the content of an open file, decompressed if its name ends in .gz or .zst."""
    if name.endswith(".gz"):
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    if name.endswith(".zst"):
        return io.BufferedReader(_ZstdFile(raw), 1 << 20)
    return raw


def without_compression(name: str) -> str:
    """Returns the name of a file without the .gz or .zst at its end."""
    return name.removesuffix(".gz") if name.endswith(".gz") else name.removesuffix(".zst")


def arriving_lines(stream: BinaryIO, name: PathLike) -> Iterator[list[tuple[int, str]]]:
    """Yields the whole lines that have arrived since the last time, each as (line number from 1, line with its end).

    Raises:
      InputError: a line is not UTF-8 text.
    """
    first, rest = 1, b""
    while True:
        arrived = stream.read1(1 << 16)  # type: ignore[attr-defined]
        whole, end, after = (rest + arrived).rpartition(b"\n") if arrived else (rest, b"", b"")
        rest = after
        lines = list(decode_lines(io.BytesIO(whole + end), name, first=first))
        first += len(lines)
        if lines:
            yield lines
        if not arrived:
            return


def decode_lines(
    stream: BinaryIO, name: PathLike, max_bytes: int | None = None, most_zeros: float = 0.0, first: int = 1
) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, line with its end) of UTF-8 text; only a line feed ends a line.

    A byte order mark at the start is left out.

    Args:
      stream: the decompressed content.
      name: of the file, for errors.
      max_bytes: longest line that is accepted, so that a file without line ends does not fill the memory.
      most_zeros: share of a line's characters that may be zero bytes; they are not removed.
      first: number of the first line.

    Raises:
      InputError: a line is too long or not UTF-8 text.
    """
    read = stream.readline if max_bytes is None else lambda: stream.readline(max_bytes + 1)
    for number, raw in enumerate(iter(read, b""), first):
        if max_bytes is not None and len(raw) > max_bytes:
            raise InputError(f"{name}:{number}: longer than {max_bytes:,} bytes; split it")
        try:
            line = raw.decode()
        except UnicodeDecodeError as error:
            encoding = "utf-16" if number == 1 and raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "latin1"
            raise InputError(
                f"{name}:{number}: not UTF-8 (byte 0x{raw[error.start]:02x}); convert the file, for instance with "
                f"iconv -f {encoding} -t utf-8, or end its name in its compression (.gz, .zst)"
            ) from error
        if "\0" in line and line.count("\0") > most_zeros * len(line):
            raise InputError(f"{name}:{number}: a zero byte; this is a binary file or UTF-16, expected UTF-8 text")
        yield number, line.removeprefix("\ufeff") if number == 1 else line


def read_lines(name: PathLike) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, line without its end) of a UTF-8 file, which may be compressed (.gz, .zst).

    Raises:
      InputError: the file cannot be read, is damaged, or is not UTF-8 text.
    """
    with errors_named(name), open_bytes(name) as raw:
        for number, line in decode_lines(decompressed(raw, os.fspath(name)), name):
            yield number, line.removesuffix("\n").removesuffix("\r")


def standard_input() -> BinaryIO:
    """Returns the bytes that other programs or the user give to this process."""
    return sys.stdin.buffer


def discard_output() -> None:
    """Lets everything that is still printed go nowhere: its reader has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def read_json(name: PathLike) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      InputError: the file cannot be read, is not UTF-8, not JSON, or not an object.
    """
    value = _json_value(name)
    if not isinstance(value, dict):
        raise InputError(f"{name}: expected a JSON object, found {type(value).__name__}")
    return value


def read_json_list(name: PathLike) -> list[Any]:
    """Reads a JSON array, as `read_json` reads an object."""
    value = _json_value(name)
    if not isinstance(value, list):
        raise InputError(f"{name}: expected a JSON array, found {type(value).__name__}")
    return value


def _json_value(name: PathLike) -> Any:
    with errors_named(name):
        content = Path(name).read_bytes()
    try:
        return json.loads(content.decode())
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{name}: line {error.lineno}: not JSON: {error.msg}") from None
