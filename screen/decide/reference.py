"""Reference set: in-distribution rows from which feature distances are measured.

In: digests, features and descriptors of rows, batch by batch. Out: the selected rows. The selection depends only on the
pixels of the rows, not on the order of the rows or on the batches.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

REFERENCE_ROWS = 10_000
"""Maximum rows in the reference set; more rows hardly improve detection (measured in benchmarks/choice.py)."""

REFERENCE_NUMBERS = 12_000_000
"""Maximum number of rows times features in the reference set.

The limit bounds the time for computing a distance, and the size of a calibration file."""

REFERENCE_SHARE = 1 / 3
"""Share of the in-distribution rows that form the reference set if no reference shards are given."""

MIN_REFERENCE_ROWS = 50
"""Minimum rows in the reference set; a smaller set is refused."""


class ReferenceSet:
    """Collects the reference set: the rows with the smallest digests.

    The digests of all added rows are also collected, to find an overlap with the in-distribution rows.

    Args:
        features: number of features of a row, F; it determines the maximum number of rows.
    """

    def __init__(self, features: int) -> None:
        self._most = min(REFERENCE_ROWS, max(MIN_REFERENCE_ROWS, REFERENCE_NUMBERS // features))
        self._kept: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._values: tuple[Floats, Floats] | None = None
        self._seen: list[NDArray[np.uint64]] = []

    def add(self, digests: NDArray[np.uint64], features: Floats, descriptors: Floats) -> None:
        """Add rows; of rows with equal images, the set keeps one.

        Args:
            digests: `[B]`, digests of the pixels.
            features: `float32 [B, F]`.
            descriptors: `float32 [B, D]`, by which near-copies are found.
        """
        self._seen.append(digests)
        joined = np.concatenate([self._kept, digests])
        added = (features, descriptors)
        values = added if self._values is None else tuple(map(np.concatenate, zip(self._values, added, strict=True)))
        self._kept, first = np.unique(joined, return_index=True)
        self._kept = self._kept[: self._most]
        self._values = (values[0][first[: self._most]], values[1][first[: self._most]])

    def all_seen(self) -> NDArray[np.uint64]:
        """The digests of all rows that were added, in the order of the calls, with repetitions."""
        return np.concatenate(self._seen) if self._seen else np.zeros(0, np.uint64)

    def close(self, share: float = 1) -> tuple[NDArray[np.uint64], Floats, Floats]:
        """Digests `[N]`, features `[N, F]` and descriptors `[N, D]` of the selected rows, by ascending digests.

        Args:
            share: maximum share of the distinct rows that are selected, 0 to 1.
        """
        if self._values is None:
            return self._kept, np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32)
        most = int(len(np.unique(self.all_seen())) * share)
        return self._kept[:most], self._values[0][:most], self._values[1][:most]
