"""A run's workdir: what is written to it, by which process, and how its files go back to a checkpoint's step."""

import json
import math
import platform
import subprocess
import time
from contextlib import suppress
from functools import cached_property
from importlib import metadata
from typing import Any

import numpy as np

from bert_jax import buckets, files, storage
from bert_jax.config import Experiment, differences, experiment_from_json, is_resumable, to_json
from bert_jax.errors import InputError
from bert_jax.runs import checkpoint, layout
from bert_jax.tokenizers import Tokenizer

LIBRARIES = ("bert_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers")


def environment() -> dict[str, Any]:
    """Returns the software environment: versions of Python and the libraries, and the package's git revision.

    The version of a library that is not installed is None: bert_jax itself may be used from a folder.
    """
    versions: dict[str, str | None] = dict.fromkeys(LIBRARIES)
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    revision = git_revision(files.Path(__file__).parent)
    return {"python": platform.python_version(), "libraries": versions, "git": revision}


def git_revision(folder: files.Path) -> str | None:
    """Returns the commit of `folder`, with "+changes" if files differ from it; None outside a git repository."""

    def git(*args: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *args], capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # the folder may be in a repository that ignores it
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


class Board:
    """A TensorBoard writer. TensorBoard drops the events from `first_step` on that an earlier process wrote."""

    def __init__(self, folder: files.Path, first_step: int):
        self._folder = folder
        self._first_step = first_step

    @cached_property
    def _writer(self) -> Any:
        # Imported with the first figures, after the first steps: where PyTorch is installed, tensorboardX imports it.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        files.make_folder(self._folder)
        # TensorBoard's usual writer has a thread that a full disk ends, and then waits for it forever.
        writer = EventsWriter(files.local(self._folder / "events"))
        writer.write_event(Event(step=self._first_step, session_log=SessionLog(status=SessionLog.START)))
        return writer

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Writes figures, {name: value}; those that are not finite are left out."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for name, value in figures.items():
            if not math.isfinite(value):
                continue
            self._writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
        self._writer.flush()

    def close(self) -> None:
        """Closes the file, if anything was written."""
        if "_writer" in vars(self):
            self._writer.close()


def has_steps(folder: files.Path) -> bool:
    """Returns whether a run in the workdir `folder` left anything of its steps: a checkpoint, figures or a result."""
    written = (folder / layout.METRICS, folder / layout.RESULT)
    stored = (folder / layout.CHECKPOINTS, folder / layout.BEST)
    return any(path.exists() for path in written) or any(checkpoint.latest_step(path) is not None for path in stored)


class Workdir:
    """The folder of one run, locked against a second process while it is open.

    Args:
      path: the folder; created if it is missing.
      writes: False on every host except the first; nothing is locked or written then.

    Raises:
      InputError: the folder cannot be created, or another process trains there.
    """

    def __init__(self, path: files.Path, writes: bool = True):
        self.path = path
        self._writes = writes
        self._board: Board | None = None
        self.tokenizer = path / layout.TOKENIZER
        self.checkpoints = path / layout.CHECKPOINTS
        self.best = path / layout.BEST
        checkpoint.check_folder(path)
        self._held = self._hold() if writes else None
        self.growing = self._held.growing if self._held else path  # the local folder for files that grow

    def _hold(self) -> storage.LocalFolder | storage.RemoteFolder:
        try:
            return storage.hold(self.path, layout.LOCK)
        except BlockingIOError as error:
            raise InputError(
                f"{self.path}: {error.strerror} is training there; wait for it or use another --workdir"
            ) from None
        except OSError as error:
            if buckets.problem(error):  # `train` explains it
                raise
            raise InputError(f"{self.path}: cannot be used as a workdir: {error.strerror}") from None

    def __enter__(self) -> "Workdir":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            try:
                if self._board is not None:
                    self._board.close()
            finally:
                if self._held is not None:
                    self._held.close()
        except Exception:
            if kind is None:  # otherwise the earlier error is the cause
                raise

    def sync(self) -> None:
        """Returns when all figures can be read in the workdir, also in a bucket; a checkpoint of their step may follow.

        Raises:
          InputError: another process has taken the workdir over.
        """
        if self._held is not None:
            self._held.sync()

    def latest_step(self) -> int | None:
        """Returns the step of the newest complete checkpoint, or None."""
        return checkpoint.latest_step(self.checkpoints)

    def stored_steps(self) -> int:
        """Returns the number of steps of the experiment that the workdir holds, 0 if it holds none."""
        path = self.path / layout.EXPERIMENT
        return experiment_from_json(json.loads(path.read_text()), str(path)).steps if path.exists() else 0

    def claim(self, experiment: Experiment, tokenizer: Tokenizer) -> dict[str, tuple[Any, Any]]:
        """Stores the experiment and its tokenizer, or checks that the workdir holds the same experiment.

        An experiment that never took a step, because something was wrong with it, is replaced.

        Returns:
          {path of a field: (old value, new value)} of the fields that changed, which are all allowed to.

        Raises:
          InputError: the workdir holds another experiment; the message lists the fields that differ.
        """
        path = self.path / layout.EXPERIMENT
        new = to_json(experiment)
        changed: dict[str, tuple[Any, Any]] = {}
        if path.exists():
            stored = experiment_from_json(json.loads(path.read_text()), str(path))
            changed = differences(to_json(stored), new)
            refused = {name: both for name, both in changed.items() if not is_resumable(name)}
            if refused and not has_steps(self.path):
                changed = {}
                self._discard_setup()
            elif refused:
                listed = "; ".join(f"{name} is {was!r} there and {now!r} here" for name, (was, now) in refused.items())
                raise InputError(f"{self.path}: holds another experiment: {listed}; use another --workdir")
        if not self._writes:
            return changed
        # In a bucket a folder does not appear in one step: the experiment, written after it, shows that it is whole.
        whole = not files.is_remote(path) or path.exists()
        if not (whole and self.tokenizer.exists()):
            with storage.replacing(self.tokenizer) as folder:
                tokenizer.save(folder)
        files.write_json(path, new)
        return changed

    def _discard_setup(self) -> None:
        if self._writes:
            files.remove(self.path / layout.EXPERIMENT)
            files.remove(self.tokenizer)
            files.remove(self.path / layout.ENVIRONMENT)

    def record_environment(self, step: int, devices: dict[str, Any]) -> None:
        """Adds the environment from `step` on to environment.json, unless it is the same as before."""
        if not self._writes:
            return
        path = self.path / layout.ENVIRONMENT
        history = json.loads(path.read_text()) if path.exists() else []
        now = {**environment(), "devices": devices}
        if not history or {**history[-1], "from_step": 0} != {"from_step": 0, **now}:
            files.write_json(path, [*history, {"from_step": step, **now}])

    def rewind(self, step: int, evaluated: int) -> None:
        """Removes all lines of figures after `step`, evaluations after step `evaluated`, and an incomplete line."""
        if not self._writes:
            return
        until = {"eval": evaluated}
        for name in (layout.METRICS, layout.SPEED):
            path = self.path / name
            if not path.exists():
                continue
            lines = []
            for line in path.read_text().splitlines():
                try:
                    figures = json.loads(line)
                    if figures["step"] <= until.get(figures.get("split"), step):
                        lines.append(line + "\n")
                except (json.JSONDecodeError, KeyError):
                    break  # a crash cut this line off
            files.write_whole(self.growing / name, "".join(lines))
        self._board = Board(self.growing / layout.TENSORBOARD, step + 1)

    def write_figures(self, step: int, split: str, figures: dict[str, float]) -> None:
        """Adds a line to metrics.jsonl, and the same figures to TensorBoard."""
        self._append(layout.METRICS, {"step": step, "split": split, **figures})
        self._show(step, split, figures)

    def write_speed(self, step: int, seconds: float, speed: dict[str, float]) -> None:
        """Adds a line to speed.jsonl. Figures that depend on the machine are not in metrics.jsonl."""
        self._append(layout.SPEED, {"step": step, "seconds": round(seconds, 3), **speed})
        self._show(step, "speed", speed)

    def write_result(self, result: dict[str, Any]) -> None:
        """Replaces result.json."""
        if self._writes:
            files.write_json(self.path / layout.RESULT, result)

    def write_batch(self, step: int, batch: dict[str, np.ndarray]) -> files.Path:
        """Writes a batch whose gradient was not finite, for `numpy.load`, and returns the path."""
        path = self.path / layout.batch_of_step(step)
        if self._writes:
            files.save_arrays(path, batch)
        return path

    def result(self) -> dict[str, Any] | None:
        """Returns the content of result.json, or None."""
        path = self.path / layout.RESULT
        return json.loads(path.read_text()) if path.exists() else None

    def _append(self, name: str, line: dict[str, Any]) -> None:
        if self._writes:
            files.append_line(self.growing / name, files.json_text(line))

    def _show(self, step: int, group: str, figures: dict[str, float]) -> None:
        if self._board is not None:
            self._board.write(step, {f"{group}/{name}": value for name, value in figures.items()})
