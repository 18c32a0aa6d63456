"""Pick the first rows that are new, by the bytes of their images.

In: `Candidates`, a ledger and a destination. Out: fetched rows; counts of the others go to a `QueueReport`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from screen.review.queue.fetch import Fetched, Fetcher
from screen.review.queue.ledger import Ledger, LedgerEntry, input_digest
from screen.review.queue.row import QueueRow
from screen.review.queue.summary import QueueReport
from screen.review.ranking import Candidates
from screen.review.results import Results, RowPosition


class Destination(Protocol):
    """Where a queue goes."""

    @property
    def project(self) -> str:
        """Whose ledger counts."""

    def describe(self) -> str:
        """For people."""

    def has(self, keys: Sequence[bytes]) -> set[bytes]:
        """Which of these images are there already, whatever the ledger says."""

    def refuse_if_there(self) -> None:
        """Refuse, before anything is written, what would overwrite something."""

    def hand_on(self, rows: Iterable[QueueRow], handed: Sequence[LedgerEntry], ledger: Ledger) -> None:
        """Take the rows, and write them into the ledger."""


class Picker:
    """Goes through candidates in their order until there are enough that are new.

    Only an image's bytes say whether it is new, so some are fetched for nothing; each round fetches more.

    Attributes:
        seen: rows whose image turned out to be handed on, for the ledger: they need not be fetched again.
    """

    def __init__(
        self, results: Results, fetcher: Fetcher, ledger: Ledger, destination: Destination, report: QueueReport
    ) -> None:
        self._inputs = [input_digest(entry) for entry in results.entries]
        self._fetcher, self._ledger, self._destination, self._report = fetcher, ledger, destination, report
        self._taken: set[bytes] = set()
        self.seen: list[LedgerEntry] = []

    def handed(self, one: Fetched) -> LedgerEntry:
        """A row as the ledger has it."""
        return LedgerEntry(one.key, self._inputs[one.place.shard], one.place.row)

    def pick(self, candidates: Candidates, top: int | None, per_class: int | None) -> list[Fetched]:
        """The first new ones."""
        left = self._not_before(candidates)
        classes = candidates.prediction
        picked: list[Fetched] = []
        counts: Counter[int] = Counter()
        width = 1
        while left and (top is None or len(picked) < top):
            asked, left = _next_round(
                left, classes, counts, None if top is None else top - len(picked), per_class, width
            )
            if not asked:
                break
            places = {index: RowPosition(int(candidates.shard[index]), int(candidates.row[index])) for index in asked}
            found = self._fetcher.fetch(list(places.values()))
            there = self._known([one.key for one in found.values()])
            for index in asked:
                one = found.get(places[index])
                kind = int(classes[index])
                if one is None:
                    continue
                if one.key in there or one.key in self._taken:
                    self._report.before += one.key in there
                    self._report.same_image += one.key not in there
                    self.seen.append(self.handed(one))
                elif (top is None or len(picked) < top) and (per_class is None or counts[kind] < per_class):
                    self._taken.add(one.key)
                    counts[kind] += 1
                    picked.append(one)
            width *= 2
        return picked

    def _not_before(self, candidates: Candidates) -> list[int]:
        """Those whose very row the ledger does not have: their images need not be read again."""
        is_new = np.ones(len(candidates), np.bool_)
        for index, digest in enumerate(self._inputs):
            known = self._ledger.rows.get(digest)
            if known:
                here = candidates.shard == index
                is_new[here] = ~np.isin(candidates.row[here], np.fromiter(known, np.int64, len(known)))
        self._report.before += int(np.sum(~is_new))
        return np.flatnonzero(is_new).tolist()

    def _known(self, keys: list[bytes]) -> set[bytes]:
        by_ledger = {key for key in keys if key in self._ledger.keys}
        return by_ledger | self._destination.has([key for key in dict.fromkeys(keys) if key not in by_ledger])


def _next_round(
    left: list[int], classes: Any, counts: Counter[int], missing: int | None, per_class: int | None, width: int
) -> tuple[list[int], list[int]]:
    """Candidates to fetch now, and those left for later rounds."""
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
