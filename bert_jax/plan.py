"""Computes what a run needs before it starts: parameters, memory on each device, operations, hours."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from bert_jax import flops
from bert_jax.config import Experiment
from bert_jax.devices import Devices
from bert_jax.errors import InputError
from bert_jax.training import optimizer
from bert_jax.training.budget import TRIAL_STEPS
from bert_jax.training.run import Run, batch_sizes, random_state, resolve, step_options
from bert_jax.training.step import train_step

SAMPLED_BATCHES = 8

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
    activations: int  # and gradients: everything that the compiled step needs besides its state and batch

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
    fused: bool = False  # whether the run stores no scores of attention, unlike the step that was compiled

    def fits(self, memory: Memory) -> bool:
        """Returns whether the layout fits into the memory of a device."""
        return memory.total <= self.device.memory

    def __str__(self) -> str:
        lines = [
            f"parameters          {self.parameters:,}",
            f"steps               {self.steps:,}, which is {self.epochs:.3g} epochs over the training data",
            f"tokens              {self.tokens:.3g} (without padding)",
            f"operations          {self.operations:.3g}",
            f"time                {_time(self.hours)} on {self.where}; evaluation not counted",
            "",
            f"memory on each device, of {_bytes(self.device.memory)}, as XLA compiles the step for a CPU",
            "(activations include gradients and everything else besides parameters and optimizer state):",
            "fsdp  remat   parameters    optimizer  activations        total",
        ]
        if self.fused:
            lines.insert(-1, "they also include the scores of attention, which fused attention does not store")
        for m in self.layouts:
            parts = (m.parameters, m.optimizer, m.activations, m.total)
            fits = "fits" if self.fits(m) else "does not fit"
            sizes = "".join(f"{_bytes(x):>13}" for x in parts)
            lines.append(f"{m.fsdp:4}  {'yes' if m.remat else 'no':5}{sizes}  {fits}")
        return "\n".join(lines)


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
    progress: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Returns what `experiment` needs on a number of devices, without taking a step.

    The step is compiled on this machine for the same number of simulated CPU devices. Call `runtime.pretend_devices`
    before JAX first looks for devices.

    Args:
      accelerator: a name in `flops.ACCELERATORS`, or "cpu" for this machine.
      mfu: share of the accelerator's peak that the run is expected to reach.
      progress: is called with each layout that is compiled.

    Raises:
      InputError: the experiment cannot run, the accelerator is not in the table, or the devices cannot divide the
        batch.
    """
    run = resolve(experiment)
    fused = run.experiment.compute.attention != "explicit"
    if fused:  # a CPU has no such kernels
        run = run.with_compute(replace(run.experiment.compute, attention="explicit"))
    if accelerator != "cpu" and accelerator not in flops.ACCELERATORS:
        raise InputError(f"--accelerator: must be one of {', '.join(flops.ACCELERATORS)} or cpu, got {accelerator}")
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
    generator = run.task.fields.generator(model)
    each = float(np.mean([flops.training_step(model, batch, generator) for batch in sampled]))
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
        layouts=tuple(layouts(run, widest, devices, progress)),
        device=device,
        where=f"{devices} x {accelerator} at {mfu:.0%} of the peak",
        fused=fused,
    )


def this_machine(devices: int) -> flops.Accelerator:
    """Returns the share of one device, if this machine were that number of devices."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return flops.Accelerator(Devices("single", 1).peak_flops / devices, memory / devices)


def count_parameters(run: Run) -> int:
    """Returns the number of parameters of the model."""
    return sum(x.size for x in jax.tree.leaves(_shapes(run).params))


def _shapes(run: Run) -> Any:
    transformation = optimizer.make(run.experiment.optimizer, run.experiment.steps or TRIAL_STEPS, run.experiment.model)
    return jax.eval_shape(lambda: random_state(run, transformation))


def layouts(run: Run, batch: dict[str, np.ndarray], devices: int, progress: Callable[[str], None]) -> Iterator[Memory]:
    """Yields the memory of each layout: with and without FSDP, with and without remat."""
    for fsdp in sorted({1, devices}):
        for remat in (False, True):
            progress(f"compiling with fsdp {fsdp}, {'with' if remat else 'without'} remat")
            yield memory(run, batch, Devices("mesh", len(batch["input_ids"]), fsdp, jax.devices()[:devices]), remat)


def memory(run: Run, batch: dict[str, np.ndarray], devices: Devices, remat: bool) -> Memory:
    """Returns the memory of one layout, from the analysis of the compiled step."""
    run = run.with_compute(replace(run.experiment.compute, remat=remat))
    state = devices.shapes(_shapes(run))
    step = devices.wrap(train_step, **step_options(run, state.params))
    analysis = step.trace(state, batch).lower().compile(KEEP_REMAT).memory_analysis()
    return Memory(
        fsdp=devices.fsdp,
        remat=remat,
        parameters=devices.bytes_each(state.params),
        optimizer=devices.bytes_each(state.opt_state),
        activations=analysis.temp_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
    )
