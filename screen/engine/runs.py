"""Group rows and passes into session runs.

In: the images of a batch, and T. Out: `Rows` and `Run`s. A session run has at least two rows and two passes: for a
single row or pass, onnxruntime uses another kernel, which rounds differently.
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

MIN_FED = 2
"""Minimum number of rows, and of passes, in a session run."""


@dataclass(frozen=True)
class Run:
    """One session run of the head: passes `start` to `start + count - 1`. A single pass is computed twice."""

    start: int
    count: int

    @property
    def fed(self) -> int:
        """Number of passes in the session's inputs, at least `MIN_FED`."""
        return max(MIN_FED, self.count)


@dataclass(frozen=True)
class Rows:
    """Rows of one session run; a single row is computed twice.

    Attributes:
        images: `uint8 [B, H, W, C]`.
        padded: minimum number of rows in the session's inputs; if it is larger than B, the last row is repeated.
    """

    images: NDArray[np.uint8]
    padded: int = MIN_FED

    @property
    def count(self) -> int:
        """B, the number of rows."""
        return len(self.images)

    @property
    def fed(self) -> NDArray[np.uint8]:
        """The images in the session's input: `images`, then the last image as often as needed."""
        return self.images if self.count >= self.padded else self.images[self.positions]

    @property
    def positions(self) -> NDArray[np.int64]:
        """Position in `images` of each row of `fed`."""
        return np.minimum(np.arange(max(self.count, self.padded)), self.count - 1)

    @cached_property
    def identities(self) -> list[int]:
        """Digest of the pixels of each row of `fed`."""
        return identify_rows(self.fed)


def cut_passes(plan: EnginePlan, looks: Sequence[int]) -> list[list[Run]]:
    """For each interim look, the session runs since the previous look; they depend on the model and the looks alone.

    Args:
        plan: plan of the model.
        looks: numbers of completed passes at the interim looks, ascending; the last is T.
    """
    runs: list[list[Run]] = []
    for start, end in zip((0, *looks), looks, strict=False):
        counts = plan.runs(end - start)
        starts = accumulate(counts, initial=start)
        runs.append([Run(first, count) for first, count in zip(starts, counts, strict=False)])
    return runs


def cut_rows(images: NDArray[np.uint8], slices: int) -> list[NDArray[np.uint8]]:
    """Cut a batch into at most `slices` slices of nearly equal size; no slice has a single row unless B is 1."""
    return np.array_split(images, max(1, min(slices, len(images) // MIN_FED)))
