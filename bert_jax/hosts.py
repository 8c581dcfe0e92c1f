"""Several hosts: the processes of one run, which do the same, wait for each other and end together."""

import atexit
import contextlib
import io
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from bert_jax.config import differences
from bert_jax.errors import InputError

FAILED = "bert_jax/failed"  # key under which the hosts of a run find the number and the error of one that failed
FAREWELL = 10.0  # seconds in which all hosts must have read it
PAUSE = 1.0  # seconds from when the last of them ends until the first host does, and between two looks at the key
DONE = "bert_jax/done"  # where the hosts of a run wait for each other at its end
DAY = 86_400_000  # milliseconds; a host that is gone ends the others sooner


def join() -> None:
    """Makes this process one of a run on several hosts. Call it before anything else touches a device.

    Cloud TPU, Slurm, Kubernetes and Open MPI tell each process which others belong to the run. Elsewhere every process
    needs the environment variables JAX_COORDINATOR_ADDRESS (host:port of the first process), JAX_NUM_PROCESSES and
    JAX_PROCESS_ID.

    Raises:
      InputError: the processes of the run are not known, or the others did not connect in time.
    """
    names = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    try:
        processes, process = (int(os.environ[name]) if name in os.environ else None for name in names)
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        # A process that fails tells the others when it ends, and waits for them: at most a minute instead of five.
        jax.distributed.initialize(num_processes=processes, process_id=process, shutdown_timeout_seconds=60)
        multihost_utils.sync_global_devices("joined")
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"several hosts: {error}; set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID in each "
            "process, or start it through Slurm, Open MPI, Kubernetes or a TPU pod's tools"
        ) from None


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Within it, an error on one of several hosts ends the processes of all, which would otherwise wait for each other.

    The first host prints the error and the number of its host. Call it after `join`.
    """
    client = _coordinator()
    over = threading.Event()
    watcher = threading.Thread(target=_await_failure, args=(client, over), daemon=True)
    watcher.start()
    try:
        yield
        client.wait_at_barrier(DONE, DAY)  # a host that still works may fail
    except Exception as error:
        known = isinstance(error, InputError)
        problem = str(error) if known else f"{type(error).__name__}: {error}"
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # another host failed before, or the first one is gone
            client.key_value_set(FAILED, f"{jax.process_index()} {problem}")
        atexit.register(_end, client, 2 if known else 1)  # before JAX's own end, which waits for hosts that go on
        raise
    finally:
        over.set()
        watcher.join()  # Python aborts where a thread is in JAX's client when it ends


def part() -> tuple[int, int]:
    """Joins the hosts, and returns which of how many parts of the work is this process's.

    From then on the hosts do not wait for each other: one may take hours longer than another.
    """
    join()
    mine = number()
    jax.distributed.shutdown()
    return mine


def _coordinator() -> Any:
    """Returns the client of the service that JAX's processes coordinate with, which keeps texts under keys."""
    from jax._src import distributed  # there is no public name for it

    return distributed.global_state.client


def _await_failure(client: Any, over: threading.Event) -> None:
    """Ends this process when another host fails; returns when the run is over."""
    while True:
        try:
            host, _, problem = client.key_value_try_get(FAILED).partition(" ")
            break
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" not in str(error) or over.wait(PAUSE):
                return
    if int(host) == jax.process_index():
        return
    if is_first():
        print(f"error: host {host}: {problem}", file=sys.stderr, flush=True)
    sys.stderr = io.StringIO()  # what fails from now on fails because hosts end
    _end(client, 2)


def _end(client: Any, code: int) -> None:
    """Ends this process when all hosts know that they end: a sum would fail where one is gone.

    The first host ends last, because the service is in its process, and JAX aborts the others where that is gone.
    """
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        client.key_value_set(f"{FAILED}/{jax.process_index()}", "ends")
        until = time.monotonic() + FAREWELL
        for host in range(jax.process_count()):
            client.blocking_key_value_get(f"{FAILED}/{host}", max(1, round(1000 * (until - time.monotonic()))))
    if is_first():
        time.sleep(PAUSE)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def check_alike(mine: Any) -> None:
    """Raises InputError on the first host if another one has other values; all hosts of a run must call it.

    Args:
      mine: this host's values, which JSON can hold.
    """
    text = np.frombuffer(json.dumps(mine).encode(), np.uint8)
    size = int(multihost_utils.process_allgather(np.asarray(len(text))).max())
    rows = multihost_utils.process_allgather(np.pad(text, (0, size - len(text))))
    if not is_first():
        return
    for host, row in enumerate(rows):
        other = json.loads(bytes(row).rstrip(b"\0"))
        for name, (here, there) in differences(mine, other).items():
            raise InputError(
                f"host {host} has {name} {there}, and host 0 has {here}; start the same command with the same files "
                "on each host"
            )


def number() -> tuple[int, int]:
    """Returns which of how many hosts this process is, from 0."""
    return jax.process_index(), jax.process_count()


def is_first() -> bool:
    """Returns whether this process is the one that writes files."""
    return jax.process_index() == 0
