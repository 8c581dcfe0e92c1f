"""Shared by the benchmarks: works that take turns in processes of their own, and a result as rows of a table."""

import multiprocessing
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, nullcontext
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

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


class Speed(NamedTuple):
    """The amount a second over rounds."""

    median: float
    least: float
    most: float


def alternate(
    works: Mapping[str, tuple[Any, ...]], count: int = ROUNDS, optional: Collection[str] = ()
) -> dict[str, Speed]:
    """Lets works, each (maker, arguments...), take turns for `count` rounds.

    Args:
      optional: works that are left out, with a line about the reason, where they cannot be made.
    """
    with ExitStack() as stack:
        made = {}
        for name, (make, *args) in works.items():
            process = stack.enter_context(Process(make, tuple(args)))
            try:
                process.prepare()
            except RuntimeError as error:
                if name not in optional:
                    raise
                print(f"{name}: left out, because it failed: {str(error).strip().splitlines()[-1]}", flush=True)
                continue
            made[name] = process
        rounds = [{name: process.speed() for name, process in made.items()} for _ in range(count)]
    each = {name: [speeds[name] for speeds in rounds] for name in made}
    return {name: Speed(statistics.median(speeds), min(speeds), max(speeds)) for name, speeds in each.items()}


OURS = "bert_jax"
HEADER = "| work | | speed: median (least to most) | bert_jax is times as fast | wanted |\n|---|---|---|---|---|"


def result(
    work: str, unit: str, speeds: Mapping[str, Speed], wanted: Mapping[str, float], shares: Mapping[str, float] = {}
) -> dict[str, Any]:
    """Prints one measurement as rows of HEADER's table, and returns it.

    Args:
      speeds: of OURS and of each other side.
      wanted: how many times as fast as a side bert_jax should be, and the aims for `shares`.
      shares: parts of what the machine could do that bert_jax reached, by name.
    """
    ratios = {side: speeds[OURS].median / speed.median for side, speed in speeds.items() if side != OURS}
    for side, speed in speeds.items():
        median, *ends = (f"{value:,.3g}" if value < 100 else f"{value:,.0f}" for value in speed)
        ratio = f"{ratios[side]:.2f}" if side in ratios else ""
        print(f"| {work} | {side} | {median} ({' to '.join(ends)}) {unit} | {ratio} | {wanted.get(side, '')} |")
    for name, share in shares.items():
        print(f"| {work} | of {name} | {share:.0%} | | {f'{wanted[name]:.0%}' if name in wanted else ''} |")
    sys.stdout.flush()
    return {
        "work": work,
        "unit": unit,
        "speeds": {side: speed._asdict() for side, speed in speeds.items()},
        "ratios": ratios,
        "shares": dict(shares),
        "wanted": dict(wanted),
    }
