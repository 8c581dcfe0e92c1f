"""How a source of weights, text or rows is spelt. Pure: nothing is opened here."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

_PREFIXES: dict[str, Literal["hub", "run", "tfds"]] = {"hf:": "hub", "run:": "run", "tfds:": "tfds"}


@dataclass(frozen=True)
class Source:
    """A source in its parts; see `parse`."""

    kind: Literal["path", "hub", "run", "tfds"]
    name: str  # the path; the hub's org/name; the other run of the sweep; the TFDS name[/config][:version]
    step: int | None = None  # of a workdir or a run: the step of the checkpoint
    split: str | None = None  # of a TFDS data set: its split, perhaps a slice such as train[:80%]
    mean: int = 0  # of a workdir or a run: number of its latest checkpoints whose mean is taken; 0 = no mean

    @property
    def at(self) -> str:
        """What follows the name of a workdir or a run: "@STEP", "@mean:N", or nothing."""
        if self.mean:
            return f"@mean:{self.mean}"
        return "" if self.step is None else f"@{self.step}"


def parse(text: str, is_workdir: Callable[[str], bool] | None = None) -> Source:
    """Splits a source into its parts. Any text is a source: without a known prefix it is a path.

        PATH                                     a file or a folder
        WORKDIR@STEP                             the checkpoint of that step in a workdir
        WORKDIR@mean:N                           the mean of the weights of its latest N checkpoints
        hf:ORG/NAME                              a model on the Hugging Face hub
        run:NAME, run:NAME@STEP, ...             another run of the same sweep
        run:NAME/seed-0                          one seed of it, if it has several
        tfds:NAME[/CONFIG][:VERSION][:SPLIT]     a data set of TensorFlow Datasets

    Args:
      is_workdir: tells whether a path is a workdir. If it is passed, PATH@... is split only where PATH is a workdir
        and PATH@... is not, because the name of a folder may contain an @.

    >>> parse("runs/bert@1000")
    Source(kind='path', name='runs/bert', step=1000, split=None, mean=0)
    >>> parse("tfds:wikipedia/20230601.en:1.0.0:train[:1%]")
    Source(kind='tfds', name='wikipedia/20230601.en:1.0.0', step=None, split='train[:1%]', mean=0)
    >>> parse("tfds:gs://bucket/set/1.0.0:test").name
    'gs://bucket/set/1.0.0'
    """
    for prefix, kind in _PREFIXES.items():
        if text.startswith(prefix):
            rest = text.removeprefix(prefix)
            if kind == "hub":
                return Source(kind, rest)
            if kind == "run":
                return _with_checkpoint(kind, rest)
            scheme, remote, after = rest.rpartition("://")  # the folder of a prepared data set may be in a bucket
            name, _, split = after.partition(":")
            name = scheme + remote + name
            if version := re.match(r"\d+\.\d+\.\d+(?=:|$)", split):
                name, split = f"{name}:{version[0]}", split[version.end() + 1 :]
            return Source(kind, name, split=split or None)
    source = _with_checkpoint("path", text)
    if source.name != text and is_workdir is not None and (is_workdir(text) or not is_workdir(source.name)):
        return Source("path", text)
    return source


def _with_checkpoint(kind: Literal["path", "run"], text: str) -> Source:
    name, _, which = text.rpartition("@")
    if name and which.isdecimal():
        return Source(kind, name, int(which))
    if name and (mean := re.fullmatch(r"mean:(\d+)", which)):
        return Source(kind, name, mean=int(mean[1]))
    return Source(kind, text)
