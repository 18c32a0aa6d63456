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
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.errors import OutOfMemory
from screen.engine.distance import Distance, DistanceMeter
from screen.engine.features import FEATURES
from screen.engine.masks import draw_masks, draw_row_masks, identify_rows
from screen.engine.plan import TRUNK_ROWS, EnginePlan
from screen.engine.reduction import ENERGY, ENTROPY, M2, M3, M4, RAW_OUTPUT, VOTES
from screen.engine.session import Device, Part, to_numpy
from screen.engine.settling import entropy_error, find_settled, plan_looks
from screen.engine.statistics import PassSummary, RunStatistics, concatenate, summarize

_LEAST = 2
"""Rows, and passes, that a kernel sees at least."""

_SUMS = (M2, M3, M4, VOTES, ENTROPY, ENERGY)

KEPT_MASKS_BYTES = 256 * 2**20
"""Masks up to this size are drawn once and kept; larger ones are drawn again for every batch."""


Limits = Callable[[int, NDArray[np.float64] | None], NDArray[np.float64]]
"""From the number of rows B and their `feature_distance` `[B]` to the entropy above which each is flagged, `[B]`."""


@dataclass(frozen=True)
class _Run:
    """Passes `start` to `start + count - 1`; a single pass is fed twice."""

    start: int
    count: int

    @property
    def fed(self) -> int:
        return max(_LEAST, self.count)


@dataclass(frozen=True)
class _Rows:
    """Rows that are run together; a single row is fed twice."""

    images: NDArray[np.uint8]

    @property
    def count(self) -> int:
        return len(self.images)

    @property
    def fed(self) -> NDArray[np.uint8]:
        return self.images if self.count >= _LEAST else np.repeat(self.images, _LEAST, axis=0)

    @cached_property
    def identities(self) -> list[int]:
        return identify_rows(self.fed)


class PassEngine:
    """Runs T Monte Carlo dropout passes of one model with masks drawn from one seed.

    Args:
        plan: how the model is run.
        passes: T.
        seed: of the masks.
        device: where sessions run.
        memory: bytes that the tensors of a run may take; sets how many rows are in one.
        adaptive: cut T into the runs of `summarize_settled`.
        distance: what fills `feature_distance`; for a plan that was made with `features`.
        notify: told in one line when memory ran out and runs become smaller, once.
    """

    def __init__(
        self,
        plan: EnginePlan,
        *,
        passes: int,
        seed: int,
        device: Device,
        memory: int,
        adaptive: bool = False,
        distance: Distance | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        self.plan = plan
        self.passes = passes
        self.seed = seed
        self.device = device
        self._workers = device.workers
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="passes")
        self.rows_per_run = plan.rows_per_run(memory, self._workers)
        self._notify = notify
        self._trunk = Part(plan.trunk, device)
        self._head = Part(plan.head, device)
        self._looks = plan_looks(passes) if adaptive else (passes,)
        self._runs_to_look = _cut_passes(plan, self._looks)
        self._runs = [run for runs in self._runs_to_look for run in runs]
        self._meter: DistanceMeter | None = None
        if distance is not None:
            self.measure_by(distance)
        elements = sum(math.prod(site.site.noise_shape) for site in plan.sites)
        self._kept: dict[_Run, dict[str, Any]] = {}
        if plan.masks == "shared" and 4 * passes * elements <= KEPT_MASKS_BYTES:
            self._kept = {run: self._draw_shared(run) for run in self._runs}

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
        return self._in_pieces(images, self._summarize_rows)

    def summarize_settled(self, images: NDArray[np.uint8], limits: Limits) -> PassSummary:
        """What the passes say that a row had until its decision was settled; for an `adaptive` engine.

        Args:
            images: `uint8 [B, H, W, C]`, B at least 1.
            limits: the entropy above which each row is flagged.

        Raises:
            OutOfMemory: not even two rows fit.
        """
        return self._in_pieces(images, lambda some: self._settle_rows(some, limits))

    def _in_pieces(
        self, images: NDArray[np.uint8], summarize_some: Callable[[NDArray[np.uint8]], PassSummary]
    ) -> PassSummary:
        """Rows in pieces that fit into memory, smaller ones when it ran out."""
        summaries: list[PassSummary] = []
        waiting = self._cut_to_fit(images)
        while waiting:
            try:
                summaries.append(summarize_some(waiting[0]))
                waiting.pop(0)
            except (OutOfMemory, MemoryError):  # of the session, or of numpy between sessions
                rows = len(waiting[0])
                if rows <= _LEAST:
                    raise
                self._go_on_with(max(_LEAST, rows // 2), instead_of=rows)
                waiting = self._cut_to_fit(np.concatenate(waiting))
        return concatenate(summaries)

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The trunk's features alone, `[B, F]`; for a plan that was made with `features`.

        Args:
            images: `uint8 [B, H, W, C]`, B at least 1.
        """
        chunks = [_Rows(rows) for rows in self._cut_to_fit(images)]
        return np.concatenate([self._take_features(self._run_slices(rows))[: rows.count] for rows in chunks])

    def raw_passes(self, images: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
        """The passes themselves, `[P, B, C]` a run, in order; for a plan that was made `raw`.

        Args:
            images: `uint8 [B, H, W, C]`, B at least 1.
        """
        chunks = [_Rows(rows) for rows in self._cut_to_fit(images)]
        boundaries = [self._run_trunk(rows) for rows in chunks]

        def run_all_rows(run: _Run) -> NDArray[np.float32]:
            parts = []
            for rows, boundary in zip(chunks, boundaries, strict=True):
                outputs = self._run_head(boundary, run, rows, (RAW_OUTPUT,))
                parts.append(outputs[RAW_OUTPUT][: run.count, : rows.count])
            return np.concatenate(parts, axis=1)

        for start in range(0, len(self._runs), self._workers):
            yield from self._pool.map(run_all_rows, self._runs[start : start + self._workers])

    def _summarize_rows(self, images: NDArray[np.uint8]) -> PassSummary:
        """One batch that fits: its trunk, then every run of passes, merged in their order."""
        rows = [_Rows(part) for part in _cut(images, -(-self._workers // len(self._runs)))]
        boundaries, distances = zip(*(self._run_trunk_and_measure(part) for part in rows), strict=True)
        statistics = self._reduce_all(list(zip(boundaries, rows, strict=True)), self._runs)
        summary = summarize(statistics, self.plan.contract.output_kind)
        return replace(summary, feature_distance=None if distances[0] is None else np.concatenate(distances))

    def _settle_rows(self, images: NDArray[np.uint8], limits: Limits) -> PassSummary:
        """One batch that fits: its trunk, then runs of passes from look to look, for the rows that are not settled."""
        boundary, distance = self._run_trunk_and_measure(_Rows(images))
        limit = limits(len(images), distance)
        left = np.arange(len(images))
        so_far: RunStatistics | None = None
        summaries: list[PassSummary] = []
        places: list[NDArray[np.int64]] = []
        for runs, passes in zip(self._runs_to_look, self._looks, strict=True):
            statistics = self._reduce_all(self._share_out(boundary, images[left], len(runs)), runs)
            so_far = statistics if so_far is None else so_far.merge(statistics)
            summary = summarize(so_far, self.plan.contract.output_kind)
            settled = np.ones(len(left), np.bool_)
            if passes < self.passes and summary.entropy is not None:
                settled = find_settled(summary.entropy, entropy_error(so_far), limit[left])
            summaries.append(summary.take(settled))
            places.append(left[settled])
            if settled.all():
                break
            so_far = so_far.take(~settled)
            boundary = self._take_rows(boundary, np.flatnonzero(~settled))
            left = left[~settled]
        summary = concatenate(summaries).take(np.argsort(np.concatenate(places)))
        return replace(summary, feature_distance=distance)

    def _reduce_all(self, pieces: list[tuple[dict[str, Any], _Rows]], runs: list[_Run]) -> RunStatistics:
        """Every run of passes over every piece of rows, at the same time; runs merged in order, pieces joined."""
        tasks = [(boundary, run, rows) for boundary, rows in pieces for run in runs]
        reduced = list(self._pool.map(lambda task: self._reduce(*task), tasks))
        merged = [reduce(RunStatistics.merge, reduced[at : at + len(runs)]) for at in range(0, len(tasks), len(runs))]
        return RunStatistics.join(merged)

    def _share_out(
        self, boundary: dict[str, Any], images: NDArray[np.uint8], runs: int
    ) -> list[tuple[dict[str, Any], _Rows]]:
        """Rows with their boundary, in as many pieces as it takes to keep every worker busy."""
        parts = _cut(images, -(-self._workers // runs))
        if len(parts) == 1:
            return [(boundary, _Rows(images))]
        ends = np.cumsum([len(part) for part in parts])
        places = [np.arange(end - len(part), end) for part, end in zip(parts, ends, strict=True)]
        return [(self._take_rows(boundary, some), _Rows(part)) for some, part in zip(places, parts, strict=True)]

    def _take_rows(self, boundary: dict[str, Any], places: NDArray[np.int64]) -> dict[str, Any]:
        """Some rows of a boundary; a single row is fed twice."""
        fed = places if len(places) >= _LEAST else np.repeat(places, _LEAST)
        return {
            tensor.name: self._head.put(np.take(boundary[tensor.name].numpy(), fed, axis=tensor.row_axis))
            for tensor in self.plan.boundary
        }

    def _run_trunk_and_measure(self, rows: _Rows) -> tuple[dict[str, Any], NDArray[np.float64] | None]:
        """The boundary of some rows, and how far their features are from known ones."""
        parts = self._run_slices(rows)
        if FEATURES not in self._trunk.outputs:
            return self._join(parts), None
        features = self._take_features(parts)[: rows.count]
        return self._join(parts), None if self._meter is None else self._meter.measure(features)

    def _run_trunk(self, rows: _Rows) -> dict[str, Any]:
        """The boundary of some rows."""
        return self._run_trunk_and_measure(rows)[0]

    def _run_slices(self, rows: _Rows) -> list[dict[str, Any]]:
        """What the trunk gives for some rows, in slices that are computed at the same time."""
        name = self.plan.contract.input_name
        slices = _cut(rows.fed, max(self._workers, -(-len(rows.fed) // TRUNK_ROWS)))
        if self.device.name != "cpu":
            slices = [rows.fed]  # nothing leaves the GPU
        return list(self._pool.map(lambda part: self._trunk.run({name: self._trunk.put(part)}), slices))

    def _take_features(self, parts: list[dict[str, Any]]) -> NDArray[np.float32]:
        """The features of all slices, `[B, F]`, on the host; what is left is the boundary."""
        values = [part.pop(FEATURES) for part in parts]
        return np.concatenate([value.numpy() for value in values])

    def _join(self, parts: list[dict[str, Any]]) -> dict[str, Any]:
        """The boundary of all slices, as one."""
        if len(parts) == 1:
            return parts[0]
        return {
            tensor.name: self._head.put(np.concatenate([part[tensor.name].numpy() for part in parts], tensor.row_axis))
            for tensor in self.plan.boundary
        }

    def _run_head(
        self, boundary: dict[str, Any], run: _Run, rows: _Rows, outputs: Sequence[str]
    ) -> dict[str, NDArray[np.float32]]:
        return to_numpy(self._head.run({**boundary, **self._masks(run, rows)}), outputs)

    def _reduce(self, boundary: dict[str, Any], run: _Run, rows: _Rows) -> RunStatistics:
        values = self._run_head(boundary, run, rows, self.plan.statistics)
        outputs = {name: array[: rows.count] for name, array in values.items()}
        if run.fed != run.count:
            share = np.float32(run.count / run.fed)
            outputs = {name: array * share if name in _SUMS else array for name, array in outputs.items()}
        return RunStatistics.from_outputs(run.count, outputs)

    def _masks(self, run: _Run, rows: _Rows) -> dict[str, Any]:
        if run in self._kept:
            return self._kept[run]
        return self._draw_shared(run) if self.plan.masks == "shared" else self._draw_per_row(run, rows)

    def _draw_shared(self, run: _Run) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for site in self.plan.sites:
            masks = draw_masks(self.seed, site.site, run.start, run.count)
            values |= {name: self._put(value, run) for name, value in site.feed(masks).items()}
        return values

    def _draw_per_row(self, run: _Run, rows: _Rows) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for site in self.plan.sites:
            masks = draw_row_masks(self.seed, site.site, rows.identities, run.start, run.count)
            values |= {name: self._put(value, run) for name, value in site.feed(masks).items()}
        return values

    def _put(self, values: NDArray[Any], run: _Run) -> Any:
        """A value for each pass, on the device; a single pass is fed twice."""
        return self._head.put(np.resize(values, (run.fed, *values.shape[1:])) if run.fed != run.count else values)

    def _cut_to_fit(self, images: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """Slices of nearly equal size that fit into memory."""
        return _cut(images, -(-len(images) // self.rows_per_run))

    def _go_on_with(self, rows: int, *, instead_of: int) -> None:
        """After memory ran out: fewer rows in a run. Results do not depend on it; it is said once."""
        if self._notify is not None:
            self._notify(f"memory ran out with {instead_of} rows in a run; going on with {rows}")
            self._notify = None
        self.rows_per_run = rows


def _cut_passes(plan: EnginePlan, looks: Sequence[int]) -> list[list[_Run]]:
    """The runs up to each look; where they are cut follows from the model and T."""
    cut: list[list[_Run]] = []
    for start, end in zip((0, *looks), looks, strict=False):
        counts = plan.runs(end - start)
        starts = accumulate(counts, initial=start)
        cut.append([_Run(at, count) for at, count in zip(starts, counts, strict=False)])
    return cut


def _cut(images: NDArray[np.uint8], parts: int) -> list[NDArray[np.uint8]]:
    """At most so many slices of nearly equal size, none of a single row unless there is but one."""
    parts = max(1, min(parts, len(images) // _LEAST))
    return np.array_split(images, parts)
