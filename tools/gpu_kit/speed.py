"""Training steps here and in PyTorch, in turn, as `tools/benchmark.py training` takes them: as many sizes as fit.

PyTorch compiles while other sections run. bert_jax compiles and all are measured when the others have ended.
"""

import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
from benchmarks import timing, training

from bert_jax import flops
from bert_jax.config import Pretraining

ROUNDS, SECONDS = 5, 0.6
MEASURING = 11  # seconds that measuring a size may take
# Sizes whose programs are in memory at the same time: three where it is large, otherwise two.
LARGE_MEMORY = 100e9


def run(options: Any, save: Callable[[dict[str, Any]], None]) -> None:
    """Measures the sizes in their order, and saves the results after each."""
    results: list[dict[str, Any]] = []
    cases = training.GPU[1:2] if options.toy else training.GPU
    known = None if options.toy else flops.accelerator(jax.devices()[0].device_kind)
    wave = 3 if known is not None and known.memory > LARGE_MEMORY else 2
    longest = 0.0
    with timing.Process(training.matmul, ("bfloat16",)) as product:
        for start in range(0, len(cases), wave):
            began = time.monotonic()
            if began + longest > options.until:
                break
            for result in measure(cases[start : start + wave], product, options):
                print(result, flush=True)
                results.append(result | ({"mfu": result["flops_per_second"] / known.flops} if known else {}))
                checks = [{"name": result["work"], "passed": "ours" in result} for result in results]
                left = [title(case) for case in cases[len(results) :]]
                save({"rounds": ROUNDS, "results": results, "left_out": left, "checks": checks})
            longest = time.monotonic() - began


def title(case: training.Case) -> str:
    return f"{case.preset}, {case.rows} x {case.length}, dropout {case.dropout}"


def measure(cases: list[training.Case], product: timing.Process, options: Any):
    """Yields the result of each case, with an error for a side that could not be measured."""
    alone = timing.CONTEXT.Lock()  # XLA times kernels while it compiles, so one program at a time
    with contextlib.ExitStack() as stack:
        started = []
        for side, lock in (("theirs", None), ("ours", alone)):
            if side == "ours":
                wait_for(options.quiet)
            for case in cases:
                small, config, compute = training.of_case(case, gpu=True, toy=options.toy)
                batch = training.random_batch(config, small.rows, small.length)
                make, *arguments = training.works_of(config, compute, batch, gpu=True)[side]
                process = stack.enter_context(timing.Process(make, tuple(arguments), lock))
                started.append((title(case), side, process))
        prepared: dict[str, dict[str, Any]] = {title(case): {"seconds": {}, "errors": {}} for case in cases}
        latest = options.until - MEASURING * len(cases)
        product.prepare(latest - time.monotonic())
        for name, side, process in reversed(started):
            try:
                prepared[name]["seconds"][side] = round(process.prepare(latest - time.monotonic()), 1)
                print(name, side, prepared[name]["seconds"][side], flush=True)
            except RuntimeError as error:
                prepared[name]["errors"][side] = str(error)[-1500:]
                print(name, side, str(error)[-1500:], flush=True)
        for case in cases:
            name = title(case)
            running = {side: process for other, side, process in started if other == name}
            for side in prepared[name]["errors"]:
                del running[side]
            small, config, compute = training.of_case(case, gpu=True, toy=options.toy)
            batch = training.random_batch(config, small.rows, small.length)
            result = {"work": name, "attention": compute.attention, "unit": "tokens/s", "ready_after": prepared[name]}
            operations = flops.training_step(config, batch, read=Pretraining().read(config)) / batch["input_ids"].size
            yield result | speeds({"matmul": product} | running, operations)


def wait_for(path: Any) -> None:
    """Waits until the file exists: the other sections have ended, and nothing else uses the GPU."""
    while not path.exists():
        time.sleep(0.2)


def speeds(sides: dict[str, timing.Process], operations: float) -> dict[str, Any]:
    """Lets the sides take turns; returns medians, the range of the rounds, the ratio, and the share of a product's."""
    rounds = [{name: side.speed(SECONDS) for name, side in sides.items()} for _ in range(ROUNDS)]
    medians = {name: statistics.median(speed[name] for speed in rounds) for name in sides}
    peak = medians.pop("matmul")
    measured: dict[str, Any] = dict(medians)
    measured["range"] = {name: [f(speed[name] for speed in rounds) for f in (min, max)] for name in medians}
    if {"ours", "theirs"} <= set(medians):
        measured["ratio"] = medians["ours"] / medians["theirs"]
    rate = operations * medians.get("ours", 0.0)
    return measured | {"flops_per_second": rate, "of_matmul": rate / peak, "matmul_flops_per_second": peak}
