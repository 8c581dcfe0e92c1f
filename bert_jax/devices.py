"""The only file that handles devices: where arrays are placed, and how a step is wrapped for one device or many."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import cached_property, partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bert_jax import flops, memory, runtime
from bert_jax.data.batch import Arrays
from bert_jax.errors import InputError

T = TypeVar("T")
DATA, FSDP = "data", "fsdp"
ROWS = PartitionSpec((DATA, FSDP))
REPLICATED = PartitionSpec()
MOST_AT_ONCE = 8  # batches that a CPU computes at the same time; each needs memory


def spec(shape: tuple[int, ...], parts: int) -> PartitionSpec:
    """Returns how FSDP splits an array: along the largest dimension that `parts` divides, if there is one.

    >>> tuple(spec((30522, 768), 8))
    (None, 'fsdp')
    """
    sizes = [size if size % parts == 0 else 0 for size in shape]
    if parts == 1 or max(sizes, default=0) == 0:
        return REPLICATED
    largest = sizes.index(max(sizes))
    return PartitionSpec(*(FSDP if i == largest else None for i in range(largest + 1)))


def computed(step: Callable[[T], Any], batches: Iterable[T], devices: int = 1) -> Iterator[Any]:
    """Yields step(batch) for each batch, in order and as NumPy arrays, while the next ones are computed.

    An accelerator, or several devices, compute batches in the order in which they are sent. A CPU computes several at
    once if each is sent by a thread of its own: where one leaves a core idle, another uses it. No number changes by it.
    On 2 cores, all-MiniLM-L6-v2 takes 15 % less time.

    Args:
      step: called from several threads at once; a compiled function of one batch.
      devices: number of devices that it runs on.
    """
    threads = 0 if devices > 1 or jax.default_backend() != "cpu" else min(1 + (os.cpu_count() or 1), MOST_AT_ONCE)

    def result(batch: T) -> Any:
        return jax.device_get(step(batch))

    with ThreadPoolExecutor(max(threads, 1)) as pool:

        def send(batch: T) -> Any:
            return pool.submit(result, batch) if threads else step(batch)

        get: Callable[[Any], Any] = Future.result if threads else jax.device_get
        sent: deque[Any] = deque()
        for batch in batches:
            sent.append(send(batch))
            if len(sent) == max(threads, 2):
                yield get(sent.popleft())
        while sent:
            yield get(sent.popleft())


class Devices:
    """How a run uses its devices, those of this host and of all others.

    `single`: one device, by `jax.jit`.
    `pmap`: every device has all parameters and a part of the batch. With `in_axes=(None, 0)` pmap takes and returns a
      state without a leading device axis. So a state, and a checkpoint of it, looks the same on one device or many.
    `mesh`: `jax.jit` over a mesh of data x fsdp devices. Both axes split the batch, and fsdp also splits parameters and
      optimizer state (Rajbhandari et al. 2020, "ZeRO", stage 3). Dropout does not depend on the number of devices.
    `auto`: pmap if there are several devices.

    Args:
      batch_size: rows of a batch over all devices of all hosts.
      fsdp: with `mesh`, the number of devices that parameters are split over; 0 = all.
      devices: the devices to use; None = all of all hosts.

    Raises:
      InputError: the number of devices does not divide the batch size, or `fsdp` does not divide the number of devices.
    """

    def __init__(self, sharding: str, batch_size: int, fsdp: int = 0, devices: Sequence[jax.Device] | None = None):
        runtime.set_up()
        # Hosts in order, and the devices of each host together: a host then makes the rows of its own devices.
        devices = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
        if sharding == "single":
            devices = jax.local_devices()[:1]
        self.count = len(devices)
        hosts = sorted({device.process_index for device in devices})
        self.host = hosts.index(jax.process_index())
        self.hosts = len(hosts)
        self.pmap = sharding == "pmap" or (sharding == "auto" and self.count > 1)
        self.fsdp = (fsdp or self.count) if sharding == "mesh" else 1
        if self.count % self.fsdp:
            raise InputError(
                f"compute.fsdp: {self.fsdp} does not divide the {self.count} devices; choose a divisor, or 0 = all"
            )
        if batch_size % self.count:
            raise InputError(
                f"batch_size {batch_size} does not divide by the {self.count} devices; "
                f"choose a multiple of {self.count}, or --compute.sharding single"
            )
        grid = np.asarray(devices).reshape(-1, self.fsdp)
        self.mesh = Mesh(grid, (DATA, FSDP), axis_types=(AxisType.Auto, AxisType.Auto))
        if self.hosts > 1:
            self._connect()

    def _connect(self) -> None:
        """Runs one sum over every group of devices, while the hosts are at the same point.

        On CPUs a group's first sum opens its connections, and fails if one host arrives more than 30 seconds after
        another. Before the first step, one host may well compile that much longer. Later sums wait long enough.
        """
        multihost_utils.sync_global_devices("connect")

        def total() -> jax.Array:
            number = jax.lax.axis_index((DATA, FSDP))
            return jax.lax.psum(jax.lax.psum(number, DATA), FSDP) + jax.lax.psum(number, (DATA, FSDP))

        jax.block_until_ready(jax.jit(jax.shard_map(total, mesh=self.mesh, in_specs=(), out_specs=REPLICATED))())

    def wrap(self, step: Callable, *, returns_state: bool = True, **options: Any) -> "WrappedStep":
        """Returns `step` for these devices; see `WrappedStep` for the arguments."""
        return WrappedStep(self, step, returns_state, options)

    def placement(self, tree: Any) -> Any:
        """Returns the sharding of each array of a state, or of a tree with arrays of a state's shapes."""
        return jax.tree.map(lambda x: NamedSharding(self.mesh, spec(x.shape, self.fsdp)), tree)

    def shapes(self, tree: Any) -> Any:
        """Returns the arrays of `tree` without values but with shardings: what a checkpoint is restored as."""
        return jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree, self.placement(tree)
        )

    def make(self, function: Callable, *args: Any) -> Any:
        """Returns function(*args), each array computed on its own devices: no device ever holds all of it."""
        return self.maker(function, *args)(*args)

    def maker(self, function: Callable, *args: Any) -> Callable:
        """Returns what does the same for arguments like `args`, and is compiled once."""
        return jax.jit(function, out_shardings=self.placement(jax.eval_shape(function, *args)))

    def place(self, tree: Any) -> Any:
        """Moves arrays, which are the same on every host, to their devices."""
        return jax.device_put(tree, self.placement(tree))

    def any_host(self, value: bool) -> bool:
        """Returns whether `value` is True on any host. With several hosts, all must call it, and they wait."""
        return value if self.hosts == 1 else bool(multihost_utils.process_allgather(np.asarray(value)).any())

    def same_on_all_hosts(self, value: int) -> int:
        """Returns the first host's `value`. With several hosts, all must call it, and they wait."""
        return value if self.hosts == 1 else int(multihost_utils.broadcast_one_to_all(np.asarray(value)))

    def describe(self) -> dict[str, Any]:
        """Returns the kind and number of devices, the number of hosts and the sharding, for the run's record."""
        way = "pmap" if self.pmap else " x ".join(f"{name} {size}" for name, size in self.mesh.shape.items())
        kind = self.mesh.devices.flat[0].device_kind
        return {"kind": kind, "count": self.count, "hosts": self.hosts, "sharding": way}

    @property
    def parallel(self) -> bool:
        """Whether computing several seeds at once is faster than one after another.

        One seed alone keeps a CPU's cores busy: there, five seeds of a 6-layer model took as long at once as in turn,
        and several times as long to compile.
        """
        return bool(self.mesh.devices.flat[0].platform != "cpu")

    @cached_property
    def peak_flops(self) -> float:
        """Floating-point operations a second of all devices: in bfloat16 for known accelerators, otherwise measured.

        CPU "devices" share one processor, so there the machine is measured once, with a matrix product in float32.
        """
        known = flops.accelerator(self.mesh.devices.flat[0].device_kind)
        return known.flops * self.count if known else self.hosts * runtime.measured_flops()

    def memory(self) -> int | None:
        """Returns the most bytes in use so far on any device of this host.

        On a CPU these are the bytes of the process. None if the devices do not report it.
        """
        devices = [device for device in self.mesh.devices.flat if device.process_index == jax.process_index()]
        if devices[0].platform == "cpu":
            return memory.peak()
        stats = [device.memory_stats() for device in devices]
        return max((peaks["peak_bytes_in_use"] for peaks in stats if peaks), default=None)

    def bytes_each(self, tree: Any) -> int:
        """Returns the bytes of `tree` (arrays, or the result of `shapes`) on each device."""
        sizes = jax.tree.map(lambda x: x.dtype.itemsize * np.prod(x.sharding.shard_shape(x.shape), dtype=int), tree)
        return int(sum(jax.tree.leaves(sizes)))


class WrappedStep:
    """A step that runs on all devices of a run: call it with (state, batch) as NumPy arrays.

    Args:
      step: `step(state, batch, *, axis_name, **options)` for the rows of one device. Where `axis_name` is not None, it
        adds up and gathers its results over that mapped axis. It returns a pair.
      returns_state: True for training: the first result is the next state, which is placed like the given one and
        reuses its memory, and the batch holds the rows of this host. False for evaluation: both results are whole on
        every device, and the batch holds the rows of all hosts.
      options: passed on to `step`.
    """

    def __init__(self, devices: Devices, step: Callable, returns_state: bool, options: dict[str, Any]):
        self.devices = devices
        self._returns_state = returns_state
        self._fits: dict[Any, bool] = {}  # by the shapes of a batch
        donated = 0 if returns_state else ()
        if devices.pmap:
            self._compiled: Any = jax.pmap(
                partial(step, **options, axis_name=DATA),
                axis_name=DATA,
                in_axes=(None, 0),
                out_axes=(None, None),
                devices=list(devices.mesh.devices.flat),
                donate_argnums=donated,
            )
        else:
            self._compiled = jax.jit(self._over_mesh(partial(step, **options)), donate_argnums=donated)

    def _over_mesh(self, step: Callable) -> Callable:
        def over_mesh(state: Any, batch: Any) -> Any:
            with nn.logical_axis_rules((("rows", (DATA, FSDP)),)):
                first, second = step(state, batch)
            parts = self.devices.fsdp if self._returns_state else 1
            return self._constrain(first, parts), self._constrain(second, 1)

        return over_mesh

    def _constrain(self, tree: Any, parts: int) -> Any:
        mesh = self.devices.mesh
        return jax.tree.map(
            lambda x: jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec(x.shape, parts))), tree
        )

    def __call__(self, state: Any, batch: Arrays) -> Any:
        """Runs the step; see the class for its arguments and results."""
        if not self._returns_state:
            rows = len(batch["input_ids"]) // self.devices.hosts
            first = self.devices.host * rows
            batch = {name: x[first : first + rows] for name, x in batch.items()}
        with self._context():
            first_result, second_result = self._compiled(state, self._placed(batch))
        if self._returns_state and self.devices.pmap and self.devices.hosts > 1:
            first_result = jax.tree.map(self._of_all_hosts, first_result)
        return first_result, second_result

    def over(self, state: Any, batches: Iterable[Arrays]) -> Iterator[Any]:
        """Yields the results for each batch, of a step that returns no state; see `computed`."""
        return computed(partial(self, state), batches, self.devices.count)

    def fits(self, state: Any, batch: Arrays) -> bool:
        """Returns whether the step fits into a device's memory, which is compiled once for each shape of batch."""
        shapes = tuple(x.shape for x in batch.values())
        if shapes not in self._fits:
            with self._context():
                compiled = self._compiled.lower(state, self._placed(batch)).compile()
            need, stats = compiled.memory_analysis(), self.devices.mesh.devices.flat[0].memory_stats() or {}
            used = need.argument_size_in_bytes + need.temp_size_in_bytes + need.output_size_in_bytes
            self._fits[shapes] = used - need.alias_size_in_bytes < 0.9 * stats.get("bytes_limit", np.inf)
        return self._fits[shapes]

    def trace(self, state: Any, batch: Arrays) -> Any:
        """Returns the step as JAX traced it, to be lowered for any platform and compiled without being run.

        Args:
          state: a state, or the result of `Devices.shapes`.
          batch: arrays of all rows, or objects with their shapes and dtypes.
        """
        rows = NamedSharding(self.devices.mesh, ROWS)
        shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows) for name, x in batch.items()}
        if self.devices.pmap:
            shapes = {name: jax.ShapeDtypeStruct(self._split(x.shape), x.dtype) for name, x in batch.items()}
        with self._context():
            return (jax.jit(self._compiled) if self.devices.pmap else self._compiled).trace(state, shapes)

    def _of_all_hosts(self, x: jax.Array) -> jax.Array:
        # On several hosts pmap returns arrays over this host's devices alone, and a checkpoint accepts none of those.
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return x
        parts = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, NamedSharding(self.devices.mesh, REPLICATED), parts)

    def _split(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        parts = self.devices.count // self.devices.hosts
        return (parts, shape[0] // parts, *shape[1:])

    def _context(self) -> Any:
        return nullcontext() if self.devices.pmap else jax.set_mesh(self.devices.mesh)

    def _placed(self, batch: Arrays) -> dict[str, Any]:
        """Returns this host's batch with each row on its device."""
        if self.devices.pmap:
            return {name: x.reshape(self._split(x.shape)) for name, x in batch.items()}
        rows = NamedSharding(self.devices.mesh, ROWS)
        return {name: jax.make_array_from_process_local_data(rows, x) for name, x in batch.items()}
