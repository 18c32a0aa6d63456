"""Rows and passes that are run together, and how they are cut.

In: a batch, T. Out: `Rows` and `Run`s, none of a single row or a single pass: onnxruntime takes another kernel there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from screen.engine.graph.plan import EnginePlan
from screen.engine.masks import identify_rows

LEAST = 2
"""Rows, and passes, that a kernel sees at least."""


@dataclass(frozen=True)
class Run:
    """Passes `start` to `start + count - 1`; a single pass is fed twice."""

    start: int
    count: int

    @property
    def fed(self) -> int:
        """How many passes are fed."""
        return max(LEAST, self.count)


@dataclass(frozen=True)
class Rows:
    """Rows that are run together; a single row is fed twice."""

    images: NDArray[np.uint8]

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.images)

    @property
    def fed(self) -> NDArray[np.uint8]:
        """The images as they are fed."""
        return self.images if self.count >= LEAST else np.repeat(self.images, LEAST, axis=0)

    @cached_property
    def identities(self) -> list[int]:
        """A number for each row that is fed, from its pixels."""
        return identify_rows(self.fed)


def cut_passes(plan: EnginePlan, looks: Sequence[int]) -> list[list[Run]]:
    """The runs up to each look, the last of which is T; where they are cut follows from the model and T."""
    cut: list[list[Run]] = []
    for start, end in zip((0, *looks), looks, strict=False):
        counts = plan.runs(end - start)
        starts = accumulate(counts, initial=start)
        cut.append([Run(at, count) for at, count in zip(starts, counts, strict=False)])
    return cut


def cut_rows(images: NDArray[np.uint8], parts: int) -> list[NDArray[np.uint8]]:
    """At most so many slices of nearly equal size, none of a single row unless there is but one."""
    parts = max(1, min(parts, len(images) // LEAST))
    return np.array_split(images, parts)
