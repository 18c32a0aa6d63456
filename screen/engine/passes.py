"""Run T passes over a batch of images: trunk once, head in runs of P passes.

In: `uint8 [B, H, W, C]`. Out: a `PassSummary` of the B rows, or the raw passes.

A row's numbers are the same bits in every batch and with any number of threads. No kernel ever
sees a single row or a single pass (onnxruntime takes another one there); T is cut into runs in a
way that follows from the model alone; and an operator runs in one thread, because onnxruntime cuts
a product for its threads by rows or by columns, depending on the number of rows, and sums
differently then. The threads share rows in the trunk and runs of passes in the head instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import reduce
from typing import Any, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

from export.errors import OutOfMemory
from screen.engine.boundary import Boundary, TrunkRunner
from screen.engine.distance import Distance, DistanceMeter
from screen.engine.graph.plan import EnginePlan
from screen.engine.graph.reduction import ENERGY, ENTROPY, M2, M3, M4, RAW_OUTPUT, VOTES
from screen.engine.masks import draw_masks, draw_row_masks
from screen.engine.runs import LEAST, Rows, Run, cut_passes, cut_rows
from screen.engine.session import Device, GraphSession, to_numpy
from screen.engine.statistics import PassSummary, RunStatistics, concatenate, summarize

_SUMS = (M2, M3, M4, VOTES, ENTROPY, ENERGY)

KEPT_MASKS_BYTES = 256 * 2**20
"""Masks up to this size are drawn once and kept; larger ones are drawn again for every batch."""

Result = TypeVar("Result")


class EngineOptions(TypedDict):
    """What an engine takes, whatever its plan; see `PassEngine`."""

    passes: int
    seed: int
    device: Device
    memory: int
    notify: Callable[[str], None] | None


class PassEngine:
    """Runs T Monte Carlo dropout passes of one model with masks drawn from one seed.

    Args:
        plan: how the model is run.
        passes: T.
        seed: of the masks.
        device: where sessions run.
        memory: bytes that the tensors of a run may take; sets how many rows are in one.
        distance: what fills `feature_distance`; for a plan that was made with `features`.
        notify: told in one line when memory ran out and runs become smaller, once.
    """

    boundaries = 2
    """How often the boundary of the rows of a run is in memory at most: slices on their way, and the whole."""

    def __init__(
        self,
        plan: EnginePlan,
        *,
        passes: int,
        seed: int,
        device: Device,
        memory: int,
        distance: Distance | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        self.plan = plan
        self.passes = passes
        self.seed = seed
        self.device = device
        self._workers = device.workers
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="passes")
        self.rows_per_run = plan.rows_per_run(memory, self._workers, self.boundaries)
        self._notify = notify
        # A bank is larger than most heads: it is laid out while the others are opened.
        opening = None if distance is None else self._pool.submit(DistanceMeter, distance, device)
        self._trunk = TrunkRunner(plan, device, self._pool, memory)
        self._head = GraphSession(plan.head, device, plan.weights_folder)
        self._runs = cut_passes(plan, (passes,))[0]
        self._meter = None if opening is None else opening.result()
        elements = sum(math.prod(site.site.noise_shape) for site in plan.sites)
        self._keeps_masks = plan.masks == "shared" and 4 * passes * elements <= KEPT_MASKS_BYTES
        self._kept: dict[Run, dict[str, Any]] = {}

    def measure_by(self, distance: Distance) -> None:
        """Fill `feature_distance` from now on."""
        self._meter = DistanceMeter(distance, self.device)

    def summarize(self, images: NDArray[np.uint8]) -> PassSummary:
        """What T passes say.

        Args:
            images: `uint8 [B, H, W, C]`, B at least 1.

        Raises:
            OutOfMemory: not even two rows fit.
        """
        pieces = self._in_pieces(images, self._summarize_rows)
        summary = concatenate([piece for piece, _ in pieces])
        if self._meter is None:
            return summary
        # All rows at once: a bank is read as a whole for however few rows there are.
        known = [features for _, features in pieces if features is not None]
        return replace(summary, feature_distance=self._meter.measure(np.concatenate(known)) if known else None)

    def _in_pieces(self, images: NDArray[np.uint8], work: Callable[[NDArray[np.uint8]], Result]) -> list[Result]:
        """What comes of rows in pieces that fit into memory, smaller ones when it ran out."""
        results: list[Result] = []
        waiting = self._cut_to_fit(images)
        while waiting:
            try:
                results.append(work(waiting[0]))
                waiting.pop(0)
            except (OutOfMemory, MemoryError):  # of the session, or of numpy between sessions
                rows = len(waiting[0])
                if rows <= LEAST:
                    raise
                self._go_on_with(max(LEAST, rows // 2), instead_of=rows)
                waiting = self._cut_to_fit(np.concatenate(waiting))
        return results

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The trunk's features alone, `[B, F]`; for a plan that was made with `features`.

        Args:
            images: `uint8 [B, H, W, C]`, B at least 1.
        """
        return np.concatenate([self._trunk.features(Rows(rows)) for rows in self._cut_to_fit(images)])

    def raw_passes(self, images: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
        """The passes themselves, `[P, B, C]` a run, in order; for a plan that was made `raw`.

        Args:
            images: `uint8 [B, H, W, C]`, B at least 1.
        """
        boundaries = [self._trunk.run(Rows(rows)) for rows in self._cut_to_fit(images)]

        def run_all_rows(run: Run) -> NDArray[np.float32]:
            parts = []
            for boundary in boundaries:
                outputs = self._run_head(boundary, run, (RAW_OUTPUT,))
                parts.append(outputs[RAW_OUTPUT][: run.count, : boundary.rows.count])
            return np.concatenate(parts, axis=1)

        for start in range(0, len(self._runs), self._workers):
            yield from self._pool.map(run_all_rows, self._runs[start : start + self._workers])

    def _summarize_rows(self, images: NDArray[np.uint8]) -> tuple[PassSummary, NDArray[np.float32] | None]:
        """One batch that fits: its trunk, then every run of passes, merged in their order; and its features."""
        parts = cut_rows(images, -(-self._workers // len(self._runs)))
        boundaries = [self._trunk.run(Rows(part)) for part in parts]
        summary = summarize(self._reduce_all(boundaries, self._runs), self.plan.contract.output_kind)
        features = [boundary.features for boundary in boundaries if boundary.features is not None]
        return summary, np.concatenate(features) if features else None

    def _reduce_all(self, pieces: list[Boundary], runs: list[Run]) -> RunStatistics:
        """Every run of passes over every piece of rows, at the same time; runs merged in order, pieces joined."""
        tasks = [(boundary, run) for boundary in pieces for run in runs]
        reduced = list(self._pool.map(lambda task: self._reduce(*task), tasks))
        merged = [reduce(RunStatistics.merge, reduced[at : at + len(runs)]) for at in range(0, len(tasks), len(runs))]
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
        """The head's inputs for the masks of a run; drawn when they are first needed: a row may leave before."""
        if self.plan.masks != "shared":
            return self._draw_per_row(run, rows)
        values = self._kept.get(run)
        if values is None:
            values = self._draw_shared(run)
            if self._keeps_masks:
                self._kept[run] = values
        return values

    def _draw_shared(self, run: Run) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for site in self.plan.sites:
            masks = draw_masks(self.seed, site.site, run.start, run.count)
            values |= {name: self._put(value, run) for name, value in site.feed(masks).items()}
        return values

    def _draw_per_row(self, run: Run, rows: Rows) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for site in self.plan.sites:
            masks = draw_row_masks(self.seed, site.site, rows.identities, run.start, run.count)
            values |= {name: self._put(value, run) for name, value in site.feed(masks).items()}
        return values

    def _put(self, values: NDArray[Any], run: Run) -> Any:
        """A value for each pass, on the device; a single pass is fed twice."""
        return self._head.put(np.resize(values, (run.fed, *values.shape[1:])) if run.fed != run.count else values)

    def _cut_to_fit(self, images: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """Slices of nearly equal size that fit into memory."""
        return cut_rows(images, -(-len(images) // self.rows_per_run))

    def _go_on_with(self, rows: int, *, instead_of: int) -> None:
        """After memory ran out: fewer rows in a run. Results do not depend on it; it is said once."""
        if self._notify is not None:
            self._notify(f"memory ran out with {instead_of} rows in a run; going on with {rows}")
            self._notify = None
        self.rows_per_run = rows
