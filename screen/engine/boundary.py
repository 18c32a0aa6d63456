"""Run the trunk, and keep what it hands to the head: whole batches, or some of their rows.

In: `Rows`. Out: a `Boundary`, whose tensors lie on the device, and the trunk's features on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from screen.engine.graph.features import FEATURES
from screen.engine.graph.plan import EnginePlan
from screen.engine.runs import LEAST, Rows, cut_rows
from screen.engine.session import Device, GraphSession, to_numpy

Item = TypeVar("Item")


@dataclass(frozen=True)
class Boundary:
    """What the head reads of some rows.

    Attributes:
        tensors: device values by name.
        rows: the rows themselves; a single one is there twice in the tensors.
        features: `float32 [B, F]`, on the host; None where the plan gives none.
        cut_from: whose memory these tensors are a part of, if it is not their own. Nobody reads it: it keeps that
            memory, which the tensors do not own.
    """

    tensors: dict[str, Any]
    rows: Rows
    features: NDArray[np.float32] | None = None
    cut_from: Boundary | None = None


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
        self._part = GraphSession(plan.trunk, device, plan.weights_folder)

    def run(self, rows: Rows) -> Boundary:
        """The boundary of some rows; its slices are computed at the same time."""
        slices = self._cut(rows)
        if len(slices) == 1:
            values = self._run_slice(slices[0])
            features = values.pop(FEATURES, None)
            return Boundary(values, rows, None if features is None else features.numpy()[: rows.count])

        def run_slice(images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
            return to_numpy(self._run_slice(images), self._part.outputs)

        values = self._assemble(slices, [len(images) for images in slices], run_slice)
        features = values.pop(FEATURES, None)
        return Boundary(self._put(values), rows, None if features is None else features[: rows.count])

    def features(self, rows: Rows) -> NDArray[np.float32]:
        """The features of some rows alone, `[B, F]`; for a plan that was made with `features`."""
        assert FEATURES in self._part.outputs, "the plan gives no features"  # noqa: S101
        parts = self._pool.map(lambda images: self._run_slice(images)[FEATURES].numpy(), self._cut(rows))
        return np.concatenate(list(parts))[: rows.count]

    def take(self, boundary: Boundary, places: NDArray[np.int64]) -> Boundary:
        """The boundary of some of its rows, without their features; a single row is fed twice."""
        fed = places if len(places) >= LEAST else np.repeat(places, LEAST)
        pieces = np.array_split(fed, self._device.workers)

        def take_some(some: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
            return {
                tensor.name: np.take(boundary.tensors[tensor.name].numpy(), some, axis=tensor.row_axis)
                for tensor in self._plan.boundary
            }

        tensors = self._put(self._assemble(pieces, [len(some) for some in pieces], take_some))
        return Boundary(tensors, Rows(boundary.rows.images[places]))

    def join(self, boundaries: list[Boundary]) -> Boundary:
        """Several boundaries as one, without their features; a single one as it is."""
        if len(boundaries) == 1:
            return boundaries[0]

        def own_rows(boundary: Boundary) -> dict[str, NDArray[Any]]:  # not those that are fed twice
            return self._cut_tensors(boundary, 0, boundary.rows.count)

        tensors = self._put(self._assemble(boundaries, [boundary.rows.count for boundary in boundaries], own_rows))
        return Boundary(tensors, Rows(np.concatenate([boundary.rows.images for boundary in boundaries])))

    def share_out(self, boundary: Boundary, pieces: int) -> list[Boundary]:
        """A boundary in at most so many pieces, in order."""
        parts = cut_rows(boundary.rows.images, pieces)
        if len(parts) == 1:
            return [boundary]

        def cut(start: int, images: NDArray[np.uint8]) -> Boundary:
            tensors = self._put(self._cut_tensors(boundary, start, start + len(images)))
            return Boundary(tensors, Rows(images), cut_from=boundary)

        return list(self._pool.map(cut, accumulate((len(images) for images in parts), initial=0), parts))

    def _cut_tensors(self, boundary: Boundary, start: int, end: int) -> dict[str, NDArray[Any]]:
        """Some consecutive rows of a boundary, in its memory."""
        return {
            tensor.name: boundary.tensors[tensor.name].numpy()[_rows_of(tensor.row_axis, start, end)]
            for tensor in self._plan.boundary
        }

    def _put(self, values: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        return {name: self._part.put(value) for name, value in values.items()}

    def _assemble(
        self, items: Sequence[Item], rows: Sequence[int], make: Callable[[Item], Mapping[str, NDArray[Any]]]
    ) -> dict[str, NDArray[Any]]:
        """What is made of each item, at the same time, one after the other in one tensor of each name.

        Args:
            items: what to make it of.
            rows: how many rows come of each.
            make: gives boundary tensors and perhaps features.
        """
        whole = _Whole(sum(rows), {FEATURES: 0, **{tensor.name: tensor.row_axis for tensor in self._plan.boundary}})
        starts = accumulate(rows, initial=0)
        list(self._pool.map(lambda item, start: whole.fill(start, make(item)), items, starts))
        return whole.values

    def _cut(self, rows: Rows) -> list[NDArray[np.uint8]]:
        """The images in the slices in which the trunk takes them."""
        if self._device.name != "cpu":
            return [rows.fed]  # nothing leaves the GPU
        return cut_rows(rows.fed, max(self._device.workers, -(-len(rows.fed) // self._rows)))

    def _run_slice(self, images: NDArray[np.uint8]) -> dict[str, Any]:
        return self._part.run({self._plan.contract.input_name: self._part.put(images)})


class _Whole:
    """Tensors of many rows, which are filled with slices of them by several threads.

    Args:
        count: rows.
        row_axes: by the name of a tensor, which of its axes counts rows.
    """

    def __init__(self, count: int, row_axes: Mapping[str, int]) -> None:
        self._count, self._row_axes = count, row_axes
        self._lock = Lock()
        self.values: dict[str, NDArray[Any]] = {}

    def fill(self, start: int, values: Mapping[str, NDArray[Any]]) -> None:
        """Put the values of the rows from `start` on into their places."""
        for name, value in values.items():
            axis = self._row_axes[name]
            whole = self._room_for(name, value)
            whole[_rows_of(axis, start, start + value.shape[axis])] = value

    def _room_for(self, name: str, value: NDArray[Any]) -> NDArray[Any]:
        """The tensor that a slice belongs to; the first slice tells its shape."""
        with self._lock:
            if name not in self.values:
                shape = list(value.shape)
                shape[self._row_axes[name]] = self._count
                self.values[name] = np.empty(shape, value.dtype)
            return self.values[name]


def _rows_of(axis: int, start: int, end: int) -> tuple[slice, ...]:
    """An index: some rows of a tensor whose `axis` counts them."""
    return (slice(None),) * axis + (slice(start, end),)
