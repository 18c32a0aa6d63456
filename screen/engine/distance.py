"""Distances of a row's features from a reference set of in-distribution rows.

In: features `float32 [B, F]`. Out: `FeatureDistances`, `[B]` each; a row with a larger value is farther away. A
`NeighbourDistance` contains the arrays that a calibration stores. A `DistanceMeter` computes matrix products and the
nearest neighbours in onnxruntime, where each row of a product is bitwise identical for any number of rows from 2 on.
The host computes the distances from these results, element by element.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from screen.engine.device.provider import Device
from screen.engine.device.session import GraphSession, external_weight, to_numpy
from screen.engine.transform import Transform, normalize
from screen.engine.workers import WorkerPool

Floats = NDArray[np.float64]
Metric = Literal["cosine", "euclidean"]

NEIGHBOURS = 5
"""Number of nearest neighbours whose distances are averaged; benchmarks/choice.py compares other numbers."""

DENSITY_EXPONENT = 0.5
"""Exponent of the correction for local density: 0 for the plain distance; 1 for the ratio to the neighbours' own
distances, as in the local outlier factor (Breunig et al. 2000). benchmarks/choice.py compares 0, 0.5 and 1."""

_LEAST_DENSITY = 0.05
"""Lower bound of a reference row's mean distance to its neighbours, relative to the mean over the reference set; the
distance of near duplicates is about 0."""

_FEATURES = "features"
_SQUARES = "squares"
_LANES = 8
"""Number of identical columns of the matrix of ones in a product that sums over features; onnxruntime uses another
kernel for a single column."""

_ROWS_PER_RUN = 512
_MIN_ROWS = 2
_LEAST_ROWS = 32
"""Minimum rows per slice where rows are divided only to use more threads: each slice reads the whole reference set."""


@dataclass(frozen=True)
class FeatureDistances:
    """Distances of B rows from the reference set, `[B]` each; None if the distance is not measured.

    Attributes:
        layout_distance: measured on cell means of the early tensor.
        contrast_distance: measured on channel means and standard deviations of the early tensor.
        penultimate_distance: measured on cell means or elements of the penultimate tensor.
    """

    layout_distance: Floats | None = None
    contrast_distance: Floats | None = None
    penultimate_distance: Floats | None = None

    @classmethod
    def concatenate(cls, parts: list[FeatureDistances]) -> FeatureDistances:
        """Concatenate the distances of several batches, in order."""
        joined: dict[str, Floats | None] = {}
        for field in fields(cls):
            values = [getattr(part, field.name) for part in parts]
            joined[field.name] = None if not values or values[0] is None else np.concatenate(values)
        return cls(**joined)


DISTANCES = tuple(field.name for field in fields(FeatureDistances))
"""Names of the distances, which are also names of result columns."""


def group_of(distance: str) -> str:
    """Name of the group of features that a distance compares."""
    return distance.removesuffix("_distance")


DEFAULT_METRICS: dict[str, Metric] = {
    "layout_distance": "cosine",
    "contrast_distance": "euclidean",
    "penultimate_distance": "cosine",
}
"""Default metric of each distance; benchmarks/choice.py compares the metrics."""


@dataclass(frozen=True)
class NeighbourDistance:
    """Mean distance to the k nearest reference rows, partly corrected for the density of the reference set around them.

    Let d be the mean distance of a row to its k nearest reference rows. The own distance of a reference row is the mean
    distance to its k nearest other reference rows; d_1 ... d_k are the own distances of the row's k nearest reference
    rows, and D is the median of the own distances of all reference rows. The result is
    `d / (geometric mean of d_1 ... d_k) ** a / D ** (1 - a)`, where a is `DENSITY_EXPONENT`; it is about 1 for an
    in-distribution row. The plain distance d is that of Sun et al. (2022), with the mean instead of the k-th distance;
    the correction by the neighbours' own distances is that of Breunig et al. (2000).

    The metric `cosine` is the Euclidean distance of features of length 1, the square root of 2 - 2 cos; the metric
    `euclidean` is the Euclidean distance of features after `Transform`.

    Attributes:
        name: name of the distance, one of `DISTANCES`.
        metric: `cosine` or `euclidean`.
        columns: positions of the distance's F features in a row's feature vector: start, and end (exclusive).
        reference: `float16 [N, F]`, features of the reference set, of length 1 or transformed.
        own: `float32 [N]`, mean distance of each reference row to its k nearest other reference rows.
        neighbours: k.
        transform: transform before the distance; None for `cosine`.
    """

    name: str
    metric: Metric
    columns: tuple[int, int]
    reference: NDArray[np.float16]
    own: NDArray[np.float32]
    neighbours: int
    transform: Transform | None = None

    @property
    def features(self) -> int:
        """F, the number of features."""
        return int(self.reference.shape[1])

    def select(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Select this distance's features from vectors `[B, all features]`, and scale or transform them: `[B, F]`."""
        own = np.ascontiguousarray(features[:, slice(*self.columns)])
        return normalize(own) if self.transform is None else self.transform.apply(own)

    def graph(self) -> onnx.GraphProto:
        """ONNX graph from `features` `[B, F]` to each row's k nearest reference rows and squared length.

        The nearest reference rows r of a row x have the largest x r - |r|^2 / 2.
        """
        nodes = [  # onnxruntime casts the reference to float32 and packs it for Gemm when the session opens
            helper.make_node("Cast", ["reference"], ["reference_float32"], to=TensorProto.FLOAT),
            helper.make_node("Gemm", [_FEATURES, "reference_float32", "bias"], ["products"], transB=1),
            helper.make_node("TopK", ["products", "k"], ["nearest", "positions"], axis=-1),
            helper.make_node("Gather", ["own", "positions"], ["density"], axis=0),
            helper.make_node("Mul", [_FEATURES, _FEATURES], ["square"]),
            # Not `ReduceSum`: its summation order depends on memory alignment, and so on a row's position in the batch.
            helper.make_node("MatMul", ["square", "ones"], [_SQUARES]),
        ]
        for node in nodes:
            node.name = node.output[0]  # the check of node placement identifies nodes by name
        outputs = {"nearest": self.neighbours, "density": self.neighbours, _SQUARES: _LANES}
        squares = np.square(self.reference, dtype=np.float64).sum(axis=1)
        constants = {
            "bias": (-squares / 2).astype(np.float32),
            "k": np.array([self.neighbours]),
            "ones": np.ones((self.features, _LANES), np.float32),
        }
        return helper.make_graph(
            nodes,
            self.name,
            [helper.make_tensor_value_info(_FEATURES, TensorProto.FLOAT, ["B", self.features])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", size]) for name, size in outputs.items()],
            [
                *(numpy_helper.from_array(array, name) for name, array in constants.items()),
                *(external_weight(name, array) for name, array in self.weights().items()),
            ],
        )

    def weights(self) -> dict[str, NDArray[Any]]:
        """Data of the graph's external weights, by name."""
        return {"reference": self.reference, "own": self.own}

    def neighbour_distances(self, outputs: dict[str, NDArray[np.float32]]) -> Floats:
        """Distance to each of the k nearest reference rows, `[B, k]`, computed from the graph's outputs."""
        squares = outputs[_SQUARES][:, :1].astype(np.float64)
        distances: Floats = np.sqrt(np.maximum(squares - 2 * outputs["nearest"].astype(np.float64), 0))
        return distances

    def finish(self, outputs: dict[str, NDArray[np.float32]]) -> Floats:
        """Distance of each row from the reference set, `[B]`, computed from the graph's outputs."""
        mean = _mean_of_columns(self.neighbour_distances(outputs))
        density = np.exp(_mean_of_columns(np.log(outputs["density"].astype(np.float64))))
        typical = float(np.median(self.own))
        distance: Floats = mean / density**DENSITY_EXPONENT / typical ** (1 - DENSITY_EXPONENT)
        return distance


def _mean_of_columns(values: Floats) -> Floats:
    """Mean of the k columns, `[B]`, summed in a fixed order for any memory layout."""
    total: Floats = np.zeros(len(values))
    for column in values.T:
        total += column
    mean: Floats = total / values.shape[1]
    return mean


def fit_distance(
    name: str,
    features: NDArray[np.float32],
    columns: slice,
    device: Device,
    metric: Metric,
    neighbours: int = NEIGHBOURS,
) -> NeighbourDistance:
    """Fit a distance to the features of the reference set.

    Args:
        name: name of the distance, one of `DISTANCES`.
        features: feature vectors of the reference set, `[N, all features]`, N at least 2.
        columns: positions of the distance's features.
        device: device on which the distances within the reference set are computed.
        metric: `cosine` or `euclidean`.
        neighbours: k; N - 1 is used if k is larger.
    """
    own = np.ascontiguousarray(features[:, columns])
    transform = None
    if metric == "euclidean":
        transform = Transform.fit(own, own.shape[1] // 2 if name == "contrast_distance" else 0)
        reference = transform.apply(own)
    else:
        reference = normalize(own)
    count = min(neighbours, len(features) - 1)
    bounds = (columns.start, columns.stop)
    ones: NDArray[np.float32] = np.ones(len(features), np.float32)
    # One more neighbour, because the nearest reference row of a reference row is the row itself.
    unscaled = NeighbourDistance(name, metric, bounds, reference.astype(np.float16), ones, count + 1, transform)
    between = _Measurement(unscaled, device).run(features, unscaled.neighbour_distances)[:, 1:].mean(axis=1)
    usual = between.mean()
    floor = _LEAST_DENSITY * usual if usual > 0 else 1.0
    densities = np.maximum(between, floor).astype(np.float32)
    return NeighbourDistance(name, metric, bounds, unscaled.reference, densities, count, transform)


Finish = Callable[[dict[str, NDArray[np.float32]]], Floats]
"""Function from the outputs of a distance's graph to one value or several values for each row."""


class _Measurement:
    """Runs the graph of one distance on batches of features."""

    def __init__(self, distance: NeighbourDistance, device: Device) -> None:
        self.distance = distance
        imports = [helper.make_opsetid("", 17)]
        model = helper.make_model(distance.graph(), opset_imports=imports, ir_version=8)
        self._session = GraphSession(model, device, weights=distance.weights())
        self._workers = device.workers
        self._pool = WorkerPool(device.workers, distance.name)

    def run(self, features: NDArray[np.float32], finish: Finish) -> Floats:
        """Results of `finish` for the graph's outputs, joined over slices of the rows."""
        chosen = self.distance.select(features)
        fed = chosen if len(chosen) >= _MIN_ROWS else np.repeat(chosen, _MIN_ROWS, axis=0)
        slices = max(1, -(-len(fed) // _ROWS_PER_RUN), min(self._workers, len(fed) // _LEAST_ROWS))

        def run_slice(rows: NDArray[np.float32]) -> Floats:
            outputs = self._session.run({_FEATURES: self._session.put(rows)})
            finished: Floats = finish(to_numpy(outputs, self._session.outputs))
            return finished

        return np.concatenate(list(self._pool.map(run_slice, np.array_split(fed, slices))))[: len(features)]


class DistanceMeter:
    """Computes the distances of batches of features on a device.

    Args:
        distances: the fitted distances.
        device: device of the sessions.
    """

    def __init__(self, distances: tuple[NeighbourDistance, ...], device: Device) -> None:
        self._measurements = [_Measurement(distance, device) for distance in distances]

    def measure(self, features: NDArray[np.float32]) -> FeatureDistances:
        """Distances of feature vectors `[B, all features]`, B at least 1."""
        return FeatureDistances(
            **{one.distance.name: one.run(features, one.distance.finish) for one in self._measurements}
        )
