"""Pick the first candidates whose images are not in the project yet.

In: `Candidates`, a ledger and a destination. Out: fetched rows; skipped rows are counted in a `QueueReport`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from screen.review.queue.fetch import FetchedRow, Fetcher
from screen.review.queue.ledger import Ledger, LedgerEntry, input_digest
from screen.review.queue.row import QueueRow
from screen.review.queue.summary import QueueReport
from screen.review.ranking import Candidates
from screen.review.results import Results, RowPosition


class Destination(Protocol):
    """The destination of a queue."""

    @property
    def project(self) -> str:
        """Name of the project in the ledger."""

    def describe(self) -> str:
        """Description for messages."""

    def find_existing(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those of `keys` whose images are already at the destination, independent of the ledger."""

    def refuse_overwrite(self) -> None:
        """Raise an error if the export would overwrite existing files; called before anything is written."""

    def export(self, rows: Iterable[QueueRow], entries: Sequence[LedgerEntry], ledger: Ledger) -> None:
        """Write the rows, and record their images in the ledger."""


class Picker:
    """Picks candidates in order until enough new images are found.

    An image must be fetched before its bytes can be compared with those of earlier images, and may then be skipped.
    Rows are therefore fetched in rounds of growing size.

    Attributes:
        seen: skipped rows, which the caller records in the ledger, so that their images are not fetched again.
    """

    def __init__(
        self, results: Results, fetcher: Fetcher, ledger: Ledger, destination: Destination, report: QueueReport
    ) -> None:
        self._inputs = [input_digest(entry) for entry in results.entries]
        self._fetcher, self._ledger, self._destination, self._report = fetcher, ledger, destination, report
        self._taken: set[bytes] = set()
        self.seen: list[LedgerEntry] = []

    def ledger_entry(self, one: FetchedRow) -> LedgerEntry:
        """The ledger entry of a fetched row."""
        return LedgerEntry(one.key, self._inputs[one.position.shard], one.position.row)

    def pick(self, candidates: Candidates, top: int | None, per_class: int | None) -> list[FetchedRow]:
        """The first candidates with new images.

        Args:
            candidates: rows in the order of review.
            top: maximum number of rows; None for no limit.
            per_class: maximum number of rows of each predicted class; None for no limit.
        """
        left = self._without_known_rows(candidates)
        classes = candidates.prediction
        picked: list[FetchedRow] = []
        counts: Counter[int] = Counter()
        width = 1
        while left and (top is None or len(picked) < top):
            asked, left = _next_round(
                left, classes, counts, None if top is None else top - len(picked), per_class, width
            )
            if not asked:
                break
            positions = {
                index: RowPosition(int(candidates.shard[index]), int(candidates.row[index])) for index in asked
            }
            found = self._fetcher.fetch(list(positions.values()))
            known = self._known([one.key for one in found.values()])
            for index in asked:
                one = found.get(positions[index])
                kind = int(classes[index])
                if one is None:
                    continue
                if one.key in known or one.key in self._taken:
                    self._report.before += one.key in known
                    self._report.same_image += one.key not in known
                    self.seen.append(self.ledger_entry(one))
                elif (top is None or len(picked) < top) and (per_class is None or counts[kind] < per_class):
                    self._taken.add(one.key)
                    counts[kind] += 1
                    picked.append(one)
            width *= 2
        return picked

    def _without_known_rows(self, candidates: Candidates) -> list[int]:
        """Indices of the candidates whose rows are not in the ledger; for the others, no image is read."""
        is_new = np.ones(len(candidates), np.bool_)
        for index, digest in enumerate(self._inputs):
            known = self._ledger.rows.get(digest)
            if known:
                in_shard = candidates.shard == index
                is_new[in_shard] = ~np.isin(candidates.row[in_shard], np.fromiter(known, np.int64, len(known)))
        self._report.before += int(np.sum(~is_new))
        return np.flatnonzero(is_new).tolist()

    def _known(self, keys: list[bytes]) -> set[bytes]:
        by_ledger = {key for key in keys if key in self._ledger.keys}
        return by_ledger | self._destination.find_existing([key for key in dict.fromkeys(keys) if key not in by_ledger])


def _next_round(
    left: list[int], classes: Any, counts: Counter[int], missing: int | None, per_class: int | None, width: int
) -> tuple[list[int], list[int]]:
    """Candidates to fetch in this round, and candidates for later rounds."""
    if per_class is None:
        cut = len(left) if missing is None else missing * width
        return left[:cut], left[cut:]
    asked: list[int] = []
    rest: list[int] = []
    provisional: Counter[int] = Counter()
    for index in left:
        kind = int(classes[index])
        room = width * (per_class - counts[kind])
        if provisional[kind] < room and (missing is None or len(asked) < missing * width):
            provisional[kind] += 1
            asked.append(index)
        elif per_class > counts[kind]:
            rest.append(index)
    return asked, rest
