"""How a user sees and stops long work: a progress bar, the speed, and signals."""

import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bert_jax import runtime


class Stop:
    """Turns the first SIGINT or SIGTERM into a request to finish the step and save. A second signal ends at once.

    The notice that a machine of Google Cloud is taken away is such a request, too.
    """

    def __init__(self) -> None:
        self.requested = False
        self.signal: int | None = None  # the number of the signal that arrived
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._request)
        except ValueError:  # outside the main thread, signals cannot be handled
            pass
        runtime.on_preemption(self._preempted)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _preempted(self) -> None:
        self.requested = True
        self.signal = signal.SIGTERM
        print("This machine is taken away: finishing this step, then saving", file=sys.stderr)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self.signal = number
        signal.signal(number, signal.SIG_DFL)
        print("Finishing this step, then saving; once more to end at once", file=sys.stderr)


class Throughput:
    """The speed of the steps since the last figures."""

    def __init__(self) -> None:
        self._tokens = self._positions = self._flops = 0
        self._busy = 0.0
        self._lap_began = time.monotonic()

    def add(self, tokens: int, positions: int, flops: int) -> None:
        """Adds a step: real tokens, positions with padding, floating-point operations."""
        self._tokens += tokens
        self._positions += positions
        self._flops += flops

    def restart(self) -> None:
        """Leaves the time since the last lap out of the speed."""
        self._lap_began = time.monotonic()

    def lap(self) -> float:
        """Returns the seconds since the last call: time spent on steps."""
        now = time.monotonic()
        seconds, self._lap_began = now - self._lap_began, now
        self._busy += seconds
        return seconds

    def figures(self, peak_flops: float) -> dict[str, float]:
        """Returns the speed since the last call: real tokens a second, the share of padding, and MFU.

        MFU, model FLOPs utilization, is the share of `peak_flops` (a second) that `flops.training_step` accounts for.
        """
        busy = max(self._busy, 1e-9)
        figures = {
            "tokens_per_second": round(self._tokens / busy, 1),
            "padding_share": round(1 - self._tokens / max(self._positions, 1), 4),
            "mfu": round(self._flops / busy / peak_flops, 4),
        }
        self._tokens = self._positions = self._flops = 0
        self._busy = 0.0
        return figures


# Seconds between two refreshes while steps are slow: of a bar in a terminal, and of lines.
BAR_EVERY, LINE_EVERY = 2.0, 60.0


def in_lines(what: str, say: Callable[[str], None]) -> Callable[[int, int], None]:
    """Returns a function of (done, total) that writes a line if nothing was written for LINE_EVERY seconds."""
    shown = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal shown
        if time.monotonic() - shown >= LINE_EVERY:
            shown = time.monotonic()
            say(f"{what} {done}/{total}")

    return show


class ProgressBar:
    """A progress bar in a terminal; elsewhere a line from time to time."""

    def __init__(self, start: int, steps: int, say: Callable[[str], None]):
        self._say = say
        self._steps = steps
        self._shown = time.monotonic()
        self._text = "training"
        columns = (
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns) if sys.stdout.isatty() else None
        if self._bar:
            self._task = self._bar.add_task("train", total=steps, completed=start, text="compiling")

    def __enter__(self) -> "ProgressBar":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def due(self) -> bool:
        """Whether nothing was shown for so long that a user may wonder."""
        return time.monotonic() - self._shown >= (BAR_EVERY if self._bar else LINE_EVERY)

    def say(self, line: str) -> None:
        """Writes a line."""
        (self._bar.console.print if self._bar else self._say)(line)

    def advance(self, step: int) -> None:
        """Moves the bar to `step`."""
        if self._bar:
            self._bar.update(self._task, completed=step, text=self._text)

    def heartbeat(self, text: str) -> None:
        """Writes a line that shows how far the work is, if there is no bar."""
        self._shown = time.monotonic()
        if not self._bar:
            self._say(text)

    def show(self, step: int, figures: dict[str, float], speed: dict[str, float]) -> None:
        """Shows the figures and the speed of the last steps."""
        self._shown = time.monotonic()
        tokens, padding = speed["tokens_per_second"], speed["padding_share"]
        self._text = f"loss {figures['loss']:.3f}, {tokens:,.0f} tokens/s, {padding:.0%} padding"
        if not self._bar:
            self._say(f"step {step}/{self._steps}: {self._text}")

    def evaluating(self, done: int, total: int) -> None:
        """Shows how far an evaluation is."""
        if self._bar:
            self._bar.update(self._task, text=f"evaluating {done}/{total}")
        elif self.due:
            self.heartbeat(f"evaluating {done}/{total}")

    def evaluated(self, step: int, metrics: dict[str, float]) -> None:
        """Shows the metrics of an evaluation."""
        if metrics:
            line = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            self.say(f"step {step}: evaluation: {line}")
