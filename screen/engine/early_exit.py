"""Early exit: test at interim looks whether the flag of a row is decided, and stop the passes of decided rows.

In: batches `uint8 [B, H, W, C]` and the entropy above which each row is flagged (the row's limit). Out: a
`PassSummary` for each batch, in order, with statistics of the completed passes of each row.

All rows complete the passes before the first interim look. Session runs with few rows take more time per row than
session runs with many rows, so after the first look, the undecided rows of several batches run together. The look at
which a row exits depends on that row alone, not on its batch or on the order of the batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from export.errors import OutOfMemory
from screen.engine.boundary import Boundary
from screen.engine.distance import FeatureDistances
from screen.engine.interim import entropy_error, find_decided_rows, plan_interim_looks
from screen.engine.passes import PassEngine
from screen.engine.runs import Run, cut_passes
from screen.engine.statistics import PassSummary, RunStatistics, concatenate, summarize
from screen.engine.workers import WorkerPool

CONCURRENT_BATCHES = 2
"""Maximum number of batches that run to the first interim look at the same time, if there are as many workers."""

MAX_WAITING_BATCHES, MAX_WAITING_BYTES = 8, 64 * 2**20
"""Maximum number of batches whose undecided rows wait for further passes, and maximum bytes of their images.
`oodscreen run` stops and reports progress only between completed batches, so batches must not wait long."""

EntropyLimits = Callable[[int, FeatureDistances], NDArray[np.float64]]
"""Callback: takes the number of rows B and their distances, and returns the predictive entropy above which each row is
flagged, `[B]`, nats."""


@dataclass(frozen=True)
class _FirstLook:
    """Result of the first interim look for some rows.

    Attributes:
        summary: summary of the decided rows.
        decided: `[B]`, whether each row is decided.
        distances: distances of all rows.
        remaining: boundary of the undecided rows; None if there are none.
        statistics: statistics of the undecided rows over the passes so far; not used if all rows are decided.
        limit: entropy limits of the undecided rows.
    """

    summary: PassSummary
    decided: NDArray[np.bool_]
    distances: FeatureDistances
    remaining: Boundary | None
    statistics: RunStatistics
    limit: NDArray[np.float64]


@dataclass(frozen=True)
class _Batch:
    """A batch after its first interim look, in pieces that fit into memory.

    Attributes:
        pieces: the pieces, in row order.
        bytes: size of the batch's images, in bytes.
    """

    pieces: list[_FirstLook]
    bytes: int

    @property
    def rows_remaining(self) -> int:
        """Number of undecided rows."""
        return sum(len(piece.limit) for piece in self.pieces)

    def complete(self, rest: PassSummary | None) -> PassSummary:
        """Summary of all rows of the batch, in row order.

        Args:
            rest: summary of the rows that were undecided at the first look, in row order; None if there were none.
        """
        decided = np.concatenate([piece.decided for piece in self.pieces])
        summaries = [*(piece.summary for piece in self.pieces), *([] if rest is None else [rest])]
        positions = np.concatenate([np.flatnonzero(decided), np.flatnonzero(~decided)])
        summary = concatenate(summaries).take(np.argsort(positions))
        return replace(summary, **vars(FeatureDistances.concatenate([piece.distances for piece in self.pieces])))


class EarlyExitEngine(PassEngine):
    """A `PassEngine` that stops the passes of a row once its flag is decided; the arguments are as in `PassEngine`."""

    # Two copies for each concurrent batch (all rows, and the undecided rows), and two for the waiting rows of earlier
    # batches (separate, and joined), which fill about one batch.
    boundary_copies = 2 * CONCURRENT_BATCHES + 2

    @cached_property
    def _interim_looks(self) -> tuple[int, ...]:
        """Numbers of completed passes at the interim looks; the last is T."""
        return plan_interim_looks(self.passes)

    @cached_property
    def _runs_by_look(self) -> list[list[Run]]:
        """For each interim look, the session runs of the passes since the previous look."""
        return cut_passes(self.plan, self._interim_looks)

    def summarize_early_exit(
        self, batches: Iterable[NDArray[np.uint8] | None], limits: EntropyLimits
    ) -> Iterator[PassSummary | None]:
        """Yield a summary of each batch, with the statistics of each row's passes until the early exit of the row.

        Args:
            batches: each `uint8 [B, H, W, C]`, B at least 1; None stands for a batch without rows.
            limits: callback for entropy limits, called for each batch, or for each piece of a batch that does not
                fit into memory.

        Yields:
            A summary for each batch and None for each None, in order. Up to
            `MAX_WAITING_BATCHES + CONCURRENT_BATCHES - 1` batches are read before the first summary is yielded.

        Raises:
            OutOfMemory: two rows do not fit into memory.
        """
        held: list[_Batch | None] = []
        for batch in self._run_first_looks(batches, limits):
            held.append(batch)
            waiting = [one for one in held if one is not None]
            rows_remaining = sum(one.rows_remaining for one in waiting)
            if (
                not rows_remaining
                or rows_remaining >= self.rows_per_run
                or len(held) == MAX_WAITING_BATCHES
                or sum(one.bytes for one in waiting) >= MAX_WAITING_BYTES
            ):
                yield from self._finish_batches(held)
                held = []
        yield from self._finish_batches(held)

    def _run_first_looks(
        self, batches: Iterable[NDArray[np.uint8] | None], limits: EntropyLimits
    ) -> Generator[_Batch | None, None, None]:
        """Yield the batches after their first interim look, in order.

        Several batches run at the same time, so that workers stay busy while the results of one batch are joined. When
        memory runs out, batches run one at a time; a batch that does not fit even then runs in smaller pieces.
        """

        def run_piece(images: NDArray[np.uint8]) -> _FirstLook:
            return self._run_first_look(images, limits)

        def run_batch(images: NDArray[np.uint8] | None) -> _Batch | None:
            if images is None:
                return None
            return _Batch([run_piece(piece) for piece in self._cut_to_fit(images)], images.nbytes)

        with WorkerPool(CONCURRENT_BATCHES, "batches") as pool:
            concurrent = min(CONCURRENT_BATCHES, self._workers)
            started: deque[tuple[NDArray[np.uint8] | None, Future[_Batch | None]]] = deque()

            def next_done() -> _Batch | None:
                nonlocal concurrent
                pool.require_own_process()
                images, future = started.popleft()
                try:
                    return future.result()
                except (OutOfMemory, MemoryError):
                    assert images is not None  # noqa: S101  nothing is run for None
                    concurrent = 1
                    wait([other for _, other in started])
                    return _Batch(self._run_in_pieces(images, run_piece), images.nbytes)

            for images in batches:
                started.append((images, pool.submit(run_batch, images)))
                while len(started) >= concurrent:
                    yield next_done()
            while started:
                yield next_done()

    def _finish_batches(self, held: list[_Batch | None]) -> Iterator[PassSummary | None]:
        """Run the undecided rows of all batches together until all rows are decided; yield the batches' summaries."""
        pieces = [piece for batch in held if batch is not None for piece in batch.pieces if piece.remaining is not None]
        rest = None
        if pieces:
            boundary = self._trunk.join([piece.remaining for piece in pieces if piece.remaining is not None])
            statistics = RunStatistics.join([piece.statistics for piece in pieces])
            rest = self._run_later_looks(boundary, statistics, np.concatenate([piece.limit for piece in pieces]))
        start = 0
        for batch in held:
            if batch is None:
                yield None
                continue
            end = start + batch.rows_remaining
            yield batch.complete(None if rest is None or start == end else rest.take(np.arange(start, end)))
            start = end

    def _run_first_look(self, images: NDArray[np.uint8], limits: EntropyLimits) -> _FirstLook:
        """Run the trunk and the passes up to the first interim look, for rows that fit into memory."""
        boundary = self._trunk.run(images)
        distances = self._measure_distances(boundary)
        limit = limits(len(images), distances)
        summary, statistics, decided = self._run_to_look(boundary, None, limit, 0)
        if decided.all():
            return _FirstLook(summary, decided, distances, None, statistics, limit[:0])
        remaining = self._trunk.take(boundary, np.flatnonzero(~decided))
        return _FirstLook(
            summary.take(decided), decided, distances, remaining, statistics.take(~decided), limit[~decided]
        )

    def _run_later_looks(
        self, boundary: Boundary, statistics: RunStatistics, limit: NDArray[np.float64]
    ) -> PassSummary:
        """Run the passes after the first interim look until each row is decided; the summary is in row order."""
        remaining = np.arange(boundary.rows.count)
        summaries: list[PassSummary] = []
        positions: list[NDArray[np.int64]] = []
        for look in range(1, len(self._interim_looks)):
            summary, statistics, decided = self._run_to_look(boundary, statistics, limit[remaining], look)
            summaries.append(summary.take(decided))
            positions.append(remaining[decided])
            if decided.all():
                break
            boundary = self._trunk.take(boundary, np.flatnonzero(~decided))
            statistics, remaining = statistics.take(~decided), remaining[~decided]
        return concatenate(summaries).take(np.argsort(np.concatenate(positions)))

    def _run_to_look(
        self, boundary: Boundary, previous: RunStatistics | None, limit: NDArray[np.float64], look: int
    ) -> tuple[PassSummary, RunStatistics, NDArray[np.bool_]]:
        """Run the passes between the previous interim look and this look, and test which rows are decided.

        Args:
            boundary: boundary of the undecided rows.
            previous: statistics of these rows up to the previous look; None for the first look.
            limit: entropy limits of these rows, `[B]`.
            look: index of the interim look.

        Returns:
            Summary and statistics of all passes so far, and whether each row is decided, `[B]`; at the last look, every
            row is decided.
        """
        statistics = self._reduce_all(boundary, self._runs_by_look[look])
        if previous is not None:
            statistics = previous.merge(statistics)
        summary = summarize(statistics, self.plan.contract.task)
        completed = self._interim_looks[look]
        entropy, information = summary.entropy, summary.mutual_information
        if completed == self.passes or entropy is None or information is None:
            return summary, statistics, np.ones(len(limit), np.bool_)
        error = entropy_error(statistics, self.passes)
        return summary, statistics, find_decided_rows(entropy, information, error, limit, completed, self.passes)

    def _measure_distances(self, boundary: Boundary) -> FeatureDistances:
        """Distances of the rows of a boundary from the reference set."""
        if self._meter is None or boundary.features is None:
            return FeatureDistances()
        return self._meter.measure(boundary.features)
