"""Computes what a run needs before it starts: parameters, memory on each device, operations, hours."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax import activations, flops, topologies
from bert_jax.config import Experiment
from bert_jax.devices import Devices
from bert_jax.errors import InputError
from bert_jax.losses import Keys
from bert_jax.topologies import Target
from bert_jax.training import optimizer
from bert_jax.training.budget import TRIAL_STEPS
from bert_jax.training.run import Run, batch_sizes, random_state, resolve, step_options
from bert_jax.training.step import train_step

SAMPLED_BATCHES = 8

Effort = Literal["none", "low", "full"]  # of the accelerators' own compiler

ESTIMATED = "estimated: compilers need up to 30 % more or less; for GPUs, and for FSDP with remat, up to 80 % more"
COMPILED = "as XLA compiles the step for a CPU"

# For a CPU, XLA removes the barriers that make remat compute blocks twice, and so needs the memory of a step without
# remat. For GPUs and TPUs it does not.
KEEP_REMAT = {"xla_disable_hlo_passes": "cse_barrier_expander"}


@dataclass(frozen=True)
class Memory:
    """Bytes on each device, for one layout of a run."""

    fsdp: int  # number of devices that parameters and optimizer state are split over
    remat: bool  # whether blocks are computed again in the backward pass
    parameters: int
    optimizer: int
    activations: int  # and gradients: everything that the step needs besides its state and batch
    compiled: topologies.Analysis | None = None  # the figures of the device's own compiler, if it was used

    @property
    def total(self) -> int:
        """The sum of all."""
        return self.parameters + self.optimizer + self.activations


@dataclass(frozen=True)
class Plan:
    """What a run needs."""

    parameters: int  # numbers in the model
    tokens: int  # positions over all steps, without padding
    operations: int  # floating-point, over all steps
    steps: int
    epochs: float  # passes over the training data
    hours: float
    layouts: tuple[Memory, ...]
    device: flops.Accelerator
    where: str  # such as "8 x h100 at 40% of the peak"
    how: str = ESTIMATED  # how the memory of the layouts was found
    compiler: str = ""  # what compiled the layouts for their devices, or why nothing did

    def fits(self, memory: Memory) -> bool:
        """Returns whether the layout fits into the memory of a device."""
        return memory.compiled.fits if memory.compiled else memory.total <= self.device.memory

    def __str__(self) -> str:
        lines = [
            f"parameters          {self.parameters:,}",
            f"steps               {self.steps:,}, which is {self.epochs:.3g} epochs over the training data",
            f"tokens              {self.tokens:.3g} (without padding)",
            f"operations          {self.operations:.3g}",
            f"time                {_time(self.hours)} on {self.where}; evaluation not counted",
            "",
            f"memory on each device, of {_bytes(self.device.memory)}, {self.how}",
            "(activations include gradients and everything else besides parameters and optimizer state):",
            "fsdp  remat   parameters    optimizer  activations        total",
        ]
        for m in self.layouts:
            parts = [_bytes(x) for x in (m.parameters, m.optimizer, m.activations, m.total)]
            fits = "" if m.compiled else "fits" if self.fits(m) else "does not fit"
            lines.append(f"{_layout(m)}{_cells(parts)}  {fits}".rstrip())
        return "\n".join(lines + self._compiled())

    def _compiled(self) -> list[str]:
        """Returns the table with the figures of the devices' own compiler."""
        lines = ["", self.compiler] if self.compiler else []
        compiled = [(m, m.compiled) for m in self.layouts if m.compiled]
        counted = any(own.flops is not None for _, own in compiled)  # the compiler for GPUs does not
        if compiled:
            names = ("memory", "operations", "accessed", "compiled") if counted else ("memory", "compiled")
            lines.append(f"fsdp  remat{_cells(names)}")
        for m, own in compiled:
            if own.memory is None:
                lines.append(f"{_layout(m)}  does not fit: {own.refusal}")
                continue
            cells = [_bytes(own.memory), f"{own.seconds:.0f} s"]
            if own.flops is not None and own.bytes_accessed is not None:
                cells[1:1] = [f"{own.flops:.3g}", _bytes(own.bytes_accessed)]
            lines.append(f"{_layout(m)}{_cells(cells)}  fits")
        return lines


def _layout(memory: Memory) -> str:
    return f"{memory.fsdp:4}  {'yes' if memory.remat else 'no':5}"


def _cells(texts: Sequence[str]) -> str:
    return "".join(f"{text:>13}" for text in texts)


def _bytes(count: float) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 999.5e6 else f"{count / 1e6:.3g} MB"


def _time(hours: float) -> str:
    for unit, size in (("days", 24), ("hours", 1)):
        if hours >= 2 * size:
            return f"{hours / size:.1f} {unit}"
    return f"{60 * hours:.3g} minutes"


def plan(
    experiment: Experiment,
    accelerator: str,
    devices: int = 1,
    mfu: float = 0.4,
    effort: Effort = "none",
    progress: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Returns what `experiment` needs on a number of devices, without taking a step.

    Memory on accelerators is estimated. Where the compiler for TPUs or for GPUs is installed, it can compile the step
    too. For "cpu" the step is compiled, for the same number of simulated devices. Call `runtime.pretend_devices` before
    JAX first looks for devices.

    Args:
      accelerator: a name in `flops.ACCELERATORS`, or "cpu" for this machine.
      mfu: share of the accelerator's peak that the run is expected to reach.
      effort: how much the compiler for TPUs optimizes: "full" as for a run, "low" takes a fraction of the time. For
        GPUs both are the same. With "none" neither compiler is used.
      progress: is called with each layout that is compiled.

    Raises:
      InputError: the experiment cannot run, the accelerator is not in the table, or the devices cannot divide the
        batch.
    """
    run = resolve(experiment)
    if accelerator != "cpu" and accelerator not in flops.ACCELERATORS:
        raise InputError(f"--accelerator: must be one of {', '.join(flops.ACCELERATORS)} or cpu, got {accelerator}")
    own, note = _compiler(accelerator, devices, effort, run.experiment.compute.attention)
    device = flops.ACCELERATORS.get(accelerator) or this_machine(devices)
    length = run.experiment.steps or TRIAL_STEPS
    batches = run.task.train_batches(
        batch_size=batch_sizes(experiment, length),
        steps=length,
        seed=experiment.seed,
        multiple=devices * experiment.compute.microbatches,
    )
    sampled = [batches(int(step)) for step in np.linspace(0, length - 1, SAMPLED_BATCHES)]
    widest = max(sampled, key=lambda batch: batch["input_ids"].size)
    model = run.task.config
    generator, read = run.task.fields.generator(model), run.task.fields.read(model)
    each = float(np.mean([flops.training_step(model, batch, generator, read) for batch in sampled]))
    rate = devices * device.flops * mfu
    steps = run.experiment.steps or max(1, round(experiment.minutes * 60 * rate / each))
    operations = round(each * steps)
    tokens = round(np.mean([np.count_nonzero(batch["sequence_ids"]) for batch in sampled]) * steps)
    return Plan(
        parameters=count_parameters(run),
        tokens=tokens,
        operations=operations,
        steps=steps,
        epochs=steps * experiment.mean_batch_size / batches.num_examples,
        hours=operations / rate / 3600,
        layouts=tuple(layouts(run, widest, devices, progress, own, accelerator == "cpu")),
        device=device,
        where=f"{devices} x {accelerator} at {mfu:.0%} of the peak",
        how=COMPILED if accelerator == "cpu" else ESTIMATED,
        compiler=note,
    )


def _compiler(accelerator: str, devices: int, effort: Effort, attention: str) -> tuple[Target | None, str]:
    """Returns the accelerators for their own compiler, if there is one here, and what `plan` prints about it."""
    if effort == "none" or accelerator not in topologies.KINDS:
        return None, ""
    reason = topologies.why_not(accelerator, devices, attention)
    if reason:
        return None, f"the compiler for {accelerator} was not used: {reason}"
    own = topologies.target(accelerator, devices, effort == "full")
    if accelerator in topologies.GPUS:
        note = (
            f"the same by the compiler for {accelerator}, which tries out no kernels here: a run needs about as much;\n"
            f"memory includes the batch, and JAX takes {own.limit / 1e9:.1f} GB of each GPU:"
        )
    else:
        little = ", with little optimization (--effort full: as for a run, but it takes much longer)"
        note = (
            f"the same by the compiler for {accelerator}{little if effort == 'low' else ''};\n"
            "memory includes the batch, operations and bytes accessed are those of a step on each device:"
        )
    return own, note


def this_machine(devices: int) -> flops.Accelerator:
    """Returns the share of one device, if this machine were that number of devices."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return flops.Accelerator(Devices("single", 1).peak_flops / devices, memory / devices)


def count_parameters(run: Run) -> int:
    """Returns the number of parameters of the model."""
    return sum(x.size for x in jax.tree.leaves(_shapes(run).params))


def _shapes(run: Run) -> Any:
    # cuDNN's attention cannot even be traced where cuDNN is not installed; the state does not depend on it.
    run = run.with_compute(replace(run.experiment.compute, attention="explicit"))
    transformation = optimizer.make(run.experiment.optimizer, run.experiment.steps or TRIAL_STEPS, run.experiment.model)
    return jax.eval_shape(lambda: random_state(run, transformation, run.experiment.seed))


def layouts(
    run: Run,
    batch: dict[str, np.ndarray],
    devices: int,
    progress: Callable[[str], None],
    own: Target | None = None,
    compiled: bool = False,
) -> Iterator[Memory]:
    """Yields the memory of each layout: with and without FSDP, with and without remat.

    Args:
      own: the accelerators whose compiler is used as well.
      compiled: whether the step is compiled for CPUs, rather than estimated for accelerators.
    """
    rows = len(batch["input_ids"])
    meshes = [Devices("mesh", rows, fsdp, jax.devices()[:devices]) for fsdp in sorted({1, devices})]
    reads = None if compiled else {remat: kept_each(run, batch, devices, remat) for remat in (False, True)}
    for here in meshes:
        for remat in (False, True):
            if compiled or own:
                progress(f"compiling with fsdp {here.fsdp}, {'with' if remat else 'without'} remat")
            layout = estimate(run, here, remat, reads) if reads else memory(run, batch, here, remat)
            if own:
                _, traced = _traced(run, batch, Devices("mesh", rows, here.fsdp, own.devices), remat)
                layout = replace(layout, compiled=own.analyse(traced))
            yield layout


def kept_each(run: Run, batch: dict[str, np.ndarray], devices: int, remat: bool) -> activations.Kept:
    """Returns what each device keeps from the forward pass of a microbatch for the backward pass."""
    compute = run.experiment.compute
    fused = compute.attention != "explicit"
    run = run.with_compute(replace(compute, remat=remat, attention="explicit"))
    params = _shapes(run).params
    frozen = optimizer.frozen(params, run.experiment.optimizer, run.task.config)
    parts = devices * compute.microbatches
    part = {name: jax.ShapeDtypeStruct((len(x) // parts, *x.shape[1:]), x.dtype) for name, x in batch.items()}

    def objective(params: Any, part: Any, key: jax.Array) -> Any:
        params = jax.tree.map(lambda x, stays: jax.lax.stop_gradient(x) if stays else x, params, frozen)
        if run.task.joint:
            return run.task.joint.vectors(params, part, Keys(key, key))
        return sum(loss.sum for loss in run.task.loss_fn(params, part, Keys(key, key)).losses.values())

    key = jax.eval_shape(lambda: jax.random.key(0))
    length = batch["input_ids"].shape[1] if fused else 0
    return activations.kept(objective, params, part, key, remat, length)


def estimate(run: Run, devices: Devices, remat: bool, reads: dict[bool, activations.Kept]) -> Memory:
    """Returns about the memory of one layout on accelerators.

    In addition to the state, these are the gradients and what the backward pass reads, with remat the larger of the two
    and one block; the gradient of the largest array; with FSDP, the parameters as they are gathered; and with
    microbatches, the sum of gradients. `docs/performance.md` compares this with the compilers for TPUs and GPUs.

    Args:
      reads: what the backward pass reads, without and with remat.
    """
    compute = run.experiment.compute
    state = devices.shapes(_shapes(run))
    frozen = jax.tree.leaves(optimizer.frozen(state.params, run.experiment.optimizer, run.task.config))
    sizes = [x.size for x in jax.tree.leaves(state.params)]
    learnt = sum(size for size, stays in zip(sizes, frozen, strict=True) if not stays)
    gradients = learnt * jnp.dtype(compute.param_dtype).itemsize * min(compute.microbatches, 2)
    gathered = sum(sizes) * jnp.dtype(compute.dtype).itemsize if devices.fsdp > 1 else 0
    block = max(0, reads[False].total - reads[True].total) // run.task.config.num_layers
    both = max(gradients, reads[True].total) + block if remat else gradients + reads[False].total
    return Memory(
        fsdp=devices.fsdp,
        remat=remat,
        parameters=devices.bytes_each(state.params),
        optimizer=devices.bytes_each(state.opt_state),
        activations=both + reads[False].largest + gathered,
    )


def memory(run: Run, batch: dict[str, np.ndarray], devices: Devices, remat: bool) -> Memory:
    """Returns the memory of one layout, from the analysis of the compiled step."""
    run = run.with_compute(replace(run.experiment.compute, attention="explicit"))  # a CPU has no other kernels
    state, traced = _traced(run, batch, devices, remat)
    analysis = traced.lower().compile(KEEP_REMAT).memory_analysis()
    return Memory(
        fsdp=devices.fsdp,
        remat=remat,
        parameters=devices.bytes_each(state.params),
        optimizer=devices.bytes_each(state.opt_state),
        activations=analysis.temp_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
    )


def _traced(run: Run, batch: dict[str, np.ndarray], devices: Devices, remat: bool) -> tuple[Any, Any]:
    """Returns the shapes of the state, and the step as it was traced for some devices."""
    run = run.with_compute(replace(run.experiment.compute, remat=remat))
    state = devices.shapes(_shapes(run))
    return state, devices.wrap(train_step, **step_options(run, state.params)).trace(state, batch)
