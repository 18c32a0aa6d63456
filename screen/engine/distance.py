"""Distance of a row's trunk features from in-distribution features: nearest neighbours or Mahalanobis.

In: features `float32 [B, F]`. Out: distances `[B]`; larger is farther. A `Distance` contains the arrays that a
calibration stores. A `DistanceMeter` computes its matrix products in onnxruntime, where each row of a product is
bitwise identical for any number of rows from 2 on; the host computes the rest row by row, in float64.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from screen.engine.session import Device, GraphSession, external_weight, to_numpy

NEIGHBOURS = 5
"""Number of nearest neighbours whose similarities are averaged; benchmarks/detection.py compares other numbers."""

COMPONENTS = 128
"""Maximum number of principal components of a Mahalanobis distance."""

_FEATURES = "features"
_SQUARES = "squares"
_LANES = 8
"""Number of identical columns of the matrix of ones in a product that sums over features; onnxruntime uses another
kernel for a single column."""

_ROWS_PER_RUN = 512
_MIN_ROWS = 2

_FIELD_OF_ARRAY = {"bank": "reference"}
"""Field names by array name, for the arrays of a calibration file whose field has another name."""


class Distance(Protocol):
    """A distance to a set of in-distribution features."""

    kind: ClassVar[str]

    @property
    def features(self) -> int:
        """F, the number of features."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of the distance by their names in a calibration file."""

    def graph(self) -> onnx.GraphProto:
        """Graph from `features` `[B, F]` to the inputs of `finish`; the data of its weights are external."""

    def weights(self) -> dict[str, NDArray[Any]]:
        """Data of the graph's external weights, by name."""

    def finish(self, outputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float64]:
        """Distances `[B]` from the graph's outputs."""


@dataclass(frozen=True)
class NearestNeighbours:
    """One minus the mean cosine similarity to the k nearest reference features.

    The method is that of Sun et al. (2022), with the mean of the k similarities instead of the k-th similarity.

    Attributes:
        reference: `float16 [N, F]`, reference features, each of length 1.
        neighbours: k, `int64 []`.
    """

    kind: ClassVar[str] = "neighbours"
    reference: NDArray[np.float16]
    neighbours: NDArray[np.int64]

    @classmethod
    def fit(cls, features: NDArray[np.float32], neighbours: int = NEIGHBOURS) -> NearestNeighbours:
        """Normalize the features of the reference set to length 1.

        Args:
            features: features of the reference set, `[N, F]`.
            neighbours: k; if it exceeds N, N is used.
        """
        length = np.sqrt(np.square(features, dtype=np.float64).sum(axis=1, keepdims=True))
        reference = (features / np.where(length > 0, length, 1)).astype(np.float16)
        return cls(reference, np.array(min(neighbours, len(reference))))

    @property
    def features(self) -> int:
        """F, the number of features."""
        return int(self.reference.shape[1])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of the distance by their names in a calibration file."""
        return {"bank": self.reference, "neighbours": self.neighbours}

    def graph(self) -> onnx.GraphProto:
        """ONNX graph that computes each row's k largest dot products with the reference, and its squared length."""
        nodes = [  # onnxruntime casts the reference to float32 and packs it for Gemm when the session opens
            helper.make_node("Cast", ["reference"], ["reference_float32"], to=TensorProto.FLOAT),
            helper.make_node("Gemm", [_FEATURES, "reference_float32"], ["products"], transB=1),
            helper.make_node("TopK", ["products", "k"], ["nearest", "positions"], axis=-1),
            *_sum_squares(_FEATURES),
        ]
        count = int(self.neighbours)
        constants = {"k": np.array([count]), "ones": _ones(self.features)}
        return _make_graph(nodes, self.features, {"nearest": count, _SQUARES: _LANES}, constants, self.weights())

    def weights(self) -> dict[str, NDArray[Any]]:
        """The reference features, by the name of the graph's weight."""
        return {"reference": self.reference}

    def finish(self, outputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float64]:
        """Distances `[B]`, 1 - mean cosine similarity, 0 to 2; 1 for a row whose features are all 0."""
        length = np.sqrt(outputs[_SQUARES][:, 0].astype(np.float64))
        total = np.zeros(len(length))
        for column in outputs["nearest"].T:  # in a fixed order, for any memory layout
            total += column
        mean = total / outputs["nearest"].shape[1]
        distance: NDArray[np.float64] = np.maximum(1 - mean / np.where(length > 0, length, 1), 0)
        return distance


@dataclass(frozen=True)
class Mahalanobis:
    """Mahalanobis distance to the mean of the reference features, in the space of their D first principal components.

    The method is that of Lee et al. (2018), with a single class.

    Attributes:
        mean: `float32 [F]`, mean of the reference features.
        directions: `float32 [F, D]`, the principal components, each divided by the standard deviation along it.
    """

    kind: ClassVar[str] = "mahalanobis"
    mean: NDArray[np.float32]
    directions: NDArray[np.float32]

    @classmethod
    def fit(cls, features: NDArray[np.float32]) -> Mahalanobis:
        """Compute mean and principal components of the reference features.

        Args:
            features: the reference features, `[N, F]`.
        """
        mean = features.mean(axis=0, dtype=np.float64)
        centred = features - mean
        values, vectors = np.linalg.eigh(centred.T @ centred / len(features))
        kept = [index for index in range(len(values))[::-1][:COMPONENTS] if values[index] > values[-1] * 1e-7]
        directions = vectors[:, kept] / np.sqrt(values[kept])
        return cls(mean.astype(np.float32), directions.astype(np.float32))

    @property
    def features(self) -> int:
        """F, the number of features."""
        return len(self.mean)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of the distance by their names in a calibration file."""
        return {"mean": self.mean, "directions": self.directions}

    def graph(self) -> onnx.GraphProto:
        """ONNX graph that computes the squared distance of each row from its features."""
        nodes = [
            helper.make_node("Sub", [_FEATURES, "mean"], ["centred"]),
            helper.make_node("MatMul", ["centred", "directions"], ["components"]),
            *_sum_squares("components"),
        ]
        count = self.directions.shape[1]
        return _make_graph(nodes, self.features, {_SQUARES: _LANES}, {"ones": _ones(count)}, self.weights())

    def weights(self) -> dict[str, NDArray[Any]]:
        """`mean` and `directions`, by the names of the graph's weights."""
        return self.arrays()

    def finish(self, outputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float64]:
        """Distances `[B]`, in standard deviations."""
        return np.sqrt(outputs[_SQUARES][:, 0].astype(np.float64))


DISTANCES: dict[str, type[NearestNeighbours] | type[Mahalanobis]] = {
    kind.kind: kind for kind in (NearestNeighbours, Mahalanobis)
}
"""Classes of distances, by their `kind`."""


def distance_from_arrays(kind: str, arrays: dict[str, NDArray[Any]]) -> Distance:
    """The distance that a calibration file stores.

    Raises:
        KeyError: the kind is unknown.
        TypeError: the arrays are not those of this kind.
    """
    return DISTANCES[kind](**{_FIELD_OF_ARRAY.get(name, name): array for name, array in arrays.items()})


class DistanceMeter:
    """Computes the distance of batches of features on a device.

    Args:
        distance: distance with its fitted arrays.
        device: device of the session.
    """

    def __init__(self, distance: Distance, device: Device) -> None:
        self._distance = distance
        imports = [helper.make_opsetid("", 17)]
        model = helper.make_model(distance.graph(), opset_imports=imports, ir_version=8)
        self._session = GraphSession(model, device, weights=distance.weights())
        self._pool = ThreadPoolExecutor(device.workers, thread_name_prefix="distance")
        self._workers = device.workers

    def measure(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Distances `[B]` of features `[B, F]`, B at least 1."""
        fed = features if len(features) >= _MIN_ROWS else np.repeat(features, _MIN_ROWS, axis=0)
        slices = max(1, min(max(self._workers, -(-len(fed) // _ROWS_PER_RUN)), len(fed) // _MIN_ROWS))
        distances = list(self._pool.map(self._measure_slice, np.array_split(fed, slices)))
        return np.concatenate(distances)[: len(features)]

    def _measure_slice(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        outputs = self._session.run({_FEATURES: self._session.put(features)})
        return self._distance.finish(to_numpy(outputs, self._session.outputs))


def _sum_squares(name: str) -> list[onnx.NodeProto]:
    """Nodes for the sum of squares over the last axis, `[B, _LANES]` with identical columns, by a matrix product.

    `ReduceSum` is not used: its summation order depends on memory alignment, and therefore on the row's position in
    the batch.
    """
    return [
        helper.make_node("Mul", [name, name], ["square"]),
        helper.make_node("MatMul", ["square", "ones"], [_SQUARES]),
    ]


def _ones(count: int) -> NDArray[np.float32]:
    return np.ones((count, _LANES), np.float32)


def _make_graph(
    nodes: list[onnx.NodeProto],
    features: int,
    outputs: dict[str, int],
    constants: dict[str, NDArray[Any]],
    weights: dict[str, NDArray[Any]],
) -> onnx.GraphProto:
    for node in nodes:
        node.name = node.output[0]  # the check of node placement identifies nodes by name
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", size]) for name, size in outputs.items()]
    return helper.make_graph(
        nodes,
        "distance",
        [helper.make_tensor_value_info(_FEATURES, TensorProto.FLOAT, ["B", features])],
        values,
        [
            *(numpy_helper.from_array(array, name) for name, array in constants.items()),
            *(external_weight(name, array) for name, array in weights.items()),
        ],
    )
