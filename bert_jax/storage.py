"""What a bucket needs in place of a local disk: copies to map into memory, uploads, files that grow, and a lock.

Each function takes a local path as well, and does the plain thing with it: its callers need not tell them apart.
"""

import base64
import contextlib
import hashlib
import importlib
import json
import os
import posixpath
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from bert_jax import buckets, files
from bert_jax.errors import InputError

BEAT = 10.0  # seconds between two heartbeats of a process that holds a remote folder, and two uploads of its files
GONE = 60.0  # seconds without a heartbeat after which another process may take the folder over

_PROCESS = uuid.uuid4().hex
_gone: set[str] = set()  # other processes that had no heartbeat: the runs of several seeds have one holder


# --- Copies of what is remote


def local_copy(name: files.PathLike) -> files.Path:
    """Returns a file or folder of which libraries need a local copy: the path itself, or a copy in the cache.

    A copy is found again by the names, sizes and checksums of what it was made from. It is fetched again if somebody
    changed it. Several processes may ask for it; one fetches it.

    Raises:
      InputError: there is nothing of that name, what arrived is not what the storage holds, or the disk is full.
    """
    if not files.is_remote(name):
        return files.Path(name)
    objects = _objects(name)
    if not objects:
        raise InputError(f"{name}: no such file or folder")
    with _copy_of(name, objects) as (folder, copy):
        if not _is_as_recorded(folder):
            _fetch(name, objects, folder, copy.name)
    return copy


@contextlib.contextmanager
def _copy_of(
    name: files.PathLike, objects: list[tuple[str, dict[str, Any]]]
) -> Iterator[tuple[files.Path, files.Path]]:
    """Yields the folder in the cache for a copy, and the copy in it; no other process changes it in the meantime."""
    last = posixpath.basename(os.fspath(name).rstrip("/"))
    content = [[path, one["size"], _version(name, one)] for path, one in objects]
    key = hashlib.sha256(json.dumps([last, content]).encode()).hexdigest()[:16]
    folder = files.make_folder(files.cache_folder() / "copies") / key
    lock = files.lock(folder.with_name(f"{key}.lock"), wait=True)
    try:
        yield folder, folder / last
    finally:
        lock.close()


def _objects(name: files.PathLike) -> list[tuple[str, dict[str, Any]]]:
    """Returns (path below `name`, or "" for a file; what the storage has noted about it) of each file, in order."""
    system = buckets.file_system(name)
    top = system._strip_protocol(os.fspath(name)).rstrip("/")
    infos = sorted(system.find(top, detail=True).items())
    return [(path[len(top) :].lstrip("/"), info) for path, info in infos if info["type"] == "file"]


def _version(name: files.PathLike, info: dict[str, Any]) -> Any:
    """Returns what changes with the content of a file: its checksum or, without one, its path and time."""
    return _checksum(info) or [os.fspath(name), *(str(info.get(key)) for key in ("ETag", "LastModified", "mtime"))]


def _checksum(info: dict[str, Any]) -> tuple[str, str] | None:
    """Returns (kind, base64 text) of the checksum that the storage has for a file; None if it has none."""
    return next(((kind, info[kind]) for kind in ("crc32c", "md5Hash") if kind in info), None)


def _fetch(name: files.PathLike, objects: list[tuple[str, dict[str, Any]]], folder: files.Path, last: str) -> None:
    """Copies files to the folder `last` in `folder`, or to the file `last` in it, and records their state there."""
    size, free = sum(info["size"] for _, info in objects), files.free_space(folder.parent)
    advice = "free some space, or let XDG_CACHE_HOME name a folder on a larger disk"
    if size > free:
        raise InputError(f"{name}: a copy of {size:,} bytes is needed, and {folder.parent} has {free:,} left; {advice}")
    unfinished = files.partial(folder)
    files.remove(unfinished)
    try:
        with files.full_disk_explained(folder, advice):
            targets = [unfinished / last / path if path else unfinished / last for path, _ in objects]
            for target in targets:
                files.make_folder(target.parent)
            sources = [info["name"] for _, info in objects]
            # Several at once, and each in several parts.
            buckets.file_system(name).get(sources, [os.fspath(target) for target in targets])
            _record(name, objects, unfinished, last)
            files.remove(folder)
            files.put_in_place(unfinished, folder)
    finally:
        files.remove(unfinished)


def _record(name: files.PathLike, objects: list[tuple[str, dict[str, Any]]], folder: files.Path, last: str) -> None:
    """Checks the copy `last` in a folder, and records the state of its files there."""
    for path, info in objects:
        copy = folder / last / path if path else folder / last
        _check_copy(f"{name}/{path}".rstrip("/"), info, copy)
    files.write_json(folder / _RECORD, _state(folder))


_RECORD = "record.json"  # in the folder of a copy: size and time of change of each of its files


def _state(folder: files.Path) -> dict[str, list[float]]:
    paths = [top / name for top, names in files.walk(folder) for name in names if name != _RECORD]
    return {path.relative_to(folder).as_posix(): [files.size(path), files.modified(path)] for path in paths}


def _is_as_recorded(folder: files.Path) -> bool:
    try:
        return files.read_json(folder / _RECORD) == _state(folder)
    except InputError:  # it is missing, or cut short
        return False


def _check_copy(name: str, info: dict[str, Any], copy: files.Path) -> None:
    actual = files.size(copy)
    if actual != info["size"]:
        raise InputError(f"{name}: {actual:,} bytes arrived, expected {info['size']:,}; run the same command again")
    kind, expected = _checksum(info) or ("", "")
    if kind and _digest(copy, kind) not in (expected, None):
        raise InputError(f"{name}: what arrived has another checksum than the storage; run the same command again")


def _digest(path: files.Path, kind: str) -> str | None:
    """Returns a file's checksum, base64; None where the package for it is missing."""
    digest: Any
    if kind == "md5Hash":
        digest = hashlib.md5(usedforsecurity=False)
    else:
        try:
            digest = importlib.import_module("google_crc32c").Checksum()
        except ImportError:
            return None
    with path.open("rb") as file:
        while part := file.read(1 << 22):
            digest.update(part)
    return base64.b64encode(digest.digest()).decode()


# --- Writing


def upload(source: files.Path, name: files.PathLike, last: str = "") -> None:
    """Copies a local file, or a folder with all that is in it, to a remote path.

    Args:
      last: of a folder, the file to write when all others are there: it shows that the folder is whole.
    """
    pairs = [(source, os.fspath(name))]
    if source.is_dir():
        paths = [top / one for top, names in files.walk(source) for one in names]
        pairs = [(path, posixpath.join(os.fspath(name), path.relative_to(source).as_posix())) for path in paths]
    system = buckets.file_system(name)
    for some in ([pair for pair in pairs if pair[0].name != last], [pair for pair in pairs if pair[0].name == last]):
        if some:
            system.put([os.fspath(path) for path, _ in some], [remote for _, remote in some])


@contextlib.contextmanager
def replacing(name: files.PathLike) -> Iterator[files.Path]:
    """Yields the local path to write instead of `name`, and puts what was written there in place; nothing on an error.

    In a bucket a folder does not appear in one step, unlike a file: write what shows that it is whole after it.
    """
    if not files.is_remote(name):
        with files.replacing(name) as unfinished:
            yield unfinished
        return
    with files.temporary_folder() as folder:
        unfinished = files.Path(folder) / files.Path(name).name
        yield unfinished
        upload(unfinished, name)


@contextlib.contextmanager
def filling(folder: files.PathLike) -> Iterator[files.Path]:
    """Yields the local folder to write to instead of `folder`, for libraries that write files themselves."""
    if not files.is_remote(folder):
        yield files.Path(folder)
        return
    with files.temporary_folder() as local:
        yield files.Path(local)
        upload(files.Path(local), folder)


def partial(name: files.PathLike) -> files.Path:
    """Returns the local folder in which a folder is built until it is whole, perhaps by several processes in turn."""
    if not files.is_remote(name):
        return files.partial(name)
    key = hashlib.sha256(os.fspath(name).encode()).hexdigest()[:16]
    return files.cache_folder() / "unfinished" / f"{key}-{files.Path(name).name}.partial"


def put_in_place(unfinished: files.Path, name: files.PathLike, last: str) -> None:
    """Moves a folder that was built at `partial(name)` to `name`; in a bucket, the file `last` appears last."""
    if not files.is_remote(name):
        files.put_in_place(unfinished, name)
        return
    upload(unfinished, name, last)
    objects = _objects(name)
    with _copy_of(name, objects) as (folder, copy):  # so that nobody has to fetch it here
        files.remove(folder)
        files.make_folder(folder)
        files.put_in_place(unfinished, copy)
        _record(name, objects, folder, copy.name)


# --- A folder that one process writes to


def hold(folder: files.Path, lock: str) -> "LocalFolder | RemoteFolder":
    """Makes a folder, and locks it against all other processes.

    Args:
      lock: name in the folder for the lock.

    Raises:
      BlockingIOError: another process holds it; `strerror` names the process.
      OSError: it cannot be made.
    """
    return RemoteFolder(folder, lock) if files.is_remote(folder) else LocalFolder(folder, lock)


class LocalFolder:
    """A folder on a local disk, held until `close` or the end of the process."""

    def __init__(self, folder: files.Path, lock: str):
        self.growing = files.make_folder(folder)  # where files that grow are written
        try:
            self._lock = files.lock(folder / lock)
        except BlockingIOError as error:
            raise BlockingIOError(error.errno, _named(None)) from None

    def sync(self) -> None:
        """Returns when other processes can read all that was written to `growing`: at once."""

    def close(self) -> None:
        """Gives the folder back."""
        self._lock.close()


class RemoteFolder:
    """A folder in a bucket, held as long as this process has a heartbeat, and the files in it that grow.

    A bucket has no lock that ends with a process, and no file that grows. So files grow in a local folder, from which
    they are uploaded, whole, every BEAT seconds. The holder creates an object, which only one process can do, and
    changes it as often: its heartbeat. Another process watches whether it changes, and compares no clocks, which may be
    wrong. If it does not change for GONE seconds, the other process creates the object with the next number. If the
    first holder comes back, it sees that object, and writes nothing more.
    """

    def __init__(self, folder: files.Path, lock: str):
        self._folder = os.fspath(folder)
        self._holders = posixpath.join(self._folder, f"{lock}.holders")
        self._system = buckets.file_system(folder)
        self._me = {
            "holder": uuid.uuid4().hex,
            "process": f"{_PROCESS} {os.getpid()}",
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        self._beats = 0
        self._number = self._take()
        self._lost: str | None = None  # who has taken the folder over
        self._beaten_at = time.monotonic()
        self._temporary = files.temporary_folder()
        self.growing = files.Path(self._temporary.name)  # where files that grow are written
        self._uploaded: dict[str, list[float]] = {}
        self._uploading = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def sync(self) -> None:
        """Returns when other processes can read all that was written to `growing`.

        Raises:
          InputError: another process has taken the folder over, after this one had no heartbeat.
        """
        if time.monotonic() - self._beaten_at > 2 * BEAT:  # asleep, or the storage did not answer
            self._beat()
        if self._lost is not None:
            raise InputError(
                f"{self._folder}: {self._lost} has taken it over, because this process did not reach the storage for "
                f"{GONE:.0f} seconds; nothing more is written here"
            )
        with self._uploading:
            self._upload()

    def close(self) -> None:
        """Uploads what is left, and gives the folder back."""
        self._ended.set()
        self._thread.join()
        try:
            if self._lost is None:
                self.sync()
                self._write(released=True)
        finally:
            self._temporary.cleanup()

    def _keep(self) -> None:
        while not self._ended.wait(BEAT):
            # What fails is done the next time; `sync` raises what lasts.
            with contextlib.suppress(Exception):
                self._beat()
                if self._lost is None:
                    with self._uploading:
                        self._upload()

    def _upload(self) -> None:
        state = _state(self.growing)
        for name, now in state.items():
            if self._uploaded.get(name) != now:
                # Not as it is read: it may grow in the meantime.
                self._system.pipe_file(posixpath.join(self._folder, name), (self.growing / name).read_bytes())
                self._uploaded[name] = now

    # Holders: numbered objects, of which the one with the highest number counts. It stays when it is given back, so
    # that a number is never used twice.

    def _path(self, number: int) -> str:
        return posixpath.join(self._holders, f"{number:08d}")

    def _numbers(self) -> list[int]:
        try:
            names = [posixpath.basename(name) for name in self._system.ls(self._holders, detail=False)]
        except FileNotFoundError:
            return []
        return sorted(int(name) for name in names if name.isdecimal())

    def _read(self, number: int) -> dict[str, Any] | None:
        try:
            return json.loads(self._system.cat_file(self._path(number)))
        except FileNotFoundError:
            return None

    def _write(self, **fields: Any) -> None:
        content = {**self._me, "beats": self._beats, **fields}
        self._system.pipe_file(self._path(self._number), json.dumps(content).encode())

    def _take(self) -> int:
        """Creates the object with the next number, and returns the number; waits until its last holder is gone."""
        before = self._numbers()
        number = before[-1] + 1 if before else 1
        if before:
            self._watch(before[-1])
        try:
            content = json.dumps({**self._me, "beats": 0}).encode()
            self._system.pipe_file(self._path(number), content, mode="create")
        except FileExistsError:  # also if the answer to a first try was lost
            self._check_mine(number)
        after = self._numbers()
        if after[-1] != number:  # others have come and gone in the meantime
            self._system.rm_file(self._path(number))
            self._check_mine(after[-1])
        for old in before:
            with contextlib.suppress(FileNotFoundError):
                self._system.rm_file(self._path(old))
        return number

    def _check_mine(self, number: int) -> None:
        holder = self._read(number)
        if holder is None or holder["holder"] != self._me["holder"]:
            raise BlockingIOError(None, _named(holder))

    def _watch(self, number: int) -> None:
        """Returns when the holder has given the folder back or is gone; raises BlockingIOError if it is alive."""
        first = self._read(number)
        if first is not None and (first.get("released") or first["process"] in _gone):
            return
        line = f"{self._folder}: {_named(first)} was writing there; watching for {GONE:.0f} s whether it still does"
        print(line, file=sys.stderr)
        began = time.monotonic()
        while time.monotonic() - began < GONE:
            time.sleep(BEAT / 4)
            asked = time.monotonic()
            now = self._read(number)
            if now != first:
                if now is not None and now.get("released"):
                    return
                raise BlockingIOError(None, _named(now))
            if time.monotonic() - asked > BEAT:  # the storage did not answer: the holder could not write either
                began = time.monotonic()
        if first is not None and first["process"] != self._me["process"]:
            _gone.add(first["process"])

    def _beat(self) -> None:
        newest = self._numbers()[-1]
        if newest != self._number:
            self._lost = _named(self._read(newest))
            return
        self._beats += 1
        self._write()
        self._beaten_at = time.monotonic()


def _named(holder: dict[str, Any] | None) -> str:
    return "another process" if holder is None else f"process {holder['pid']} on {holder['host']}"
