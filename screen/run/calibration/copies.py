"""Count the copies among in-distribution rows, and refuse too many near-copies of reference images.

In: decoded batches, and the search for near-copies. Out: the rows to leave out, notices, and counts for the report.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from export.errors import InputRefused
from screen.decide.copies import MAX_SHARE, WARNING_SHARE, NearCopies, describe_images
from screen.input.decode import ImageBatch

_NAMED = 5
"""Maximum number of ids in a message."""


class CopyCounter:
    """Counts the copies among the rows of one calibration.

    Args:
        total: number of in-distribution rows.
        notify: callback for one-line notices.

    Attributes:
        exact: number of rows that were left out because their images are equal to those of other rows.
        near: ids of the rows that were left out because their images are near-copies of reference images.
    """

    def __init__(self, total: int, notify: Callable[[str], None]) -> None:
        self._total, self._notify = total, notify
        self.exact = 0
        self.near: list[str] = []

    def find_near_copies(
        self, batch: ImageBatch, near_copies: NearCopies, wanted: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Which readable rows of a batch are near-copies of reference images, `[B]`.

        Args:
            batch: the rows.
            near_copies: the search for near-copies.
            wanted: `[B]`, whether to compare each row; False for rows in the reference set, because
                each of them would be found as a near-copy of itself.

        Raises:
            InputRefused: too many rows of the calibration are near-copies.
        """
        found = wanted.copy()
        found[wanted] = near_copies.find(describe_images(batch.images[wanted]))
        ids = np.array([id_ for piece in batch.pieces for id_ in piece.ids], dtype=object)[batch.readable]
        self.near += ids[found].tolist()
        if len(self.near) > MAX_SHARE * self._total:
            raise InputRefused(
                f"At least {len(self.near)} of {self._total} in-distribution rows are near-copies of reference images "
                f"(the same image, compressed again or a few grey levels apart): {', '.join(self.near[:_NAMED])}.",
                wanted=f"near-copies in at most {MAX_SHARE:.0%} of the in-distribution rows; with more near-copies, "
                "runs with this calibration would flag a larger share of rows than the target rate",
                next_step="remove near-copies from IN_DISTRIBUTION or from --reference, or give frames of other "
                "videos or images of other days as --reference",
            )
        return found

    def count(self, readable: int, distinct: int) -> None:
        """Count the exact copies, and log notices of exact copies and near-copies.

        Args:
            readable: number of rows that could be scored.
            distinct: number of used rows; their images are distinct.
        """
        self.exact = readable - distinct - len(self.near)
        if self.exact > WARNING_SHARE * readable:
            self._notify(
                f"{self.exact} of {readable} rows are exact copies of other rows and were left out; the target rate "
                "applies to distinct images; with repeated images, the flag rate can be different"
            )
        if self.near:
            self._notify(
                f"{len(self.near)} row(s) are near-copies of reference images and were left out: "
                f"{', '.join(self.near[:_NAMED])}"
            )
