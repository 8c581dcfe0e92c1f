"""Shared by the benchmarks: works that take turns in processes of their own, and a result as one line of a table."""

import multiprocessing
import statistics
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from multiprocessing.connection import Connection
from typing import Any

ROUNDS = 7
SECONDS = 1.5  # for each work in each round; at least one call

# Makes a work: a function that is called again and again, and returns the amount it did.
Maker = Callable[..., Callable[[], float]]


CONTEXT = multiprocessing.get_context("spawn")


class Process:
    """A work in a process of its own, so that libraries do not share threads or memory. It is idle between calls.

    Args:
      make, arguments: make the work in that process. Its first two calls, which compile, are not measured.
      alone: a lock of `CONTEXT` that is held until then, so that one process compiles at a time; None = no lock.
    """

    def __init__(self, make: Maker, arguments: tuple[Any, ...], alone: Any = None):
        self._connection, theirs = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=_serve, args=(theirs, make, arguments, alone), daemon=True)
        self._process.start()
        theirs.close()  # so that the end of the process is noticed here

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.join()

    def prepare(self, seconds: float | None = None) -> float:
        """Waits until the work can be measured; returns the seconds that making it and its first two calls took.

        Raises:
          RuntimeError: it failed, or is not ready after `seconds`.
        """
        if not self._connection.poll(None if seconds is None else max(0.0, seconds)):
            raise RuntimeError("not ready in time")
        return self._answer()

    def speed(self, seconds: float = SECONDS) -> float:
        """Returns the amount the work does in a second, measured for `seconds` or one call."""
        self._connection.send(seconds)
        return self._answer()

    def _answer(self) -> float:
        try:
            answer = self._connection.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"the process ended with exit code {self._process.exitcode}") from None
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer


def _serve(connection: Connection, make: Maker, arguments: tuple[Any, ...], alone: Any) -> None:
    try:
        with alone or nullcontext():
            began = time.perf_counter()
            work = make(*arguments)
            work()
            work()
            connection.send(time.perf_counter() - began)
        while True:
            seconds = connection.recv()
            began, done = time.perf_counter(), work()
            while time.perf_counter() - began < seconds:
                done += work()
            connection.send(done / (time.perf_counter() - began))
    except Exception:
        connection.send(traceback.format_exc())


def alternate(works: Mapping[str, tuple[Any, ...]], count: int = ROUNDS) -> dict[str, float]:
    """Lets works, each (maker, arguments...), take turns; returns the median speed of each over `count` rounds."""
    with ExitStack() as stack:
        made = {}
        for name, (make, *args) in works.items():
            made[name] = stack.enter_context(Process(make, tuple(args)))
            made[name].prepare()
        rounds = [{name: process.speed() for name, process in made.items()} for _ in range(count)]
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
