"""Run T passes over a batch of images: the trunk once, the head in session runs of P passes.

In: `uint8 [B, H, W, C]`. Out: a `PassSummary` of the B rows, or the raw passes.

On a CPU, a row's results are bitwise identical in every batch and for any number of threads, for four reasons. The
graphs contain no operator that rounds a row differently at different positions (see `screen.engine.graph.stable`). A
session run has at least two rows and two passes, because onnxruntime uses another kernel for a single row or pass. The
division of T into session runs depends on the model and T alone (with early exit, T determines the interim looks too).
And each operator runs in one thread, because onnxruntime divides a matrix product among threads by rows or by columns,
depending on the number of rows, and the division changes the order of summation. To use more threads, several session
runs are concurrent: in the trunk, slices of the rows; in the head, groups of passes and slices of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

from export.errors import OutOfMemory
from screen.engine.boundary import Boundary, TrunkRunner
from screen.engine.device.provider import Device
from screen.engine.device.session import GraphSession, to_numpy
from screen.engine.distance import DistanceMeter, NeighbourDistance
from screen.engine.graph.plan import EnginePlan
from screen.engine.graph.reduction import ENERGY, ENTROPY, M2, M3, M4, RAW_OUTPUT, VOTES
from screen.engine.masks import draw_masks, draw_row_masks, keep_all
from screen.engine.run_sizes import RunSizes, least_memory, size_gpu_runs, size_runs
from screen.engine.runs import MIN_FED, Rows, Run, cut_passes, cut_rows
from screen.engine.statistics import PassSummary, RunStatistics, concatenate, summarize
from screen.engine.workers import Lane, WorkerPool

_SUMS = (M2, M3, M4, VOTES, ENTROPY, ENERGY)

MAX_CACHED_MASK_BYTES = 256 * 2**20
"""Maximum size of the masks of T passes that are cached, in bytes; larger masks are drawn again for every session run
of the head."""

Result = TypeVar("Result")


class EngineOptions(TypedDict):
    """Arguments of an engine except `plan` and `distances`; see `PassEngine`."""

    passes: int
    seed: int
    device: Device
    notify: Callable[[str], None] | None


class PassEngine:
    """Runs T Monte Carlo dropout passes of one model with masks drawn from one seed.

    Args:
        plan: plan of the model.
        passes: T, the number of passes.
        seed: seed for the dropout masks.
        device: device of the sessions; its memory determines the rows per session run.
        distances: distances to measure; they require a plan made with `features=True`.
        notify: callback for two one-line notices, each given at most once: the memory is too small for two rows; memory
            ran out, so session runs have fewer rows.
    """

    boundary_copies = 2
    """Maximum number of copies of the trunk's outputs for `rows_per_run` rows: slices, and the joined copy."""

    def __init__(
        self,
        plan: EnginePlan,
        *,
        passes: int,
        seed: int,
        device: Device,
        distances: tuple[NeighbourDistance, ...] = (),
        notify: Callable[[str], None] | None = None,
    ) -> None:
        self.plan = plan
        self.passes = passes
        self.seed = seed
        self.device = device
        self._workers, memory = device.workers, device.memory
        self._pool = WorkerPool(self._workers, "passes")
        sizes = (
            size_runs(plan, memory, self._workers, self.boundary_copies)
            if device.name == "cpu"
            else size_gpu_runs(plan, memory, self.boundary_copies)
        )
        self._lane = Lane(self._pool, sizes.head_runs)
        least = least_memory(plan, self.boundary_copies)
        if memory < least and notify is not None:
            notify(
                f"--memory {memory // 2**20} is too small: a session run of two rows needs {-(-least // 2**20)} MiB; "
                "the run uses this size instead"
            )
        self._notify = notify
        # Reference features are larger than most heads, so the distances' sessions open in parallel with the others.
        opening = self._pool.submit(DistanceMeter, distances, device) if distances else None
        self._trunk = TrunkRunner(plan, device, self._pool, sizes)
        self._head = GraphSession(plan.head, device, plan.weights_folder)
        self._runs = cut_passes(plan, (passes,))[0]
        self._meter = None if opening is None else opening.result()
        elements = sum(math.prod(site.site.noise_shape) for site in plan.sites)
        self._caches_masks = plan.masks != "per-row" and 4 * passes * elements <= MAX_CACHED_MASK_BYTES
        self._mask_cache: dict[Run, dict[str, Any]] = {}

    def set_distances(self, distances: tuple[NeighbourDistance, ...]) -> None:
        """Set the distances that later summaries contain."""
        self._meter = DistanceMeter(distances, self.device) if distances else None

    def summarize(self, images: NDArray[np.uint8]) -> PassSummary:
        """The statistics of T passes over a batch.

        Args:
            images: `uint8 [B, H, W, C]`, B at least 1.

        Raises:
            OutOfMemory: two rows do not fit into memory.
        """
        pieces = self._run_in_pieces(images, self._summarize_rows)
        summary = concatenate([piece for piece, _ in pieces])
        if self._meter is None:
            return summary
        # All rows are measured in one call, because each call reads the whole reference set.
        features = [one for _, one in pieces if one is not None]
        return summary if not features else replace(summary, **vars(self._meter.measure(np.concatenate(features))))

    def _run_in_pieces(self, images: NDArray[np.uint8], work: Callable[[NDArray[np.uint8]], Result]) -> list[Result]:
        """Results of `work` for pieces of the rows that fit into memory; pieces are halved when memory runs out."""
        results: list[Result] = []
        waiting = self._cut_to_fit(images)
        while waiting:
            try:
                results.append(work(waiting[0]))
                waiting.pop(0)
                continue
            except (OutOfMemory, MemoryError):  # raised by a session, or by numpy between session runs
                rows = len(waiting[0])
                if rows <= MIN_FED:
                    raise
            # Not in the `except` block, in which the error keeps the tensors of the failed run in memory.
            self._reduce_rows_per_run(max(MIN_FED, rows // 2), previous=rows)
            waiting = [part for piece in waiting for part in self._cut_to_fit(piece)]
        return results

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The trunk's features, `[B, F]`; requires a plan made with `features=True`.

        Args:
            images: `uint8 [B, H, W, C]`, B at least 1.
        """
        return np.concatenate([self._trunk.features(rows) for rows in self._cut_to_fit(images)])

    @property
    def rows_per_run(self) -> int:
        """Maximum number of rows whose boundary is in memory at the same time."""
        return self._sizes.rows

    @property
    def _sizes(self) -> RunSizes:
        return self._trunk.sizes

    def run_trunk(self, images: NDArray[np.uint8]) -> list[Boundary]:
        """The boundary of a batch, in pieces of rows that fit into memory.

        Args:
            images: `uint8 [B, H, W, C]`, B at least 1.
        """
        return [self._trunk.run(rows) for rows in self._cut_to_fit(images)]

    def raw_passes(self, images: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
        """Yield the outputs `[P, B, C]` of each session run, in order; requires a plan made with `raw=True`.

        Args:
            images: `uint8 [B, H, W, C]`, B at least 1.
        """
        boundaries = [
            part
            for one in self.run_trunk(images)
            for part in self._trunk.split(one, -(-one.rows.count // self._sizes.head_rows))
        ]

        def run_all_rows(run: Run) -> NDArray[np.float32]:
            parts = []
            for boundary in boundaries:
                outputs = self._run_head(boundary, run, (RAW_OUTPUT,))
                parts.append(outputs[RAW_OUTPUT][: run.count, : boundary.rows.count])
            return np.concatenate(parts, axis=1)

        for start in range(0, len(self._runs), self._sizes.head_runs):
            yield from self._lane.map(run_all_rows, self._runs[start : start + self._sizes.head_runs])

    def _summarize_rows(self, images: NDArray[np.uint8]) -> tuple[PassSummary, NDArray[np.float32] | None]:
        """Run the trunk and all passes for rows that fit into memory, and return their summary and features."""
        boundary = self._trunk.run(images)
        return summarize(self._reduce_all(boundary, self._runs), self.plan.contract.task), boundary.features

    def _reduce_all(self, whole: Boundary, runs: list[Run]) -> RunStatistics:
        """Statistics of all rows over the given session runs, computed in parallel for slices of the rows."""
        pieces = self._trunk.split(whole, self._sizes.head_slices(whole.rows.count, len(runs)))
        tasks = [(boundary, run) for boundary in pieces for run in runs]
        reduced = self._lane.map(lambda task: self._reduce(*task), tasks)
        count = len(runs)
        merged = [reduce(RunStatistics.merge, reduced[i : i + count]) for i in range(0, len(tasks), count)]
        return RunStatistics.join(merged)

    def _run_head(self, boundary: Boundary, run: Run, outputs: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        return to_numpy(self._head.run({**boundary.tensors, **self._masks(run, boundary.rows)}), outputs)

    def _reduce(self, boundary: Boundary, run: Run) -> RunStatistics:
        values = self._run_head(boundary, run, self.plan.statistics)
        outputs = {name: array[: boundary.rows.count] for name, array in values.items()}
        if run.fed != run.count:
            share = np.float32(run.count / run.fed)
            outputs = {name: array * share if name in _SUMS else array for name, array in outputs.items()}
        return RunStatistics.from_outputs(run.count, outputs)

    def _masks(self, run: Run, rows: Rows) -> dict[str, Any]:
        """The head's mask inputs for one session run; not drawn earlier: early exit may not need all session runs."""
        if self.plan.masks == "per-row":
            return self._draw_per_row(run, rows)
        values = self._mask_cache.get(run)
        if values is None:
            values = self._draw_shared(run)
            if self._caches_masks:
                self._mask_cache[run] = values
        return values

    def _draw_shared(self, run: Run) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for site in self.plan.sites:
            drawn = self.plan.masks == "shared"
            masks = draw_masks(self.seed, site.site, run.start, run.count) if drawn else keep_all(site.site, run.count)
            values |= {name: self._put(value, run) for name, value in site.feed(masks).items()}
        return values

    def _draw_per_row(self, run: Run, rows: Rows) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for site in self.plan.sites:
            masks = draw_row_masks(self.seed, site.site, rows.identities, run.start, run.count)
            values |= {name: self._put(value, run) for name, value in site.feed(masks).items()}
        return values

    def _put(self, values: NDArray[Any], run: Run) -> Any:
        """Copy values of a session run, `[P, ...]`, to the device; the value of a single pass is repeated."""
        return self._head.put(np.resize(values, (run.fed, *values.shape[1:])) if run.fed != run.count else values)

    def _cut_to_fit(self, images: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """Cut rows into slices of nearly equal size that fit into memory."""
        return cut_rows(images, -(-len(images) // self.rows_per_run))

    def _reduce_rows_per_run(self, rows: int, *, previous: int) -> None:
        """Reduce the rows per session run after memory ran out, and notify once; on a CPU the results do not change."""
        if self._notify is not None:
            self._notify(
                f"memory ran out with {previous} rows per session run; later session runs have at most {rows} rows"
            )
            self._notify = None
        self._trunk.sizes = self._trunk.sizes.limit(rows)
