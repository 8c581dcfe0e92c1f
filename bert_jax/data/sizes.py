"""How many rows the batch of each step has."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np


@dataclass(frozen=True)
class BatchSizes:
    """Sizes of batches that change at some steps. A size, and the rows before a step, are functions of the step."""

    first_steps: tuple[int, ...]  # of each stage; the first is 0
    sizes: tuple[int, ...]  # rows of all hosts in a step of each stage

    @classmethod
    def of(cls, size: "int | BatchSizes") -> Self:
        """Returns `size` itself, or the sizes that are the same number at all steps."""
        return cls((0,), (size,)) if isinstance(size, int) else cls(size.first_steps, size.sizes)

    @classmethod
    def scheduled(cls, schedule: Sequence[tuple[float, int]], steps: int) -> Self:
        """Returns the sizes of (share of the steps, size) in turn. A stage without a step is left out."""
        ends = np.rint(np.cumsum([0.0, *(share for share, _ in schedule)]) * steps).astype(int).tolist()
        stages = [(ends[i], size) for i, (_, size) in enumerate(schedule) if ends[i] < ends[i + 1]]
        return cls(tuple(first for first, _ in stages), tuple(size for _, size in stages))

    def at(self, step: int) -> int:
        """Returns the rows of batch `step`."""
        return self.sizes[np.searchsorted(self.first_steps, step, side="right") - 1]

    def before(self, step: int) -> int:
        """Returns the rows of all batches before `step`."""
        ends = (*self.first_steps[1:], step)
        return sum(
            max(0, min(end, step) - first) * size
            for first, end, size in zip(self.first_steps, ends, self.sizes, strict=True)
        )
