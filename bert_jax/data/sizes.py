"""What changes at some steps of a run: schedules, and how many rows the batch of each step has."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def stages(schedule: Sequence[tuple[float, int]], steps: int) -> list[tuple[int, int]]:
    """Returns (first step, value) of each stage of a schedule, (share of the steps, value) in turn."""
    starts = np.rint(np.cumsum([0.0, *(share for share, _ in schedule)]) * steps).astype(int).tolist()
    return [(start, value) for start, (_, value) in zip(starts, schedule, strict=False)]


@dataclass(frozen=True)
class BatchSizes:
    """Sizes of batches that change at some steps. A size, and the rows before a step, are functions of the step."""

    stages: tuple[tuple[int, int], ...]  # (first step, rows of all hosts in a step) of each; the first step is 0

    @classmethod
    def of(cls, size: "int | BatchSizes") -> "BatchSizes":
        """Returns `size` itself, or the sizes that are the same number at all steps."""
        return cls(((0, size),)) if isinstance(size, int) else size

    @property
    def every(self) -> tuple[int, ...]:
        """The size of each stage."""
        return tuple(size for _, size in self.stages)

    def at(self, step: int) -> int:
        """Returns the rows of batch `step`."""
        return next(size for first, size in reversed(self.stages) if first <= step)

    def before(self, step: int) -> int:
        """Returns the rows of all batches before `step`."""
        ends = [*(first for first, _ in self.stages[1:]), step]
        return sum(max(0, min(end, step) - first) * size for end, (first, size) in zip(ends, self.stages, strict=True))
