"""Reference set: in-distribution rows from which feature distances are measured.

In: digests and features of rows, batch by batch. Out: the selected rows. The selection depends on the rows' pixels
alone, not on their order or batches.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

REFERENCE_ROWS = 10_000
"""Maximum rows in the reference set; more hardly improve detection (measured in benchmarks/detection.py)."""

REFERENCE_NUMBERS = 6_000_000
"""Maximum rows x features in the reference set; it bounds the cost of a distance and the size of the file."""

REFERENCE_SHARE = 1 / 3
"""Share of the in-distribution rows that form the reference set if no reference shards are given."""

MIN_REFERENCE_ROWS = 100
"""Minimum rows in the reference set."""


class ReferenceSet:
    """Collects the rows with the smallest digests, and the digests of all rows to detect an overlap.

    Args:
        features: F; with it the maximum number of rows is chosen.
    """

    def __init__(self, features: int) -> None:
        self._most = min(REFERENCE_ROWS, max(MIN_REFERENCE_ROWS, REFERENCE_NUMBERS // features))
        self._kept: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._features: NDArray[np.float32] | None = None
        self._seen: list[NDArray[np.uint64]] = []

    def add(self, digests: NDArray[np.uint64], features: NDArray[np.float32]) -> None:
        """Add rows; equal images count once.

        Args:
            digests: `[B]`, digests of the pixels.
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
        """Digests `[N]` and features `[N, F]` of the selected rows.

        Args:
            share: maximum share of the distinct rows to select.
        """
        if self._features is None:
            return self._kept, np.zeros((0, 0), np.float32)
        most = int(len(np.unique(self.all_seen())) * share)
        return self._kept[:most], self._features[:most]
