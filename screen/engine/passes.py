"""Run T passes over a batch of images: trunk once, head in runs of P passes.

In: `uint8 [B, H, W, C]`. Out: a `PassSummary` of the B rows, or the raw passes. A row's numbers
are the same in every batch: no kernel ever sees a single row or a single pass (onnxruntime takes
another one there), and T is cut into runs in a way that follows from the model alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.engine.masks import draw_masks
from screen.engine.plan import EnginePlan
from screen.engine.reduction import ENERGY, ENTROPY, M2, M3, M4, RAW_OUTPUT, VOTES
from screen.engine.session import Device, Part, to_numpy
from screen.engine.statistics import PassSummary, RunStatistics, concatenate, summarize

_SUMS = (M2, M3, M4, VOTES, ENTROPY, ENERGY)

KEPT_MASKS_BYTES = 256 * 2**20
"""Masks up to this size are drawn once and kept; larger ones are drawn again for every batch."""


@dataclass(frozen=True)
class _Run:
    """Passes `start` to `start + count - 1`; a single pass is fed twice."""

    start: int
    count: int

    @property
    def fed(self) -> int:
        return max(2, self.count)


class PassEngine:
    """Runs T Monte Carlo passes of one model with masks drawn from one seed.

    Args:
        plan: how the model is run.
        passes: T.
        seed: of the masks.
        device: where sessions run.
        memory: bytes that the tensors of a run may take; sets how many rows are in one.
    """

    def __init__(self, plan: EnginePlan, *, passes: int, seed: int, device: Device, memory: int) -> None:
        self.plan = plan
        self.passes = passes
        self.seed = seed
        self.device = device
        self._rows = plan.rows_per_run(memory)
        self._trunk = Part(plan.trunk, device)
        self._head = Part(plan.head, device)
        starts = np.cumsum([0, *plan.runs(passes)])
        self._runs = [_Run(int(start), count) for start, count in zip(starts, plan.runs(passes), strict=False)]
        elements = sum(int(np.prod(site.site.noise_shape)) for site in plan.sites)
        self._kept: list[dict[str, Any]] | None = None
        if 4 * passes * elements <= KEPT_MASKS_BYTES:
            self._kept = [self._draw(run) for run in self._runs]

    def summarize(self, images: NDArray[np.uint8]) -> PassSummary:
        """What T passes say.

        Args:
            images: `uint8 [B, H, W, C]`, B at least 1.
        """
        return concatenate([self._summarize_rows(rows) for rows in self._cut(images)])

    def raw_passes(self, images: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
        """The passes themselves, `[P, B, C]` a run, in order; for a plan that was made `raw`.

        Args:
            images: `uint8 [B, H, W, C]`, B at least 1.
        """
        boundaries = [(len(rows), self._run_trunk(rows)) for rows in self._cut(images)]
        for index, run in enumerate(self._runs):
            parts = []
            for count, boundary in boundaries:
                outputs = to_numpy(self._head.run({**boundary, **self._masks(index)}), [RAW_OUTPUT])
                parts.append(outputs[RAW_OUTPUT][: run.count, :count])
            yield np.concatenate(parts, axis=1)

    def _summarize_rows(self, images: NDArray[np.uint8]) -> PassSummary:
        boundary = self._run_trunk(images)
        merged = reduce(
            RunStatistics.merge,
            (self._run_head(boundary, index, len(images)) for index in range(len(self._runs))),
        )
        return summarize(merged, self.plan.contract.output_kind)

    def _run_trunk(self, images: NDArray[np.uint8]) -> dict[str, Any]:
        if len(images) == 1:
            images = np.repeat(images, 2, axis=0)
        return self._trunk.run({self.plan.contract.input_name: self._trunk.put(images)})

    def _run_head(self, boundary: dict[str, Any], index: int, rows: int) -> RunStatistics:
        run = self._runs[index]
        values = self._head.run({**boundary, **self._masks(index)})
        outputs = {name: array[:rows] for name, array in to_numpy(values, self.plan.statistics).items()}
        if run.fed != run.count:
            share = np.float32(run.count / run.fed)
            outputs = {name: array * share if name in _SUMS else array for name, array in outputs.items()}
        return RunStatistics.from_outputs(run.count, outputs)

    def _masks(self, index: int) -> dict[str, Any]:
        return self._kept[index] if self._kept is not None else self._draw(self._runs[index])

    def _draw(self, run: _Run) -> dict[str, Any]:
        masks = {}
        for site in self.plan.sites:
            drawn = draw_masks(self.seed, site.site, run.start, run.count)
            masks[site.mask_name] = self._head.put(np.resize(drawn, (run.fed, *drawn.shape[1:])))
        return masks

    def _cut(self, images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        """Row chunks that fit into memory."""
        for start in range(0, len(images), self._rows):
            yield images[start : start + self._rows]
