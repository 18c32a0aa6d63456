"""Run the trunk, and keep what it hands to the head: whole batches, or some of their rows.

In: `Rows`. Out: a `Boundary`, whose tensors lie on the device, and the trunk's features on the host.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from screen.engine.features import FEATURES
from screen.engine.plan import EnginePlan
from screen.engine.runs import LEAST, Rows, cut_rows
from screen.engine.session import Device, Part


@dataclass(frozen=True)
class Boundary:
    """What the head reads of some rows.

    Attributes:
        tensors: device values by name.
        rows: the rows, as they are fed.
        features: `float32 [B, F]`, on the host; None where the plan gives none.
    """

    tensors: dict[str, Any]
    rows: Rows
    features: NDArray[np.float32] | None = None


class TrunkRunner:
    """Runs the trunk of one plan.

    Args:
        plan: how the model is run.
        device: where.
        pool: the threads that share the rows.
        memory: bytes that its tensors may take; sets how many rows a thread takes at a time.
    """

    def __init__(self, plan: EnginePlan, device: Device, pool: ThreadPoolExecutor, memory: int) -> None:
        self._plan, self._device, self._pool = plan, device, pool
        self._rows = plan.trunk_rows(memory, device.workers)
        self._part = Part(plan.trunk, device, plan.weights_folder)

    def run(self, rows: Rows) -> Boundary:
        """The boundary of some rows; its parts are computed at the same time."""
        parts = self._run_slices(rows)
        features = self._take_features(parts, rows)
        if len(parts) == 1:
            return Boundary(parts[0], rows, features)
        joined = {
            tensor.name: self._part.put(np.concatenate([part[tensor.name].numpy() for part in parts], tensor.row_axis))
            for tensor in self._plan.boundary
        }
        return Boundary(joined, rows, features)

    def features(self, rows: Rows) -> NDArray[np.float32]:
        """The features of some rows alone, `[B, F]`; for a plan that was made with `features`."""
        features = self._take_features(self._run_slices(rows), rows)
        assert features is not None, "the plan gives no features"  # noqa: S101
        return features

    def take(self, boundary: Boundary, places: NDArray[np.int64]) -> Boundary:
        """The boundary of some of its rows, without their features; a single row is fed twice."""
        fed = places if len(places) >= LEAST else np.repeat(places, LEAST)
        tensors = {
            tensor.name: self._part.put(np.take(boundary.tensors[tensor.name].numpy(), fed, axis=tensor.row_axis))
            for tensor in self._plan.boundary
        }
        return Boundary(tensors, Rows(boundary.rows.images[places]))

    def join(self, boundaries: list[Boundary]) -> Boundary:
        """Several boundaries as one, without their features."""
        if len(boundaries) == 1:
            return boundaries[0]
        tensors = {}
        for tensor in self._plan.boundary:
            values = [boundary.tensors[tensor.name].numpy() for boundary in boundaries]
            rows = [np.arange(boundary.rows.count) for boundary in boundaries]  # not those that are fed twice
            own = [np.take(value, some, axis=tensor.row_axis) for value, some in zip(values, rows, strict=True)]
            tensors[tensor.name] = self._part.put(np.concatenate(own, axis=tensor.row_axis))
        return Boundary(tensors, Rows(np.concatenate([boundary.rows.images for boundary in boundaries])))

    def share_out(self, boundary: Boundary, pieces: int) -> list[Boundary]:
        """A boundary in at most so many pieces, in order."""
        parts = cut_rows(boundary.rows.images, pieces)
        if len(parts) == 1:
            return [boundary]
        ends = np.cumsum([len(part) for part in parts])
        return [self.take(boundary, np.arange(end - len(part), end)) for part, end in zip(parts, ends, strict=True)]

    def _run_slices(self, rows: Rows) -> list[dict[str, Any]]:
        name = self._plan.contract.input_name
        slices = cut_rows(rows.fed, max(self._device.workers, -(-len(rows.fed) // self._rows)))
        if self._device.name != "cpu":
            slices = [rows.fed]  # nothing leaves the GPU
        return list(self._pool.map(lambda part: self._part.run({name: self._part.put(part)}), slices))

    def _take_features(self, parts: list[dict[str, Any]], rows: Rows) -> NDArray[np.float32] | None:
        """The features of all slices; what is left in them is the boundary."""
        if FEATURES not in self._part.outputs:
            return None
        values = [part.pop(FEATURES) for part in parts]
        return np.concatenate([value.numpy() for value in values])[: rows.count]
