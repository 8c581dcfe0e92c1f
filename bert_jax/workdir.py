"""A run's workdir: which files are in it, who may write them, and how they go back to a checkpoint's step."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any, TextIO

from tensorboardX import SummaryWriter

from bert_jax import checkpoint
from bert_jax.config import RESUMABLE_FIELDS, Experiment, differences, to_json
from bert_jax.errors import InputError
from bert_jax.tokenizers import Tokenizer


def write_json(path: Path, value: Any) -> None:
    """Writes `value` so that a reader, or a crash, meets the old file or the new one whole."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    os.replace(partial, path)


class Workdir:
    """The folder of one run, locked against a second process while it is open.

    Raises:
      InputError: the folder cannot be made, or another process trains there.
    """

    def __init__(self, path: Path):
        self.path = path
        self.tokenizer = path / "tokenizer"
        self.checkpoints = path / "checkpoints"
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock: TextIO = open(path / ".lock", "w")  # noqa: SIM115
        except OSError as error:
            raise InputError(f"{path}: cannot be used as a workdir: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise InputError(
                f"{path}: another process is training there; wait for it or use another --workdir"
            ) from None
        self._board: SummaryWriter | None = None

    def __enter__(self) -> "Workdir":
        return self

    def __exit__(self, *_: object) -> None:
        if self._board is not None:
            self._board.close()
        self._lock.close()

    def latest_step(self) -> int | None:
        """The step of the newest whole checkpoint, None where there is none."""
        return checkpoint.latest_step(self.checkpoints)

    def claim(self, experiment: Experiment, tokenizer: Tokenizer) -> None:
        """Stores the experiment and its tokenizer, or checks that they are those stored here.

        Raises:
          InputError: the workdir holds another experiment; the fields that differ are named.
        """
        path = self.path / "experiment.json"
        new = to_json(experiment)
        if path.exists():
            old = json.loads(path.read_text())
            found = {name: both for name, both in differences(old, new).items() if name not in RESUMABLE_FIELDS}
            if found:
                listed = "; ".join(f"{name} is {was!r} there and {now!r} here" for name, (was, now) in found.items())
                raise InputError(f"{self.path}: holds another experiment: {listed}; use another --workdir")
        tokenizer.save(self.tokenizer)
        write_json(path, new)

    def rewind(self, step: int) -> None:
        """Drops every line of figures that was written after `step`, whole or not."""
        for name in ("metrics.jsonl", "speed.jsonl"):
            path = self.path / name
            if not path.exists():
                continue
            kept = []
            for line in path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        kept.append(line + "\n")
                except (json.JSONDecodeError, KeyError):
                    break  # the line that a crash cut short
            partial = path.with_name(name + ".partial")
            partial.write_text("".join(kept))
            os.replace(partial, path)
        self._board = SummaryWriter(str(self.path / "tensorboard"), purge_step=step + 1)

    def write_figures(self, step: int, split: str, figures: dict[str, float]) -> None:
        """Adds a line to metrics.jsonl, and the same to TensorBoard."""
        self._append("metrics.jsonl", {"step": step, "split": split, **figures})
        self._show(step, split, figures)

    def write_speed(self, step: int, seconds: float, speed: dict[str, float]) -> None:
        """Adds a line to speed.jsonl: what differs from machine to machine stays out of metrics.jsonl."""
        self._append("speed.jsonl", {"step": step, "seconds": round(seconds, 3), **speed})
        self._show(step, "speed", speed)

    def write_result(self, result: dict[str, Any]) -> None:
        """Replaces result.json."""
        write_json(self.path / "result.json", result)

    def result(self) -> dict[str, Any] | None:
        """What result.json holds, None where there is none."""
        path = self.path / "result.json"
        return json.loads(path.read_text()) if path.exists() else None

    def _append(self, name: str, line: dict[str, Any]) -> None:
        with open(self.path / name, "a") as file:
            file.write(json.dumps(line) + "\n")

    def _show(self, step: int, group: str, figures: dict[str, float]) -> None:
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(f"{group}/{name}", value, step)
