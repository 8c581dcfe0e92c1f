"""Checkpoints of a run: parameters, optimizer state and some JSON, each an item of its own. The only Orbax import."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from bert_jax import files
from bert_jax.errors import InputError

if TYPE_CHECKING:  # it is imported where it is used: that takes most of a second
    import orbax.checkpoint as ocp

# Old checkpoints are moved here before they are removed, so that a crash never leaves a partial one among the others.
DELETED = "deleted"


def _args(kind: str, **items: Any) -> "ocp.args.Composite":
    import orbax.checkpoint as ocp

    standard = getattr(ocp.args, f"Standard{kind}")
    plain = getattr(ocp.args, f"Json{kind}")
    made = {name: (plain if name == "meta" else standard)(*value) for name, value in items.items()}
    return ocp.args.Composite(**made)


def _manager(folder: files.Path, keep: int | None = None) -> "ocp.CheckpointManager":
    import orbax.checkpoint as ocp

    check_folder(folder)
    handlers = {
        "params": ocp.StandardCheckpointHandler(),
        "opt_state": ocp.StandardCheckpointHandler(),
        "meta": ocp.JsonCheckpointHandler(),
    }
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, todelete_subdir=DELETED)
    return ocp.CheckpointManager(files.resolve(folder), item_handlers=handlers, options=options)


def check_folder(folder: files.Path) -> None:
    """Raises InputError if checkpoints can be neither written to a folder nor read from it."""
    if str(folder).startswith("s3://"):
        raise InputError(
            f"{folder}: checkpoints can be on a local disk or in gs://; Orbax, which writes them, does not support s3://"
        )


class Checkpoints:
    """The checkpoints in one folder, the latest `keep` of them. They are written in the background.

    Every method raises InputError if saving failed, now or in the background.
    """

    def __init__(self, folder: files.Path, keep: int = 2):
        self._folder = folder
        self._manager = _manager(folder, keep)

    def latest(self) -> int | None:
        """Returns the step of the newest complete checkpoint. Checkpoints that a crash interrupted do not count."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Returns the steps of all complete checkpoints."""
        return list(self._manager.all_steps())

    def save_once(self, step: int, params: Any) -> None:
        """Saves parameters alone under `step`, unless they are there already, from before the run was stopped."""
        if step not in self.steps():
            with self._explained():
                self._manager.save(step, args=_args("Save", params=(params,)))

    def save(self, step: int, params: Any, opt_state: Any, meta: dict[str, Any]) -> None:
        """Saves under `step`. When it returns, the arrays may change; the files are still being written."""
        with self._explained():
            self._clear()
            now = copy.deepcopy(meta)  # a thread writes it later, when the run has changed `meta`
            self._manager.save(step, args=_args("Save", params=(params,), opt_state=(opt_state,), meta=(now,)))

    def restore(self, step: int, params: Any, opt_state: Any) -> tuple[Any, Any, dict[str, Any]]:
        """Returns (params, opt_state, meta) of `step`, with the structure and the shardings of the arguments."""
        items = self._manager.restore(step, args=_args("Restore", params=(params,), opt_state=(opt_state,), meta=()))
        return items.params, items.opt_state, items.meta

    def check(self) -> None:
        """Checks, without waiting, whether a save failed."""
        with self._explained():
            self._manager.check_for_errors()

    def close(self) -> None:
        """Waits until everything is written."""
        with self._explained():
            self._clear()
            self._manager.close()

    def _clear(self) -> None:
        self._manager.wait_until_finished()
        if jax.process_index() == 0 and not files.is_remote(self._folder):  # Orbax does not move them in a bucket
            with suppress(OSError):
                files.remove(self._folder / DELETED)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and TensorStore pass on any error of their storage
            steps: list[int] = []
            with suppress(Exception):  # in a bucket, it may fail for the same reason
                steps = [int(path.name) for path in files.matching(self._folder, "*") if path.name.isdecimal()]
            start = f"step {max(steps)}, the last one saved" if steps else "the start: nothing was saved yet"
            raise InputError(
                f"{self._folder}: a checkpoint could not be written: {str(error).strip().splitlines()[-1]}; free some "
                f"space or mend the storage, and run the same command again: it continues from {start}"
            ) from error


def load_state(folder: files.Path, step: int, params: Any, opt_state: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Returns what `Checkpoints.restore` does, from a folder of another run, in which nothing is changed."""
    with _manager(folder) as manager:
        items = manager.restore(step, args=_args("Restore", params=(params,), opt_state=(opt_state,), meta=()))
        return items.params, items.opt_state, items.meta


def latest_step(folder: files.Path) -> int | None:
    """Returns the step of the newest complete checkpoint in `folder`, or None."""
    if not folder.is_dir():
        return None
    with _manager(folder) as manager:
        return manager.latest_step()


def save_params(folder: files.Path, params: Any) -> None:
    """Writes a checkpoint of parameters alone, as step 0."""
    with _manager(folder) as manager:
        manager.save(0, args=_args("Save", params=(params,)))


def complete_steps(folder: files.Path) -> list[int]:
    """Returns the steps of the complete checkpoints in `folder`, in order.

    Raises:
      InputError: there is none.
    """
    steps: list[int] = []
    if folder.is_dir():
        with _manager(folder) as manager:
            steps = sorted(manager.all_steps())
    if not steps:
        raise InputError(f"{folder}: no complete checkpoint; train the run until it has saved one")
    return steps


def find_step(folder: files.Path, step: int | None = None) -> int:
    """Returns `step` if `folder` has a complete checkpoint of it; None = the newest.

    Raises:
      InputError: there is no complete checkpoint, or none of `step`.
    """
    steps = complete_steps(folder)
    if step is not None and step not in steps:
        raise InputError(f"{folder}: no checkpoint of step {step}; there are those of {', '.join(map(str, steps))}")
    return steps[-1] if step is None else step


def mean_params(folder: files.Path, count: int) -> Any:
    """Returns the mean of the parameters of the latest `count` checkpoints, in their dtypes; see `load_params`.

    Raises:
      InputError: there are fewer checkpoints.
    """
    steps = complete_steps(folder)
    if not 0 < count <= len(steps):
        raise InputError(
            f"{folder}: asked for the mean of {count} checkpoints; there are {len(steps)}, of the steps "
            f"{', '.join(map(str, steps))}; a run keeps the latest `keep_checkpoints`"
        )
    # In float64, so that the order of the sum does not matter. One checkpoint is read at a time.
    total, dtypes = None, None
    for step in steps[-count:]:
        params = load_params(folder, step)[1]
        dtypes = jax.tree.map(lambda x: x.dtype, params)
        wide = jax.tree.map(lambda x: x.astype(np.float64), params)
        total = wide if total is None else jax.tree.map(np.add, total, wide)
    return jax.tree.map(lambda x, dtype: (x / count).astype(dtype), total, dtypes)


def load_params(folder: files.Path, step: int | None = None) -> tuple[int, Any]:
    """Returns (step, parameters as nested dicts of NumPy arrays) of the last checkpoint in `folder`, or of `step`.

    Raises:
      InputError: there is no complete checkpoint, or none of `step`.
    """
    step = find_step(folder, step)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    with _manager(folder) as manager:
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), manager.item_metadata(step).params
        )
        return step, jax.tree.map(np.asarray, manager.restore(step, args=_args("Restore", params=(like,))).params)
