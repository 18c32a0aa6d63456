"""How far a row's trunk features lie from those of known rows: nearest neighbours, or Mahalanobis.

In: features `float32 [B, F]`. Out: distances `[B]`, high is far. A distance is a value (arrays that
travel in a calibration); a `DistanceMeter` runs it in onnxruntime, where a product's rows do not
depend on how many there are. What is left for the host is done row by row, in float64.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from screen.engine.session import Device, GraphSession, outside_weight, to_numpy

NEIGHBOURS = 5
"""The neighbours that are averaged; see benchmarks/detection.py for others."""

COMPONENTS = 128
"""Principal components that a Mahalanobis distance keeps."""

_FEATURES = "features"
_SQUARES = "squares"
_LANES = 8
"""Columns of a sum over features that is done as a product: a single one is another kernel."""

_ROWS = 512
_LEAST = 2


class Distance(Protocol):
    """A way to measure, fitted to known rows."""

    kind: ClassVar[str]

    @property
    def features(self) -> int:
        """F."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What it consists of, for a file."""

    def graph(self) -> onnx.GraphProto:
        """`features` `[B, F]` to a few numbers for each row; `weights` are outside of it."""

    def weights(self) -> dict[str, NDArray[Any]]:
        """The arrays that the graph reads, by their names there."""

    def finish(self, outputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float64]:
        """The graph's outputs to distances, `[B]`."""


@dataclass(frozen=True)
class NearestNeighbours:
    """One minus the mean cosine to the nearest known rows (Sun et al. 2022, with the mean for the k-th).

    Attributes:
        bank: `float16 [N, F]`, features of known rows, each of length 1.
        neighbours: how many are averaged, `int64 []`.
    """

    kind: ClassVar[str] = "neighbours"
    bank: NDArray[np.float16]
    neighbours: NDArray[np.int64]

    @classmethod
    def fit(cls, features: NDArray[np.float32], neighbours: int = NEIGHBOURS) -> NearestNeighbours:
        """Keep known rows.

        Args:
            features: `[N, F]`.
            neighbours: how many are averaged; fewer where N is smaller.
        """
        length = np.sqrt(np.square(features, dtype=np.float64).sum(axis=1, keepdims=True))
        bank = (features / np.where(length > 0, length, 1)).astype(np.float16)
        return cls(bank, np.array(min(neighbours, len(bank))))

    @property
    def features(self) -> int:
        """F."""
        return int(self.bank.shape[1])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What it consists of."""
        return {"bank": self.bank, "neighbours": self.neighbours}

    def graph(self) -> onnx.GraphProto:
        """Products with the whole bank, of which the largest leave the session, and the square of the length."""
        nodes = [  # the bank is made float32, and laid out for the product, when the session opens
            helper.make_node("Cast", ["bank"], ["known"], to=TensorProto.FLOAT),
            helper.make_node("Gemm", [_FEATURES, "known"], ["products"], transB=1),
            helper.make_node("TopK", ["products", "k"], ["nearest", "places"], axis=-1),
            *_sum_squares(_FEATURES),
        ]
        count = int(self.neighbours)
        constants = {"k": np.array([count]), "ones": _ones(self.features)}
        return _make_graph(nodes, self.features, {"nearest": count, _SQUARES: _LANES}, constants, self.weights())

    def weights(self) -> dict[str, NDArray[Any]]:
        """The bank."""
        return {"bank": self.bank}

    def finish(self, outputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float64]:
        """1 - mean cosine, 0 to 2; 1 for a row without any feature."""
        length = np.sqrt(outputs[_SQUARES][:, 0].astype(np.float64))
        total = np.zeros(len(length))
        for column in outputs["nearest"].T:  # one after the other, whatever the memory layout
            total += column
        mean = total / outputs["nearest"].shape[1]
        distance: NDArray[np.float64] = np.maximum(1 - mean / np.where(length > 0, length, 1), 0)
        return distance


@dataclass(frozen=True)
class Mahalanobis:
    """Mahalanobis distance to the mean of known rows, in their principal components (Lee et al. 2018, one class).

    Attributes:
        mean: `float32 [F]`.
        directions: `float32 [F, D]`, the components, each divided by its standard deviation.
    """

    kind: ClassVar[str] = "mahalanobis"
    mean: NDArray[np.float32]
    directions: NDArray[np.float32]

    @classmethod
    def fit(cls, features: NDArray[np.float32]) -> Mahalanobis:
        """Find the components of known rows.

        Args:
            features: `[N, F]`.
        """
        mean = features.mean(axis=0, dtype=np.float64)
        centred = features - mean
        values, vectors = np.linalg.eigh(centred.T @ centred / len(features))
        kept = [index for index in range(len(values))[::-1][:COMPONENTS] if values[index] > values[-1] * 1e-7]
        directions = vectors[:, kept] / np.sqrt(values[kept])
        return cls(mean.astype(np.float32), directions.astype(np.float32))

    @property
    def features(self) -> int:
        """F."""
        return len(self.mean)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What it consists of."""
        return {"mean": self.mean, "directions": self.directions}

    def graph(self) -> onnx.GraphProto:
        """The square of the distance."""
        nodes = [
            helper.make_node("Sub", [_FEATURES, "mean"], ["centred"]),
            helper.make_node("MatMul", ["centred", "directions"], ["components"]),
            *_sum_squares("components"),
        ]
        count = self.directions.shape[1]
        return _make_graph(nodes, self.features, {_SQUARES: _LANES}, {"ones": _ones(count)}, self.weights())

    def weights(self) -> dict[str, NDArray[Any]]:
        """Mean and directions."""
        return self.arrays()

    def finish(self, outputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float64]:
        """The distance, in standard deviations."""
        return np.sqrt(outputs[_SQUARES][:, 0].astype(np.float64))


DISTANCES: dict[str, type[NearestNeighbours] | type[Mahalanobis]] = {
    kind.kind: kind for kind in (NearestNeighbours, Mahalanobis)
}
"""Every kind of distance by its name."""


def distance_from_arrays(kind: str, arrays: dict[str, NDArray[Any]]) -> Distance:
    """A distance as a file holds it.

    Raises:
        KeyError, TypeError: there is no such kind, or it does not consist of these arrays.
    """
    return DISTANCES[kind](**arrays)


class DistanceMeter:
    """Measures one distance on a device.

    Args:
        distance: what to measure.
        device: where.
    """

    def __init__(self, distance: Distance, device: Device) -> None:
        self._distance = distance
        imports = [helper.make_opsetid("", 17)]
        model = helper.make_model(distance.graph(), opset_imports=imports, ir_version=8)
        self._part = GraphSession(model, device, weights=distance.weights())
        self._pool = ThreadPoolExecutor(device.workers, thread_name_prefix="distance")
        self._workers = device.workers

    def measure(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Distances `[B]` of features `[B, F]`, B at least 1."""
        fed = features if len(features) >= _LEAST else np.repeat(features, _LEAST, axis=0)
        parts = max(1, min(max(self._workers, -(-len(fed) // _ROWS)), len(fed) // _LEAST))
        measured = list(self._pool.map(self._measure_some, np.array_split(fed, parts)))
        return np.concatenate(measured)[: len(features)]

    def _measure_some(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        outputs = self._part.run({_FEATURES: self._part.put(features)})
        return self._distance.finish(to_numpy(outputs, self._part.outputs))


def _sum_squares(name: str) -> list[onnx.NodeProto]:
    """The sum of squares over the last axis, `_LANES` times the same, as a product.

    A reduction would start where memory is aligned, and so depend on a row's place.
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
        node.name = node.output[0]  # the check of where a node was placed needs it
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", size]) for name, size in outputs.items()]
    return helper.make_graph(
        nodes,
        "distance",
        [helper.make_tensor_value_info(_FEATURES, TensorProto.FLOAT, ["B", features])],
        values,
        [
            *(numpy_helper.from_array(array, name) for name, array in constants.items()),
            *(outside_weight(name, array) for name, array in weights.items()),
        ],
    )
