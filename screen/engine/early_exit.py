"""Run passes until a row's decision is settled: all rows up to the first look, then those that are left.

In: batches `uint8 [B, H, W, C]`, and for each row the entropy above which it is flagged. Out: a `PassSummary` for
each batch, in order, of the passes that each row had.

A pass costs more than its rows where these are few, so rows that stay are run together with those of later
batches. When a row leaves follows from the row alone: neither batches nor their order matter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from export.errors import OutOfMemory
from screen.engine.boundary import Boundary
from screen.engine.interim import entropy_error, find_decided, plan_looks
from screen.engine.passes import PassEngine
from screen.engine.runs import Rows, Run, cut_passes
from screen.engine.statistics import PassSummary, RunStatistics, concatenate, summarize

BATCHES = 2
"""Batches that are looked at first at a time, where there are as many workers."""

HELD_BATCHES, HELD_BYTES = 8, 64 * 2**20
"""Batches that wait for their rows, at most, and their images: a run stops between batches, and tells how far it is."""

Limits = Callable[[int, NDArray[np.float64] | None], NDArray[np.float64]]
"""From the number of rows B and their `feature_distance` `[B]` to the entropy above which each is flagged, `[B]`."""


@dataclass(frozen=True)
class _FirstLook:
    """Some rows after the first look.

    Attributes:
        summary: of those that are settled.
        settled: `[B]`.
        distance: `[B]`, `feature_distance`.
        left: the boundary of the others; None where there are none.
        so_far: the others' statistics.
        limit: the entropy above which each of the others is flagged.
    """

    summary: PassSummary
    settled: NDArray[np.bool_]
    distance: NDArray[np.float64] | None
    left: Boundary | None
    so_far: RunStatistics
    limit: NDArray[np.float64]


@dataclass(frozen=True)
class _Batch:
    """A batch whose rows have all been looked at once, in pieces that fitted into memory."""

    looks: list[_FirstLook]
    size: int

    @property
    def rows_left(self) -> int:
        """How many rows are not settled."""
        return sum(len(look.limit) for look in self.looks)

    def complete(self, rest: PassSummary | None) -> PassSummary:
        """The summary of all rows in their order.

        Args:
            rest: of those that were not settled, in their order.
        """
        settled = np.concatenate([look.settled for look in self.looks])
        summaries = [*(look.summary for look in self.looks), *([] if rest is None else [rest])]
        places = np.concatenate([np.flatnonzero(settled), np.flatnonzero(~settled)])
        summary = concatenate(summaries).take(np.argsort(places))
        known = [look.distance for look in self.looks if look.distance is not None]
        return replace(summary, feature_distance=np.concatenate(known) if known else None)


class EarlyExitEngine(PassEngine):
    """A `PassEngine` whose rows leave when their decision is settled; takes the same arguments."""

    # The whole of each and the rows that stay of it; about one more of those that wait, apart and joined.
    boundaries = 2 * BATCHES + 2

    @cached_property
    def _looks(self) -> tuple[int, ...]:
        """After how many passes rows are looked at."""
        return plan_looks(self.passes)

    @cached_property
    def _runs_to_look(self) -> list[list[Run]]:
        """The runs of passes up to each look."""
        return cut_passes(self.plan, self._looks)

    def summarize_early_exit(
        self, batches: Iterable[NDArray[np.uint8] | None], limits: Limits
    ) -> Iterator[PassSummary | None]:
        """What the passes say that each row had until its decision was settled.

        Args:
            batches: each `uint8 [B, H, W, C]`, B at least 1; or None, which stands for a batch of no rows.
            limits: the entropy above which each row of a batch, or of a part of it, is flagged.

        Yields:
            A summary for each batch, None for None, in order; some late, when so many others were taken.

        Raises:
            OutOfMemory: not even two rows fit.
        """
        held: list[_Batch | None] = []
        for looked_at in self._look_ahead(batches, limits):
            held.append(looked_at)
            waiting = [batch for batch in held if batch is not None]
            rows_left = sum(batch.rows_left for batch in waiting)
            if (
                not rows_left
                or rows_left >= self.rows_per_run
                or len(held) == HELD_BATCHES
                or sum(batch.size for batch in waiting) >= HELD_BYTES
            ):
                yield from self._release(held)
                held = []
        yield from self._release(held)

    def _look_ahead(
        self, batches: Iterable[NDArray[np.uint8] | None], limits: Limits
    ) -> Generator[_Batch | None, None, None]:
        """The batches after the first look, in order; some at a time, so that workers wait for no one's joins.

        Where memory ran out for two, they go on one at a time, and only then in smaller pieces.
        """

        def look(images: NDArray[np.uint8]) -> _FirstLook:
            return self._look_first(images, limits)

        def take(images: NDArray[np.uint8] | None) -> _Batch | None:
            return None if images is None else _Batch([look(some) for some in self._cut_to_fit(images)], images.nbytes)

        with ThreadPoolExecutor(BATCHES, thread_name_prefix="batches") as pool:
            at_once = min(BATCHES, self._workers)
            started: deque[tuple[NDArray[np.uint8] | None, Future[_Batch | None]]] = deque()

            def next_done() -> _Batch | None:
                nonlocal at_once
                images, future = started.popleft()
                try:
                    return future.result()
                except (OutOfMemory, MemoryError):
                    assert images is not None  # noqa: S101  nothing is run for None
                    at_once = 1
                    wait([other for _, other in started])
                    return _Batch(self._in_pieces(images, look), images.nbytes)

            for images in batches:
                started.append((images, pool.submit(take, images)))
                while len(started) >= at_once:
                    yield next_done()
            while started:
                yield next_done()

    def _release(self, held: list[_Batch | None]) -> Iterator[PassSummary | None]:
        """Run the rows that are left of all batches to their end, together."""
        unsettled = [look for batch in held if batch is not None for look in batch.looks if look.left is not None]
        rest = None
        if unsettled:
            left = self._trunk.join([look.left for look in unsettled if look.left is not None])
            so_far = RunStatistics.join([look.so_far for look in unsettled])
            rest = self._settle(left, so_far, np.concatenate([look.limit for look in unsettled]))
        start = 0
        for batch in held:
            if batch is None:
                yield None
                continue
            end = start + batch.rows_left
            yield batch.complete(None if rest is None or start == end else rest.take(np.arange(start, end)))
            start = end

    def _look_first(self, images: NDArray[np.uint8], limits: Limits) -> _FirstLook:
        """Rows that fit: their trunk, and the passes up to the first look."""
        boundary = self._trunk.run(Rows(images))
        distance = self._measure(boundary)
        limit = limits(len(images), distance)
        summary, so_far, settled = self._look(boundary, None, limit, 0)
        if settled.all():
            return _FirstLook(summary, settled, distance, None, so_far, limit[:0])
        left = self._trunk.take(boundary, np.flatnonzero(~settled))
        return _FirstLook(summary.take(settled), settled, distance, left, so_far.take(~settled), limit[~settled])

    def _settle(self, boundary: Boundary, so_far: RunStatistics, limit: NDArray[np.float64]) -> PassSummary:
        """From the second look on."""
        left = np.arange(boundary.rows.count)
        summaries: list[PassSummary] = []
        places: list[NDArray[np.int64]] = []
        for index in range(1, len(self._looks)):
            summary, so_far, settled = self._look(boundary, so_far, limit[left], index)
            summaries.append(summary.take(settled))
            places.append(left[settled])
            if settled.all():
                break
            boundary = self._trunk.take(boundary, np.flatnonzero(~settled))
            so_far, left = so_far.take(~settled), left[~settled]
        return concatenate(summaries).take(np.argsort(np.concatenate(places)))

    def _look(
        self, boundary: Boundary, so_far: RunStatistics | None, limit: NDArray[np.float64], index: int
    ) -> tuple[PassSummary, RunStatistics, NDArray[np.bool_]]:
        """The passes up to a look, what all so far say, and which rows are settled by it; the last settles all."""
        statistics = self._run_passes(boundary, self._runs_to_look[index])
        so_far = statistics if so_far is None else so_far.merge(statistics)
        summary = summarize(so_far, self.plan.contract.output_kind)
        so_many = self._looks[index]
        entropy, information = summary.entropy, summary.mutual_information
        if so_many == self.passes or entropy is None or information is None:
            return summary, so_far, np.ones(len(limit), np.bool_)
        error = entropy_error(so_far, self.passes)
        return summary, so_far, find_decided(entropy, information, error, limit, so_many, self.passes)

    def _run_passes(self, boundary: Boundary, runs: list[Run]) -> RunStatistics:
        """Some runs of passes over rows in pieces that fit, at least as many tasks as there are workers."""
        pieces = max(-(-self._workers // len(runs)), -(-boundary.rows.count // self.rows_per_run))
        return self._reduce_all(self._trunk.share_out(boundary, pieces), runs)

    def _measure(self, boundary: Boundary) -> NDArray[np.float64] | None:
        """How far the features are from known ones, `[B]`."""
        if self._meter is None or boundary.features is None:
            return None
        return self._meter.measure(boundary.features)
