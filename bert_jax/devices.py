"""The only file that knows about devices: wraps the one training step, and evaluation, for however many there are."""

import ctypes
import hashlib
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bert_jax import flops
from bert_jax.errors import InputError
from bert_jax.losses import Outcome

Arrays = dict[str, np.ndarray]
DATA, FSDP = "data", "fsdp"
ROWS = PartitionSpec((DATA, FSDP))
REPLICATED = PartitionSpec()


def join_hosts() -> None:
    """Makes this process one of a run on several hosts; call it before anything else touches a device.

    Cloud TPU, Slurm, Kubernetes and Open MPI say by themselves who belongs together. Elsewhere every process has the
    environment variables JAX_COORDINATOR_ADDRESS (host:port of the first process), JAX_NUM_PROCESSES and
    JAX_PROCESS_ID.

    Raises:
      InputError: nothing says which processes belong together, or the others did not come.
    """
    names = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    try:
        processes, number = (int(os.environ[name]) if name in os.environ else None for name in names)
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        # One that fails tells the others as it ends, for which it waits for them: a minute, not five.
        jax.distributed.initialize(num_processes=processes, process_id=number, shutdown_timeout_seconds=60)
        multihost_utils.sync_global_devices("joined")
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"several hosts: {error}; set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID in each "
            "process, or start it through Slurm, Open MPI, Kubernetes or a TPU pod's tools"
        ) from None


def pretend_devices(count: int) -> None:
    """Makes JAX see `count` CPU devices and nothing else; call it before anything touches a device."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)


@cache
def set_up() -> None:
    """Makes this process quick to start and, on a CPU, quick at each step; asked again, it does nothing.

    What is compiled is kept in the user's cache folder and found there by the next process. The environment variable
    JAX_COMPILATION_CACHE_DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=false keeps nothing.

    On Linux, the C library keeps what is freed. XLA asks for all its working memory anew at each step, which the kernel
    would otherwise fill with zeros, page by page: a third of a small model's step on a CPU. Threads that were made
    before keep a memory of their own, which is not kept; so call it before anything touches a device.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc and hasattr(libc, "gnu_get_libc_version"):
        arena_max, mmap_max, trim_threshold = -8, -4, -1  # of glibc's malloc.h
        libc.mallopt(arena_max, 1)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)
    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        # A folder for each kind of processor, for homes that several machines share.
        kind = hashlib.sha256(f"{platform.machine()} {_processor_features()}".encode()).hexdigest()[:8]
        jax.config.update("jax_compilation_cache_dir", str(home / "bert_jax" / f"compiled-{kind}"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _processor_features() -> str:
    """Which instructions this machine has, on Linux; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def is_first_host() -> bool:
    """Whether this process is the one that writes files."""
    return jax.process_index() == 0


def spec(shape: tuple[int, ...], parts: int) -> PartitionSpec:
    """How FSDP splits an array: the largest dimension that `parts` divides, or none.

    >>> tuple(spec((30522, 768), 8))
    (None, 'fsdp')
    """
    sizes = [size if size % parts == 0 else 0 for size in shape]
    if parts == 1 or max(sizes, default=0) == 0:
        return REPLICATED
    largest = sizes.index(max(sizes))
    return PartitionSpec(*(FSDP if i == largest else None for i in range(largest + 1)))


def evaluate_step(params: Any, batch: dict[str, jax.Array], *, loss_fn: Callable):
    """One batch without dropout: (losses and metrics, predictions of its rows)."""
    outcome: Outcome = loss_fn(params, batch, None)
    return (outcome.losses, outcome.metrics), outcome.predictions


def _measured_flops(size: int = 1024) -> float:
    """Operations a second of a float32 matrix product on the first device: the best of five."""
    x = jnp.ones((size, size), jnp.float32)
    multiply = jax.jit(jnp.matmul)
    multiply(x, x).block_until_ready()
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        multiply(x, x).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)


class Devices:
    """How a run uses its devices, of this host and of all others.

    `single`: one device, by `jax.jit`.
    `pmap`: every device has all parameters and a part of the batch. With `in_axes=(None, 0)` pmap takes and returns a
      state without a leading device axis, so a state, and a checkpoint of it, looks the same on one device or many.
    `mesh`: `jax.jit` over a mesh of data x fsdp devices. Both axes split the batch, and fsdp also splits parameters and
      optimizer state (Rajbhandari et al. 2020, "ZeRO", stage 3). Dropout does not depend on the number of devices.
    `auto`: pmap where there are several devices.

    Args:
      batch_size: rows of a batch over all devices of all hosts.
      fsdp: with `mesh`, over how many devices parameters are split; 0 = all.
      devices: those to use; None = all of all hosts.

    Raises:
      InputError: the devices cannot share the batch, or `fsdp` does not divide their number.
    """

    def __init__(self, sharding: str, batch_size: int, fsdp: int = 0, devices: Sequence[jax.Device] | None = None):
        set_up()
        # Hosts in order, and the devices of each together: the rows that a host makes are then those of its devices.
        devices = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
        if sharding == "single":
            devices = jax.local_devices()[:1]
        self.count = len(devices)
        self.host = 0 if sharding == "single" else jax.process_index()
        self.hosts = 1 if sharding == "single" else jax.process_count()
        self.pmap = sharding == "pmap" or (sharding == "auto" and self.count > 1)
        self.fsdp = (fsdp or self.count) if sharding == "mesh" else 1
        if self.count % self.fsdp:
            raise InputError(
                f"fsdp: {self.fsdp} does not divide the {self.count} devices; choose a divisor, or 0 = all"
            )
        if batch_size % self.count:
            raise InputError(
                f"batch_size {batch_size} does not divide by the {self.count} devices; "
                f"choose a multiple of {self.count}, or --sharding single"
            )
        grid = np.asarray(devices).reshape(-1, self.fsdp)
        self.mesh = Mesh(grid, (DATA, FSDP), axis_types=(AxisType.Auto, AxisType.Auto))
        self._fitting: dict[Any, bool] = {}  # by the shapes of a batch
        if self.hosts > 1:
            self._connect()

    def _connect(self) -> None:
        """Lets every group of devices talk once, while the hosts are together.

        On CPUs a group's first sum opens its connections, and fails where a host comes more than 30 seconds after
        another; before the first step, one may well take that much longer to compile. Later sums wait long enough.
        """
        multihost_utils.sync_global_devices("connect")

        def total() -> jax.Array:
            number = jax.lax.axis_index((DATA, FSDP))
            return jax.lax.psum(jax.lax.psum(number, DATA), FSDP) + jax.lax.psum(number, (DATA, FSDP))

        jax.block_until_ready(jax.jit(jax.shard_map(total, mesh=self.mesh, in_specs=(), out_specs=REPLICATED))())

    def placement(self, tree: Any) -> Any:
        """Where each array of a state (or of anything shaped like one) belongs, as shardings."""
        return jax.tree.map(lambda x: NamedSharding(self.mesh, spec(x.shape, self.fsdp)), tree)

    def shapes(self, tree: Any) -> Any:
        """The arrays of `tree` without their values, each with its placement: what a checkpoint is restored as."""
        return jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree, self.placement(tree)
        )

    def make(self, function: Callable, *args: Any) -> Any:
        """Returns function(*args), computed where its parts belong, so that no device ever holds all of it."""
        return jax.jit(function, out_shardings=self.placement(jax.eval_shape(function, *args)))(*args)

    def place(self, tree: Any) -> Any:
        """Moves arrays, which every host has alike, to where they belong."""
        return jax.device_put(tree, self.placement(tree))

    def agree(self, wish: bool) -> bool:
        """Whether any host wishes it; with several hosts all must ask, and wait for each other."""
        return wish if self.hosts == 1 else bool(multihost_utils.process_allgather(np.asarray(wish)).any())

    def describe(self) -> dict[str, Any]:
        """How many devices of which kind, on how many hosts, used in which way; for the record."""
        way = "pmap" if self.pmap else " x ".join(f"{name} {size}" for name, size in self.mesh.shape.items())
        kind = self.mesh.devices.flat[0].device_kind
        return {"kind": kind, "count": self.count, "hosts": self.hosts, "sharding": way}

    @cached_property
    def peak_flops(self) -> float:
        """Floating-point operations a second of all devices: of known accelerators in bfloat16, else as measured.

        CPU "devices" share one processor, so there the machine is measured once, with a matrix product in float32.
        """
        known = flops.accelerator(self.mesh.devices.flat[0].device_kind)
        return known.flops * self.count if known else self.hosts * _measured_flops()

    def memory(self) -> int | None:
        """Most bytes that any device of this host has had in use; on CPU the process's; None where none can tell."""
        devices = [device for device in self.mesh.devices.flat if device.process_index == jax.process_index()]
        if devices[0].platform == "cpu":
            unit = 1 if sys.platform == "darwin" else 1024
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        stats = [device.memory_stats() for device in devices]
        return max((peaks["peak_bytes_in_use"] for peaks in stats if peaks), default=None)

    def bytes_each(self, tree: Any) -> int:
        """Bytes of `tree` (arrays, or what `shapes` returns) on each device."""
        sizes = jax.tree.map(lambda x: x.dtype.itemsize * np.prod(x.sharding.shard_shape(x.shape), dtype=int), tree)
        return int(sum(jax.tree.leaves(sizes)))

    def train_step(self, step: Callable, **options: Any) -> Callable:
        """Wraps `step(state, batch, **options)` for batches of this host's rows; the given state's memory is reused."""
        compiled = self.compile_train_step(step, **options)

        def call(state: Any, batch: Arrays) -> Any:
            state, sums = self._call(compiled, state, batch)
            return jax.tree.map(self._of_all_hosts, state), sums

        return call

    @property
    def parallel(self) -> bool:
        """Whether several seeds gain from being computed at once.

        A CPU's cores are busy with one already: there, five seeds of a 6-layer model took as long at once as in turn,
        and several times as long to compile.
        """
        return bool(self.mesh.devices.flat[0].platform != "cpu")

    def fits(self, step: Callable, state: Any, batch: Arrays, **options: Any) -> bool:
        """Whether a device has the memory that `step` needs; compiles it once for each shape of batch to find out."""
        shapes = tuple(x.shape for x in batch.values())
        if shapes not in self._fitting:
            with self._context():
                compiled = self.compile_train_step(step, **options).lower(state, self._placed(batch)).compile()
            need, stats = compiled.memory_analysis(), self.mesh.devices.flat[0].memory_stats() or {}
            used = need.argument_size_in_bytes + need.temp_size_in_bytes + need.output_size_in_bytes
            self._fitting[shapes] = used - need.alias_size_in_bytes < 0.9 * stats.get("bytes_limit", np.inf)
        return self._fitting[shapes]

    def evaluate_step(self, loss_fn: Callable) -> Callable:
        """Wraps `evaluate_step` to (params, batch of all rows) -> (sums, predictions of all rows)."""
        if self.pmap:

            def mapped(params: Any, batch: Any) -> Any:
                sums, predictions = evaluate_step(params, batch, loss_fn=loss_fn)
                gather = partial(jax.lax.all_gather, axis_name=DATA, tiled=True)
                return jax.lax.psum(sums, DATA), jax.tree.map(gather, predictions)

            compiled = self._pmap(mapped)
        else:

            def meshed(params: Any, batch: Any) -> Any:
                with nn.logical_axis_rules((("rows", (DATA, FSDP)),)):
                    return self._constrain(evaluate_step(params, batch, loss_fn=loss_fn), lambda x: REPLICATED)

            compiled = jax.jit(meshed)

        def call(params: Any, batch: Arrays) -> Any:
            rows = len(batch["input_ids"]) // self.hosts
            mine = {name: x[self.host * rows : (self.host + 1) * rows] for name, x in batch.items()}
            return self._call(compiled, params, mine)

        return call

    def trace_train_step(self, state: Any, batch: Arrays, step: Callable, **options: Any) -> Any:
        """The step as JAX traced it, to be lowered for whichever platform and compiled without being run.

        Args:
          state: what `shapes` returns.
          batch: arrays of all rows, or anything with their shapes and dtypes.
        """
        rows = NamedSharding(self.mesh, ROWS)
        shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows) for name, x in batch.items()}
        if self.pmap:
            shapes = {name: jax.ShapeDtypeStruct(self._split(x.shape), x.dtype) for name, x in batch.items()}
        compiled = self.compile_train_step(step, **options)
        with self._context():
            return (jax.jit(compiled) if self.pmap else compiled).trace(state, shapes)

    def compile_train_step(self, step: Callable, **options: Any) -> Any:
        if self.pmap:
            return self._pmap(partial(step, **options, axis_name=DATA), donate_argnums=0)

        def meshed(state: Any, batch: Any) -> Any:
            with nn.logical_axis_rules((("rows", (DATA, FSDP)),)):
                state, sums = step(state, batch, **options)
            state = self._constrain(state, lambda x: spec(x.shape, self.fsdp))
            return state, self._constrain(sums, lambda x: REPLICATED)

        return jax.jit(meshed, donate_argnums=0)

    def _pmap(self, function: Callable, **options: Any) -> Any:
        return jax.pmap(
            function,
            axis_name=DATA,
            in_axes=(None, 0),
            out_axes=(None, None),
            devices=list(self.mesh.devices.flat),
            **options,
        )

    def _constrain(self, tree: Any, choose: Callable) -> Any:
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, choose(x))), tree)

    def _of_all_hosts(self, x: jax.Array) -> jax.Array:
        # On several hosts pmap returns arrays over this host's devices alone, and a checkpoint takes none of those.
        if not self.pmap or self.hosts == 1 or jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return x
        parts = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, NamedSharding(self.mesh, REPLICATED), parts)

    def _split(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        parts = self.count // self.hosts
        return (parts, shape[0] // parts, *shape[1:])

    def _call(self, compiled: Callable, state: Any, batch: Arrays) -> Any:
        with self._context():
            return compiled(state, self._placed(batch))

    def _context(self) -> Any:
        return nullcontext() if self.pmap else jax.set_mesh(self.mesh)

    def _placed(self, batch: Arrays) -> dict[str, Any]:
        """The batch of this host, each row where it is computed."""
        if self.pmap:
            return {name: x.reshape(self._split(x.shape)) for name, x in batch.items()}
        rows = NamedSharding(self.mesh, ROWS)
        return {name: jax.make_array_from_process_local_data(rows, x) for name, x in batch.items()}
