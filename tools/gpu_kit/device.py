"""The machine: its name, its versions, its memory's bandwidth and the speed of its matrix products."""

import importlib.metadata
import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import jax
import jax.numpy as jnp

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "torch", "transformers", "triton", "numpy", "grain")
PLUGINS = ("jax-cuda13-plugin", "jax-cuda12-plugin", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12")
ROUNDS = 5
# dtype and precision of the products; None = the default of JAX.
PRODUCTS = (("bfloat16", None), ("float32", None), ("float32", "highest"))


def run(options: Any, save: Callable[[dict[str, Any]], None]) -> None:
    """Measures bandwidth and products, and saves them with the facts of the machine."""
    device = jax.devices()[0]
    facts: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "kind": device.device_kind,
        "platform": device.client.platform_version.splitlines()[0],
        "processor": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "versions": {},
    }
    for name in PACKAGES + PLUGINS:
        with suppress(importlib.metadata.PackageNotFoundError):
            facts["versions"][name] = importlib.metadata.version(name)
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        facts["nvidia_smi"] = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    save(facts)
    size = 2**20 if options.toy else 2**30
    x = jax.random.normal(jax.random.key(0), (size,), "bfloat16")
    seconds = seconds_of(jax.jit(jnp.negative), x)
    facts["copy_bytes_per_second"] = 2 * x.nbytes / seconds  # read and written
    facts["products"] = [product(256 if options.toy else 8192, *kind) for kind in PRODUCTS]
    save(facts)


def product(size: int, dtype: str, precision: str | None) -> dict[str, Any]:
    """Returns the speed of a product of two square matrices of random numbers, and its error."""
    x, y = jax.random.normal(jax.random.key(1), (2, size, size), dtype)
    multiply = jax.jit(lambda x, y: jnp.matmul(x, y, precision=precision))
    exact = jnp.matmul(x.astype("float32"), y.astype("float32"), precision="highest")
    error = jnp.linalg.norm(multiply(x, y).astype("float32") - exact) / jnp.linalg.norm(exact)
    return {
        "dtype": dtype,
        "precision": precision or "default",
        "flops_per_second": 2 * size**3 / seconds_of(multiply, x, y),
        "relative_error": float(error),
    }


def seconds_of(function: Callable, *arguments: jax.Array) -> float:
    """Returns the seconds of one call: the median over rounds of ten calls without a wait between them."""
    jax.block_until_ready(function(*arguments))
    rounds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        result = None
        for _ in range(10):
            result = function(*arguments)
        jax.block_until_ready(result)
        rounds.append((time.perf_counter() - began) / 10)
    return statistics.median(rounds)
