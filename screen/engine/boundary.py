"""Run the trunk, and select, join and split the rows of its boundary tensors.

In: images. Out: a `Boundary`, with the boundary tensors on the device and the trunk's features on the host. Every
session run of trunk and head has `RunSizes.padded` rows or more; on a GPU, exactly `RunSizes.padded` rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from screen.engine.device.provider import Device
from screen.engine.device.rows import DeviceRows
from screen.engine.device.session import GraphSession, to_numpy
from screen.engine.graph.features.plan import FEATURES
from screen.engine.graph.plan import EnginePlan
from screen.engine.run_sizes import RunSizes
from screen.engine.runs import Rows, cut_rows
from screen.engine.workers import Lane, WorkerPool

Item = TypeVar("Item")


@dataclass(frozen=True)
class Boundary:
    """Boundary tensors of some rows: the trunk's outputs that the head reads.

    Attributes:
        tensors: the tensors as device values (`OrtValue`), by name.
        rows: the rows of the tensors; the last row is stored several times if the tensors are padded.
        features: the trunk's features, `float32 [B, F]`, on the host; None if the trunk does not output them.
        owner: the boundary whose memory the tensors view; None if the tensors own their memory. The attribute is never
            read; the reference prevents the memory of the owner from being freed.
    """

    tensors: dict[str, Any]
    rows: Rows
    features: NDArray[np.float32] | None = None
    owner: Boundary | None = None


class TrunkRunner:
    """Runs the trunk of one plan.

    Args:
        plan: plan of the model.
        device: device of the session.
        pool: threads, each of which runs one slice of the rows at a time.
        sizes: rows per trunk slice, the number of concurrent slices, and the number of rows to which session runs are
            padded. The engine replaces the sizes when memory runs out.
    """

    def __init__(self, plan: EnginePlan, device: Device, pool: WorkerPool, sizes: RunSizes) -> None:
        self._plan, self._device, self._pool = plan, device, pool
        self.sizes, self._lane = sizes, Lane(pool, sizes.trunk_runs)
        self._session = GraphSession(plan.trunk, device, plan.weights_folder)
        self._device_rows = None if device.name == "cpu" else DeviceRows(plan.boundary, device)

    def run(self, images: NDArray[np.uint8]) -> Boundary:
        """Run the trunk on images `[B, H, W, C]`, in parallel on slices, and return the boundary of all rows."""
        rows = self._pad(images)
        slices = self._cut(rows)
        if len(slices) == 1:
            values = self._run_slice(slices[0])
            features = values.pop(FEATURES, None)
            return Boundary(values, rows, None if features is None else features.numpy()[: rows.count])

        def run_slice(images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
            return to_numpy(self._run_slice(images), self._session.outputs)

        values = self._assemble(slices, [len(images) for images in slices], run_slice, self._lane)
        features = values.pop(FEATURES, None)
        return Boundary(self._put(values), rows, None if features is None else features[: rows.count])

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The features of images `[B, H, W, C]`: `[B, F]`; requires a plan made with `features=True`."""
        rows = self._pad(images)
        assert FEATURES in self._session.outputs, "the plan has no features"  # noqa: S101
        parts = self._lane.map(lambda images: self._run_slice(images)[FEATURES].numpy(), self._cut(rows))
        return np.concatenate(parts)[: rows.count]

    def take(self, boundary: Boundary, positions: NDArray[np.int64]) -> Boundary:
        """Copy the boundary of the rows at `positions`, `[B]`, without features; a single row is stored twice."""
        rows = Rows(boundary.rows.images[positions])
        fed = positions[rows.positions]
        if self._device_rows is not None:
            return Boundary(self._device_rows.take(boundary.tensors, fed), rows)
        pieces = np.array_split(fed, self._device.workers)

        def take_piece(piece: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
            return {
                tensor.name: np.take(boundary.tensors[tensor.name].numpy(), piece, axis=tensor.row_axis)
                for tensor in self._plan.boundary
            }

        tensors = self._put(self._assemble(pieces, [len(piece) for piece in pieces], take_piece))
        return Boundary(tensors, rows)

    def join(self, boundaries: list[Boundary]) -> Boundary:
        """Concatenate the rows of several boundaries, without features; a single boundary is returned unchanged."""
        if len(boundaries) == 1:
            return boundaries[0]
        images = np.concatenate([boundary.rows.images for boundary in boundaries])
        if self._device_rows is not None:
            return Boundary(self._device_rows.join([self._own_tensors(one) for one in boundaries]), Rows(images))

        def own_rows(boundary: Boundary) -> dict[str, NDArray[Any]]:  # without the second copy of a single row
            return self._slice_tensors(boundary, 0, boundary.rows.count)

        tensors = self._put(self._assemble(boundaries, [boundary.rows.count for boundary in boundaries], own_rows))
        return Boundary(tensors, Rows(images))

    def _own_tensors(self, boundary: Boundary) -> Mapping[str, Any]:
        """The tensors of a boundary on a GPU without the rows that pad them."""
        count = boundary.rows.count
        if self._device_rows is None or len(boundary.rows.positions) == count:
            return boundary.tensors
        return self._device_rows.take(boundary.tensors, np.arange(count))

    def split(self, boundary: Boundary, pieces: int) -> list[Boundary]:
        """Split a boundary into at most `pieces` boundaries of consecutive rows.

        On the CPU, only transposed tensors are copied. On a GPU, each piece is padded to `RunSizes.padded` rows.
        """
        slices = cut_rows(boundary.rows.images, pieces)
        if len(slices) == 1 and len(boundary.rows.positions) >= self.sizes.padded:
            return [boundary]

        def split_off(start: int, images: NDArray[np.uint8]) -> Boundary:
            if self._device_rows is not None:
                rows = self._pad(images)
                return Boundary(self._device_rows.take(boundary.tensors, start + rows.positions), rows)
            tensors = self._put(self._slice_tensors(boundary, start, start + len(images)))
            return Boundary(tensors, Rows(images), owner=boundary)

        return list(self._pool.map(split_off, accumulate((len(images) for images in slices), initial=0), slices))

    def _pad(self, images: NDArray[np.uint8]) -> Rows:
        return Rows(images, self.sizes.padded)

    def _slice_tensors(self, boundary: Boundary, start: int, end: int) -> dict[str, NDArray[Any]]:
        """Views of rows `start` to `end - 1` of a boundary's tensors."""
        return {
            tensor.name: boundary.tensors[tensor.name].numpy()[_row_index(tensor.row_axis, start, end)]
            for tensor in self._plan.boundary
        }

    def _put(self, values: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        return {name: self._session.put(value) for name, value in values.items()}

    def _assemble(
        self,
        items: Sequence[Item],
        rows: Sequence[int],
        make: Callable[[Item], Mapping[str, NDArray[Any]]],
        lane: Lane | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Call `make` for each item in parallel, and concatenate the rows of the results in the order of the items.

        Args:
            items: inputs of `make`.
            rows: number of rows of each item's tensors.
            make: returns the boundary tensors of an item, and its features if the trunk outputs them, by name.
            lane: limits the concurrent calls; None for one call in each thread.
        """
        row_axes = {FEATURES: 0, **{tensor.name: tensor.row_axis for tensor in self._plan.boundary}}
        buffers = _TensorBuffers(sum(rows), row_axes)
        starts = accumulate(rows, initial=0)
        list((lane or self._pool).map(lambda item, start: buffers.fill(start, make(item)), items, starts))
        return buffers.values

    def _cut(self, rows: Rows) -> list[NDArray[np.uint8]]:
        """Cut the images into trunk slices."""
        if self._device.name != "cpu":
            return [rows.fed]  # one slice of at most `RunSizes.rows` rows: no tensor is copied to the host
        return cut_rows(rows.fed, self.sizes.trunk_slices(len(rows.fed)))

    def _run_slice(self, images: NDArray[np.uint8]) -> dict[str, Any]:
        return self._session.run({self._plan.contract.input_name: self._session.put(images)})


class _TensorBuffers:
    """Tensors that several threads fill; each thread writes its own rows.

    Args:
        count: number of rows.
        row_axes: the row axis of each tensor, by name.
    """

    def __init__(self, count: int, row_axes: Mapping[str, int]) -> None:
        self._count, self._row_axes = count, row_axes
        self._lock = Lock()
        self.values: dict[str, NDArray[Any]] = {}

    def fill(self, start: int, values: Mapping[str, NDArray[Any]]) -> None:
        """Write the tensors of consecutive rows, beginning at row `start`."""
        for name, value in values.items():
            axis = self._row_axes[name]
            buffer = self._buffer(name, value)
            buffer[_row_index(axis, start, start + value.shape[axis])] = value

    def _buffer(self, name: str, value: NDArray[Any]) -> NDArray[Any]:
        """The tensor of this name, allocated on first use with the type and shape of `value`, but with all rows."""
        with self._lock:
            if name not in self.values:
                shape = list(value.shape)
                shape[self._row_axes[name]] = self._count
                self.values[name] = np.empty(shape, value.dtype)
            return self.values[name]


def _row_index(axis: int, start: int, end: int) -> tuple[slice, ...]:
    """Index of rows `start` to `end - 1` along the row axis `axis`."""
    return (slice(None),) * axis + (slice(start, end),)
