"""The bank: the known rows that distances are measured to.

In: digests and features of rows, batch by batch. Out: those that stay. Which these are follows from their pixels, so
that neither the order nor the cut into batches matters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

REFERENCE_ROWS = 10_000
"""Rows of the bank at most; more of them find little more (measured in benchmarks/detection.py)."""

REFERENCE_NUMBERS = 6_000_000
"""Rows times features of the bank at most: it bounds what a distance costs, and the file's size."""

REFERENCE_SHARE = 1 / 3
"""The share of the rows that make the bank where no reference is given."""

LEAST_REFERENCE_ROWS = 100
"""Fewer are no bank."""


class ReferenceSet:
    """The rows with the smallest digests, so far; all digests, to find an overlap.

    Args:
        features: F; sets how many rows are kept.
    """

    def __init__(self, features: int) -> None:
        self._most = min(REFERENCE_ROWS, max(LEAST_REFERENCE_ROWS, REFERENCE_NUMBERS // features))
        self._kept: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._features: NDArray[np.float32] | None = None
        self._seen: list[NDArray[np.uint64]] = []

    def add(self, digests: NDArray[np.uint64], features: NDArray[np.float32]) -> None:
        """Take some rows into account; equal images count once.

        Args:
            digests: `[B]`.
            features: `float32 [B, F]`.
        """
        self._seen.append(digests)
        joined = np.concatenate([self._kept, digests])
        rows = features if self._features is None else np.concatenate([self._features, features])
        self._kept, first = np.unique(joined, return_index=True)
        self._kept, self._features = self._kept[: self._most], rows[first[: self._most]]

    def all_seen(self) -> NDArray[np.uint64]:
        """The digests of all rows that were added, in order."""
        return np.concatenate(self._seen) if self._seen else np.zeros(0, np.uint64)

    def close(self, share: float = 1) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """Digests `[N]` and features `[N, F]` of the rows that stay: at most such a share of those that differ."""
        if self._features is None:
            return self._kept, np.zeros((0, 0), np.float32)
        most = int(len(np.unique(self.all_seen())) * share)
        return self._kept[:most], self._features[:most]
