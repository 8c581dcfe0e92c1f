"""Checkpoints of a run: parameters, optimizer state and some JSON, each an item of its own. The only Orbax import."""

import copy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from bert_jax.errors import InputError

# Old checkpoints are moved here before they are removed: a kill in the middle leaves no half one among the whole.
DELETED = "deleted"


def _args(kind: str, **items: Any) -> ocp.args.Composite:
    standard = getattr(ocp.args, f"Standard{kind}")
    plain = getattr(ocp.args, f"Json{kind}")
    made = {name: (plain if name == "meta" else standard)(*value) for name, value in items.items()}
    return ocp.args.Composite(**made)


def _manager(folder: Path, keep: int | None = None) -> ocp.CheckpointManager:
    handlers = {
        "params": ocp.StandardCheckpointHandler(),
        "opt_state": ocp.StandardCheckpointHandler(),
        "meta": ocp.JsonCheckpointHandler(),
    }
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, todelete_subdir=DELETED)
    return ocp.CheckpointManager(Path(folder).absolute(), item_handlers=handlers, options=options)


class Checkpoints:
    """The checkpoints in one folder, the latest `keep` of them; saving goes on in the background.

    Every method raises InputError where a save, its own or one still going on, has failed.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self._folder = folder
        self._manager = _manager(folder, keep)

    def latest(self) -> int | None:
        """The newest whole checkpoint's step; what a crash left half written does not count."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """The steps of all whole checkpoints."""
        return list(self._manager.all_steps())

    def keep(self, step: int, params: Any) -> None:
        """Saves parameters alone under `step`, unless a run that was then stopped did so before."""
        if step not in self.steps():
            with self._explained():
                self._manager.save(step, args=_args("Save", params=(params,)))

    def save(self, step: int, params: Any, opt_state: Any, meta: dict[str, Any]) -> None:
        """Saves under `step`; returns when the arrays may change again, while the writing goes on."""
        with self._explained():
            self._clear()
            now = copy.deepcopy(meta)  # it is written later, by a thread, when the run has changed it already
            self._manager.save(step, args=_args("Save", params=(params,), opt_state=(opt_state,), meta=(now,)))

    def restore(self, step: int, params: Any, opt_state: Any) -> tuple[Any, Any, dict[str, Any]]:
        """Returns (params, opt_state, meta) of `step`, with the structure and placement of the given ones."""
        found = self._manager.restore(step, args=_args("Restore", params=(params,), opt_state=(opt_state,), meta=()))
        return found.params, found.opt_state, found.meta

    def check(self) -> None:
        """Looks, without waiting, whether a save has failed."""
        with self._explained():
            self._manager.check_for_errors()

    def close(self) -> None:
        """Waits until everything is written."""
        with self._explained():
            self._clear()
            self._manager.close()

    def _clear(self) -> None:
        self._manager.wait_until_finished()
        if jax.process_index() == 0:
            shutil.rmtree(self._folder / DELETED, ignore_errors=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise whatever their storage does
            whole = [int(path.name) for path in self._folder.glob("*") if path.name.isdecimal()]
            on = f"from step {max(whole)}, the last one saved" if whole else "from the start, for none was saved yet"
            raise InputError(
                f"{self._folder}: a checkpoint could not be written: {str(error).strip().splitlines()[-1]}; make room "
                f"or mend the disk, and give the same command again: it goes on {on}"
            ) from error


def latest_step(folder: Path) -> int | None:
    """The step of the newest whole checkpoint in `folder`, None where there is none."""
    if not folder.is_dir():
        return None
    with _manager(folder) as manager:
        return manager.latest_step()


def save_params(folder: Path, params: Any) -> None:
    """Writes a checkpoint of parameters alone, as step 0."""
    with _manager(folder) as manager:
        manager.save(0, args=_args("Save", params=(params,)))


def load_params(folder: Path, step: int | None = None) -> tuple[int, Any]:
    """Returns (step, parameters as nested dicts of NumPy arrays) of the last checkpoint in `folder`, or that of `step`.

    Raises:
      InputError: there is no whole checkpoint, or none of `step`.
    """
    nothing = InputError(f"{folder}: no whole checkpoint there; train the run until it has saved one")
    if not folder.is_dir():
        raise nothing
    with _manager(folder) as manager:
        kept = sorted(manager.all_steps())
        if not kept:
            raise nothing
        if step is None:
            step = kept[-1]
        elif step not in kept:
            raise InputError(f"{folder}: no checkpoint of step {step}; those kept are {', '.join(map(str, kept))}")
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), manager.item_metadata(step).params
        )
        return step, jax.tree.map(np.asarray, manager.restore(step, args=_args("Restore", params=(like,))).params)
