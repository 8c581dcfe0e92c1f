"""Shared by the benchmarks: works that take turns in processes of their own, and a result as one line of a table."""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any

ROUNDS = 7
SECONDS = 1.5  # for each work in each round; at least one call

# Makes a work: a function that is called again and again, and returns the amount it did.
Maker = Callable[..., Callable[[], float]]


class Process:
    """A work in a process of its own, so that libraries do not share threads or memory. It is idle between calls.

    Args:
      make, arguments: make the work in that process. Its first two calls, which compile, are not measured.
    """

    def __init__(self, make: Maker, arguments: tuple[Any, ...]):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        self._connection.recv()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.join()

    def speed(self) -> float:
        """Returns the amount the work does in a second, measured for SECONDS or one call."""
        self._connection.send(None)
        return self._connection.recv()


def _serve(connection: Connection, make: Maker, arguments: tuple[Any, ...]) -> None:
    work = make(*arguments)
    work()
    work()
    connection.send(None)
    while True:
        connection.recv()
        began, done = time.perf_counter(), work()
        while time.perf_counter() - began < SECONDS:
            done += work()
        connection.send(done / (time.perf_counter() - began))


def alternate(works: Mapping[str, tuple[Any, ...]]) -> dict[str, float]:
    """Lets works, each (maker, arguments...), take turns; returns the median speed of each over the rounds."""
    with ExitStack() as stack:
        made = {name: stack.enter_context(Process(make, tuple(args))) for name, (make, *args) in works.items()}
        rounds = [{name: process.speed() for name, process in made.items()} for _ in range(ROUNDS)]
    return {name: statistics.median(speeds[name] for speeds in rounds) for name in works}


def result(
    work: str,
    unit: str,
    speeds: Mapping[str, float],
    wanted: float,
    rate: float | None = None,
    peak: float | None = None,
    wanted_share: float | None = None,
) -> dict[str, Any]:
    """Prints one measurement and returns it.

    Args:
      speeds: "ours", and "theirs" and "keras" where PyTorch and keras-hub were measured.
      wanted: the ratio of ours to PyTorch's that is the aim.
      rate, peak, wanted_share: floating-point operations a second of ours and of a matrix product, and the aim.
    """
    measured: dict[str, Any] = {"work": work, "unit": unit, **speeds, "wanted": wanted}
    if "theirs" in speeds:
        measured["ratio"] = speeds["ours"] / speeds["theirs"]
    if rate is not None and peak is not None:
        measured |= {"flops": rate, "peak": peak, "share": rate / peak, "wanted_share": wanted_share}
    print(line(measured), flush=True)
    return measured


HEADER = (
    "| work | unit | bert_jax | PyTorch | ratio | wanted | keras-hub | GFLOP/s | of matmul | wanted |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def line(measured: Mapping[str, Any]) -> str:
    """Returns a result as a row of a Markdown table."""

    def shown(name: str, form: str) -> str:
        return format(measured[name], form) if measured.get(name) is not None else ""

    gigaflops = f"{measured['flops'] / 1e9:,.0f}" if "flops" in measured else ""
    cells = [
        measured["work"],
        measured["unit"],
        shown("ours", ".3g" if measured["ours"] < 100 else ",.0f"),
        shown("theirs", ",.0f"),
        shown("ratio", ".2f"),
        shown("wanted", ".3g"),
        shown("keras", ",.0f"),
        gigaflops,
        shown("share", ".0%"),
        shown("wanted_share", ".0%"),
    ]
    return "| " + " | ".join(cells) + " |"
