"""What this process does to its machine: memory allocator, compilation cache, log, pretended devices."""

import hashlib
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache

from bert_jax import files, memory

NOTICE_PAUSE = 1.0  # seconds between two questions to the metadata server of Google Cloud, which itself waits


@cache
def set_up() -> None:
    """Makes this process start fast and, on a CPU, take steps fast. A second call does nothing.

    Compiled programs are stored in the user's cache folder, where the next process finds them. The environment variable
    JAX_COMPILATION_CACHE_DIR names another folder; JAX_ENABLE_COMPILATION_CACHE=false stores nothing.

    Call it before anything touches a device: see `bert_jax.memory.keep_freed`.
    """
    memory.keep_freed()
    _use_compilation_cache()
    logging.getLogger("absl").addFilter(_is_not_from_orbax)


def _use_compilation_cache() -> None:
    if jax.config.values["jax_compilation_cache_dir"] is None:
        # One folder for each kind of processor: several machines may share a home.
        kind = hashlib.sha256(f"{platform.machine()} {_processor_features()}".encode()).hexdigest()[:8]
        jax.config.update("jax_compilation_cache_dir", str(files.cache_folder() / f"compiled-{kind}"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@contextmanager
def no_compilation_cache() -> Iterator[None]:
    """Compiles without the cache, from which programs for devices that this machine lacks cannot be read."""
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # JAX looks for one once in a process
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def _processor_features() -> str:
    """Returns the processor's instruction sets on Linux, an empty text elsewhere."""
    try:
        lines = files.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    # Orbax logs a failure once for each of its threads, pages of it, and raises it too.
    return "orbax" not in record.pathname


def on_preemption(call: Callable[[], None]) -> None:
    """Calls `call`, in a thread, when Google Cloud gives notice that it takes this machine away; elsewhere never.

    The notice comes from the machine's metadata server; GCE_METADATA_HOST names another one.
    """
    host = os.environ.get("GCE_METADATA_HOST")
    if host is None and _is_on_google_cloud():
        host = "metadata.google.internal"
    if host is not None:
        threading.Thread(target=_await_preemption, args=(host, call), daemon=True).start()


def _is_on_google_cloud() -> bool:
    try:
        return "Google" in files.Path("/sys/class/dmi/id/product_name").read_text()
    except OSError:
        return False


def _await_preemption(host: str, call: Callable[[], None]) -> None:
    import http.client  # here, because most runs are elsewhere
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the server is on this machine
    version, answered = "0", False
    while True:
        # Answers when the value is no longer that of this version.
        query = f"wait_for_change=true&timeout_sec=600&last_etag={version}"
        request = urllib.request.Request(f"http://{host}/computeMetadata/v1/instance/preempted?{query}")
        request.add_header("Metadata-Flavor", "Google")
        try:
            with opener.open(request, timeout=630) as answer:
                version, answered = answer.headers.get("ETag", "0"), True
                if answer.read().strip() == b"TRUE":
                    call()
                    return
        except (OSError, http.client.HTTPException):
            if not answered:  # there is no such server, or it has no such value
                return
        time.sleep(NOTICE_PAUSE)


def pretend_devices(count: int) -> None:
    """Makes JAX see `count` CPU devices and no others. Call it before anything touches a device."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)


@cache
def measured_flops(size: int = 1024) -> float:
    """Returns floating-point operations a second of a float32 matrix product on the first device: the best of five.

    They are measured once in a process, so the runs of a sweep report their MFU against the same figure.
    """
    x = jnp.ones((size, size), jnp.float32)
    multiply = jax.jit(jnp.matmul)
    multiply(x, x).block_until_ready()
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        multiply(x, x).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)
