"""Experiment files, and the sweeps in them: several experiments, some of which start from another's result."""

import contextlib
import os
import posixpath
import runpy
import sys
from collections.abc import Iterator
from dataclasses import replace

from bert_jax import sources
from bert_jax.config import BertConfig, Experiment
from bert_jax.errors import InputError

PathLike = str | os.PathLike[str]
Sweep = dict[str, Experiment]  # by name; a single experiment has the name ""


def load_experiments(path: PathLike) -> Sweep:
    """Runs an experiment file and returns its sweep; a single experiment is a sweep with the name "".

    The file may import the files in its folder.

    Raises:
      InputError: the file does not exist, fails, or defines neither `experiment` nor `sweep`.
    """
    from bert_jax import files  # here, so that --help is quick

    if not files.Path(path).is_file():
        raise InputError(f"{path}: no such experiment file")
    try:
        with _neighbours_importable(files.resolve(path).parent):
            names = runpy.run_path(files.local(path, "an experiment file is"))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: {type(error).__name__}: {error}") from error
    sweep = names.get("sweep", {"": names.get("experiment")})
    if not isinstance(sweep, dict) or not sweep or not all(isinstance(e, Experiment) for e in sweep.values()):
        raise InputError(f"{path}: define `experiment = Experiment(...)` or `sweep = {{name: Experiment(...)}}` in it")
    return sweep


@contextlib.contextmanager
def _neighbours_importable(folder: os.PathLike[str]) -> Iterator[None]:
    # Like `python FILE`. Modules are removed afterwards: another folder may have a file with the same name.
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if posixpath.dirname(getattr(sys.modules[name], "__file__", None) or "") == str(folder):
                del sys.modules[name]


def select(sweep: Sweep, name: str | None, path: PathLike) -> Sweep:
    """Returns the one experiment called `name`, or the whole sweep for None.

    Raises:
      InputError: no experiment of the file `path` has that name.
    """
    if name is None:
        return sweep
    if name not in sweep:
        raise InputError(f"{path}: no experiment is called {name!r}; the names are {', '.join(sweep)}")
    return {name: sweep[name]}


def origin_of(experiment: Experiment, sweep: Sweep) -> Experiment:
    """Follows `run:NAME` through the sweep, and returns the experiment that the chain begins with."""
    source = sources.parse(experiment.branch_from or experiment.init_from or "")
    run = source.name.partition("/")[0]  # what follows is the folder of a seed
    if source.kind != "run" or run not in sweep:
        return experiment
    return origin_of(sweep[run], {name: sweep[name] for name in sweep if name != run})


def model_of(experiment: Experiment, sweep: Sweep) -> BertConfig | None:
    """Returns the experiment's model, or its source's, which may be a run of the sweep that does not exist yet.

    Raises:
      InputError: the source cannot be opened.
    """
    origin = origin_of(experiment, sweep)
    if experiment.model is not None or origin.model is not None or origin.init_from is None:
        return experiment.model or origin.model

    from bert_jax.pretrained import open_source  # imports JAX

    # 0, because the task may have to add markers to the source's vocabulary.
    return replace(open_source(origin.init_from).config, vocab_size=0)


def for_planning(experiment: Experiment, sweep: Sweep) -> Experiment:
    """Returns an experiment that costs the same and needs no other run: it starts where its chain begins."""
    origin = origin_of(experiment, sweep)
    if origin is experiment:
        return experiment
    stores = origin.task.token_stores
    return replace(
        experiment,
        model=model_of(experiment, sweep),
        init_from=origin.init_from,
        branch_from=origin.branch_from,
        tokenizer=experiment.tokenizer or origin.tokenizer or (f"{stores[0]}/tokenizer" if stores else None),
    )


def for_training(experiment: Experiment, workdir: PathLike) -> Experiment:
    """Returns the experiment with each source `run:NAME` replaced by that run's folder in the sweep's `workdir`."""

    def folder(text: str) -> str:
        source = sources.parse(text)
        if source.kind != "run":
            return text
        return posixpath.join(str(workdir), source.name) + source.at

    init_from, branch_from = experiment.init_from, experiment.branch_from
    return replace(
        experiment,
        task=experiment.task.with_sources(folder),
        init_from=None if init_from is None else folder(init_from),
        branch_from=None if branch_from is None else folder(branch_from),
    )
