"""The compiler for TPUs, which runs where `libtpu` is installed, without a TPU: what a program needs there."""

import importlib.util
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies

from bert_jax import runtime

# How the chips of a slice are connected, by their number. Each chip is one device.
_PLANES = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBES = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8"}
SLICES = {"v4": _CUBES, "v5e": _PLANES, "v5p": _CUBES, "v6e": _PLANES}

# libtpu reads these when it is loaded: it must not ask for the machine's metadata, nor keep other processes out.
_SETTINGS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
LITTLE_OPTIMIZATION = {"exec_time_optimization_effort": -1.0}


@dataclass(frozen=True)
class Analysis:
    """What a step needs on each device, by the compiler."""

    memory: int | None  # bytes of state, batch and temporary arrays; None where they do not fit
    refusal: str  # why they do not; empty where they fit
    flops: float
    bytes_accessed: float  # read and written in a step
    seconds: float  # that compiling took

    @property
    def fits(self) -> bool:
        """Whether the step fits into the memory of a device."""
        return self.memory is not None


def why_not(accelerator: str, count: int) -> str:
    """Returns why this machine cannot compile for `count` accelerators of a kind; empty if it can."""
    if accelerator not in SLICES:
        return f"there is no compiler here for {accelerator}"
    if count not in SLICES[accelerator]:
        sizes = ", ".join(map(str, SLICES[accelerator]))
        return f"there are no slices of {count} {accelerator}, only of {sizes}"
    if importlib.util.find_spec("libtpu") is None:
        return "it is not installed: pip install 'bert_jax[tpu]'"
    return ""


def tpus(accelerator: str, count: int) -> Sequence[jax.Device]:
    """Returns the TPUs of a slice, for which programs can be compiled but not run; `why_not` must have no reason.

    All chips belong to one host, whatever the number of hosts of such a slice: the program is the same.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    shape = SLICES[accelerator][count]
    bounds = tuple(map(int, f"{shape}x1".split("x")[:3]))
    options = {"chip_config_name": "megacore"} if accelerator == "v4" else {}  # its two cores are one device
    return list(
        topologies.get_topology_desc(f"{accelerator}:{shape}", "tpu", chips_per_host_bounds=bounds, **options).devices
    )


def analyse(traced: Any, thorough: bool) -> Analysis:
    """Compiles a step for the TPUs that it was traced for, and returns what it needs.

    Args:
      traced: the result of `WrappedStep.trace`.
      thorough: whether the program is optimized as for a run, which takes several times as long.
    """
    lowered = traced.lower(lowering_platforms=("tpu",))
    began = time.perf_counter()
    try:
        with runtime.no_compilation_cache():
            compiled = lowered.compile({} if thorough else LITTLE_OPTIMIZATION)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Analysis(None, refusal(str(error)), 0, 0, time.perf_counter() - began)
    need, cost = compiled.memory_analysis(), compiled.cost_analysis()
    used = need.argument_size_in_bytes + need.temp_size_in_bytes + need.output_size_in_bytes - need.alias_size_in_bytes
    return Analysis(used, "", cost["flops"], cost["bytes accessed"], time.perf_counter() - began)


def refusal(message: str) -> str:
    """Returns what does not fit, from the compiler's error.

    >>> refusal("the total memory required for HLO temporaries (42.38G) exceeds available HBM (15.75G).")
    'needs 45.5 GB of 16.9 GB'
    """
    sizes = [float(size) * 2**30 / 1e9 for size in re.findall(r"\b([\d.]+)G\b", message)[:2]]
    return "needs {:.1f} GB of {:.1f} GB".format(*sizes) if len(sizes) == 2 else message.splitlines()[0]
