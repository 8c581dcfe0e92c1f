"""The compilers for TPUs and GPUs, which run without these: what a program needs there."""

import importlib.util
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.experimental import topologies

from bert_jax import runtime
from bert_jax.errors import InputError

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
class Gpu:
    """The figures of a GPU that its compiler reads."""

    name: str
    capability: int  # of CUDA, the major version
    cores: int  # streaming multiprocessors
    units: int  # for float32 in each of them
    shared_memory: int  # bytes in each of them
    cache: int  # bytes, level 2
    bandwidth: int  # bytes a second
    clock: float  # GHz
    memory: int  # bytes that CUDA reports


# Sources: NVIDIA's data sheets, and the devices' own answers to CUDA.
GPUS = {
    "h200": Gpu("NVIDIA H200", 9, 132, 128, 233_472, 50 * 2**20, 4_800 * 10**9, 1.98, 151_397_597_184),
    "h100": Gpu("NVIDIA H100 80GB HBM3", 9, 132, 128, 233_472, 50 * 2**20, 3_352 * 10**9, 1.98, 84_942_979_072),
    "a100": Gpu("NVIDIA A100-SXM4-80GB", 8, 108, 64, 167_936, 40 * 2**20, 2_039 * 10**9, 1.41, 85_100_068_864),
}
KINDS = (*SLICES, *GPUS)
_CUDA = ("jax_plugins.xla_cuda12", "jax_cuda12_plugin", "nvidia.cuda_nvcc")  # the compiler, kernels, the assembler


@dataclass(frozen=True)
class Analysis:
    """What a step needs on each device, by the compiler."""

    memory: int | None  # bytes of state, batch and temporary arrays; None where they do not fit
    refusal: str  # why they do not; empty where they fit
    flops: float | None  # None where the compiler does not count them
    bytes_accessed: float | None  # read and written in a step; likewise
    seconds: float  # that compiling took

    @property
    def fits(self) -> bool:
        """Whether the step fits into the memory of a device."""
        return self.memory is not None


@dataclass(frozen=True)
class Target:
    """Accelerators for which programs can be compiled here, but not run."""

    platform: str  # JAX's name: tpu or cuda
    devices: Sequence[jax.Device]
    options: Mapping[str, Any] = field(default_factory=dict)  # of the compiler
    limit: float = float("inf")  # bytes for a program on a device, where the compiler itself refuses none

    def analyse(self, traced: Any) -> Analysis:
        """Compiles a step that was traced for these devices by `WrappedStep.trace`, and returns what it needs."""
        lowered = traced.lower(lowering_platforms=(self.platform,))
        began = time.perf_counter()
        try:
            with runtime.no_compilation_cache():
                compiled = lowered.compile(dict(self.options))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return Analysis(None, refusal(str(error)), None, None, time.perf_counter() - began)
        seconds = time.perf_counter() - began
        need, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
        used = need.argument_size_in_bytes + need.temp_size_in_bytes + need.output_size_in_bytes
        used -= need.alias_size_in_bytes
        if used > self.limit:
            return Analysis(None, _needs(used, self.limit), None, None, seconds)
        return Analysis(used, "", cost.get("flops"), cost.get("bytes accessed"), seconds)


def why_not(accelerator: str, count: int, attention: str = "explicit") -> str:
    """Returns why this machine cannot compile for `count` accelerators of a kind; empty if it can."""
    if accelerator not in KINDS:
        return f"there is no compiler here for {accelerator}"
    if accelerator in GPUS:
        modules = (*_CUDA, "nvidia.cudnn") if attention == "cudnn" else _CUDA
        missing = [module for module in modules if not _is_installed(module)]
        return f"{missing[0]} is not installed: pip install 'bert_jax[cuda]'" if missing else ""
    if count not in SLICES[accelerator]:
        sizes = ", ".join(map(str, SLICES[accelerator]))
        return f"there are no slices of {count} {accelerator}, only of {sizes}"
    if attention == "cudnn":
        return "cuDNN runs on NVIDIA GPUs only; choose --compute.attention pallas or explicit"
    return "" if _is_installed("libtpu") else "it is not installed: pip install 'bert_jax[tpu]'"


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that the module is in
        return False


def target(accelerator: str, count: int, thorough: bool) -> Target:
    """Returns `count` accelerators of a kind; `why_not` must have no reason, and JAX must be limited to CPUs.

    All belong to one host, even where it takes several hosts to have that number: the program is the same.

    Args:
      thorough: whether programs are optimized as for a run, which takes several times as long. For GPUs they always
        are, except that no kernels are tried out, for which a GPU is needed.
    """
    if accelerator in GPUS:
        limit = _gpu_memory(accelerator)
        host = topologies.get_topology_desc(
            platform="cuda", target_config=_text(GPUS[accelerator]), topology=f"1x1x{count}"
        )
        return Target("cuda", list(host.devices), limit=limit)
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    shape = SLICES[accelerator][count]
    bounds = tuple(map(int, f"{shape}x1".split("x")[:3]))
    cores = {"chip_config_name": "megacore"} if accelerator == "v4" else {}  # its two cores are one device
    slice_ = topologies.get_topology_desc(f"{accelerator}:{shape}", "tpu", chips_per_host_bounds=bounds, **cores)
    return Target("tpu", list(slice_.devices), {} if thorough else LITTLE_OPTIMIZATION)


def _gpu_memory(accelerator: str) -> float:
    """Returns the bytes that JAX takes of a GPU: three quarters, or the share that its environment variables name.

    Raises:
      InputError: the share is not a number.
    """
    names = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
    name, share = next(((name, os.environ[name]) for name in names if os.environ.get(name)), ("", "0.75"))
    try:
        return float(share) * GPUS[accelerator].memory
    except ValueError:
        raise InputError(f"{name} must be a share of the GPU's memory such as 0.9, got {share}") from None


def _text(gpu: Gpu) -> str:
    """Returns the description of a GPU that XLA's compiler reads, a `GpuTargetConfigProto` as text."""
    figures = {
        "core_count": gpu.cores,
        "fpus_per_core": gpu.units,
        "shared_memory_per_core": gpu.shared_memory,
        "shared_memory_per_block_optin": gpu.shared_memory - 1024,  # CUDA itself uses the rest
        "l2_cache_size": gpu.cache,
        "memory_bandwidth": gpu.bandwidth,
        "clock_rate_ghz": gpu.clock,
        "device_memory_size": gpu.memory,
        # These are the same for all GPUs in the table.
        "threads_per_warp": 32,
        "threads_per_block_limit": 1024,
        "threads_per_core_limit": 2048,
        "registers_per_core_limit": 65_536,
        "registers_per_block_limit": 65_536,
        "shared_memory_per_block": 49_152,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65_535,
        "block_dim_limit_z": 65_535,
    }
    info = " ".join(f"{name}: {value}" for name, value in figures.items())
    return (
        f"gpu_device_info {{ {info} cuda_compute_capability {{ major: {gpu.capability} }} }} "
        f'platform_name: "CUDA" device_description_str: "{gpu.name}" '
        "dnn_version_info { major: 9 minor: 8 } runtime_version { major: 12 minor: 9 }"
    )


def refusal(message: str) -> str:
    """Returns what does not fit, from the error of a compiler.

    >>> refusal("the total memory required for HLO temporaries (42.38G) exceeds available HBM (15.75G).")
    'needs 45.5 GB of 16.9 GB'
    """
    sizes = [float(size) * 2**30 for size in re.findall(r"\b([\d.]+)G\b", message)[:2]]
    return _needs(*sizes) if len(sizes) == 2 else message.splitlines()[0]


def _needs(used: float, limit: float) -> str:
    return f"needs {used / 1e9:.1f} GB of {limit / 1e9:.1f} GB"
