"""What a person sees of long work, and how they stop it."""

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import jax
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from bert_jax.runs import layout


class Stop:
    """Turns the first SIGINT or SIGTERM into a request to finish the step and save; a second one ends at once."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._request)
        except ValueError:  # not the main thread: whoever started it decides when it ends
            pass
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(number, signal.SIG_DFL)
        print("Finishing this step, then saving; once more to end at once", file=sys.stderr)


class Trace:
    """A trace by `jax.profiler` of the steps from `steps[0]` to `steps[1]`, in `folder`/profile; of none for None."""

    def __init__(self, folder: Path, steps: tuple[int, int] | None):
        self._folder = folder / layout.PROFILE
        self._first, self._last = steps or (1, 0)
        self._running = False

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *_: object) -> None:
        if self._running:
            jax.profiler.stop_trace()

    def before(self, step: int) -> None:
        """Begins the trace if `step`, which is about to be taken, is in it."""
        if not self._running and self._first <= step <= self._last:
            self._running = True
            jax.profiler.start_trace(str(self._folder))

    def after(self, step: int, state: Any) -> None:
        """Ends the trace if `step`, which led to `state`, is its last."""
        if self._running and step >= self._last:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._running = False


# Seconds between two signs of life while steps are slow: of a bar in a terminal, and of lines.
BAR_EVERY, LINE_EVERY = 2.0, 60.0


class Progress:
    """A bar where there is a terminal, a line now and then where there is none."""

    def __init__(self, start: int, steps: int, say: Callable[[str], None]):
        self._say = say
        self._steps = steps
        self._lap_began = self._shown = time.monotonic()
        self._tokens = self._slots = self._flops = 0
        self._busy = 0.0
        self._text = ""
        columns = (
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
        )
        self._bar = Bar(*columns) if sys.stdout.isatty() else None
        if self._bar:
            self._task = self._bar.add_task("train", total=steps, completed=start, text="compiling")

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, step: int, tokens: int, slots: int, flops: int) -> None:
        """Notes that `step` is done, with so many tokens in so many positions and so many operations."""
        self._tokens += tokens
        self._slots += slots
        self._flops += flops
        if self._bar:
            self._bar.update(self._task, completed=step, text=self._text or "training")

    @property
    def due(self) -> bool:
        """Whether nothing has been shown for so long that a person would wonder."""
        return time.monotonic() - self._shown >= (BAR_EVERY if self._bar else LINE_EVERY)

    def sign(self, text: str) -> None:
        """Shows how far it is, where no bar does."""
        self._shown = time.monotonic()
        if not self._bar:
            self._say(text)

    def lap(self) -> float:
        """Seconds since the last call: time spent on steps."""
        now = time.monotonic()
        seconds, self._lap_began = now - self._lap_began, now
        self._busy += seconds
        return seconds

    def speed(self, peak_flops: float) -> dict[str, float]:
        """Throughput since the last call: real tokens a second, the share of positions that were padding, and MFU.

        MFU, model FLOPs utilization, is the share of `peak_flops` (a second) that `flops.training_step` accounts for.
        """
        busy = max(self._busy, 1e-9)
        speed = {
            "tokens_per_second": round(self._tokens / busy, 1),
            "padding_share": round(1 - self._tokens / max(self._slots, 1), 4),
            "mfu": round(self._flops / busy / peak_flops, 4),
        }
        self._tokens = self._slots = self._flops = 0
        self._busy = 0.0
        self._text = f"{speed['tokens_per_second']:,.0f} tokens/s, {speed['padding_share']:.0%} padding"
        return speed

    def show(self, step: int, figures: dict[str, float]) -> None:
        """Shows the figures of the last steps."""
        self._shown = time.monotonic()
        self._text = f"loss {figures['loss']:.3f}, {self._text}"
        if not self._bar:
            self._say(f"step {step}/{self._steps}: {self._text}")

    def evaluating(self, done: int, total: int) -> None:
        """Shows how far an evaluation is."""
        if self._bar:
            self._bar.update(self._task, text=f"evaluating {done}/{total}")
        elif self.due:
            self.sign(f"evaluating {done}/{total}")

    def evaluated(self, step: int, metrics: dict[str, float]) -> None:
        """Shows what an evaluation found, and keeps its time out of the training speed."""
        self._lap_began = time.monotonic()
        if metrics:
            line = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            (self._bar.console.print if self._bar else self._say)(f"step {step}: evaluation: {line}")
