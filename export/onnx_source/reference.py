"""Passes of an ONNX file in onnxruntime, with which the exported file is compared.

In: the file, its graph with marked sites, and a preprocessing. Out: an `OnnxReference`. Without noise, the file itself
runs, with its Dropout and BatchNormalization nodes in inference mode. With noise, its graph runs with each kept Dropout
replaced by a product with a mask that is drawn here. Rows run one by one, unless the file requires a batch size, so
that the comparison also shows that the exported file does not mix rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray

from export.contract.inputs import Preprocessing
from export.contract.metadata import Site
from export.model_source import Noise, NormInputs, SourcePass, Values
from export.onnx_source.graphs import Constants, producers_of
from export.onnx_source.images import FoundInput
from export.onnx_source.marks import factor_name, with_factors
from export.onnx_source.placement import Placement
from export.onnx_source.rows import GraphRun

_OTHER_ROUNDINGS = 3
"""Number of passes in `OnnxReference.other_roundings`."""

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class OnnxNetwork:
    """The graphs of an ONNX file that the reference runs.

    Attributes:
        plain: the model of the file, or the prepared graph without marks, in inference mode.
        marked: the prepared graph with marked sites, in the operator set and with the batch axis of the file.
        found: the image input.
        output: name of the output.
        placements: position of the rows in the input of each site, by name of the site.
        sites: the sites.
        of_logarithms: whether the outputs are logarithms of the probabilities that the exported file returns.
    """

    plain: onnx.ModelProto
    marked: onnx.ModelProto
    found: FoundInput
    output: str
    placements: Mapping[str, Placement]
    sites: tuple[Site, ...]
    of_logarithms: bool

    @cached_property
    def plain_run(self) -> GraphRun:
        """Session of the file without noise."""
        names = [self.output, *self._before(self.plain), *(name for name, _, _ in self._norms)]
        return GraphRun(self.plain, self.found, list(dict.fromkeys(names)))

    @cached_property
    def masked_run(self) -> GraphRun:
        """Session of the graph with the factors of the masks as inputs."""
        return GraphRun(with_factors(self.marked), self.found, [self.output, *self._before(self.marked)])

    def check(self) -> None:
        """Run one image without noise; errors of onnxruntime propagate."""
        self.run(np.zeros((1, *self.found.image.input_shape), np.float32), None)

    def run(self, pixels: Values, factors: Mapping[str, Values] | None) -> SourcePass:
        """A pass on preprocessed pixels, in batches of the size that the file requires, or of one row.

        Args:
            pixels: `[B, *shape of the input]`.
            factors: factors of the masks `[B, *shape of the site]` by name of the site; None for no noise.
        """
        size, rows = self.found.batch or 1, len(pixels)
        run = self.plain_run if factors is None else self.masked_run
        parts = []
        for start in range(0, rows, size):
            picked = np.minimum(np.arange(start, start + size), rows - 1)
            feeds = {
                factor_name(site): self.placements[site].arrange(one[picked]) for site, one in (factors or {}).items()
            }
            parts.append((run.batch(pixels[picked], feeds), min(size, rows - start)))
        joined = {name: np.concatenate([part[name][:count] for part, count in parts]) for name in parts[0][0]}
        outputs = joined[self.output]
        before = self._before(self.plain if factors is None else self.marked)
        norms = (
            () if factors is not None else tuple(_statistics(joined[name], *learned) for name, *learned in self._norms)
        )
        return SourcePass(
            np.exp(outputs) if self.of_logarithms else outputs,
            joined[before[0]].reshape(rows, -1) if before else None,
            {site: Noise(factor, np.zeros_like(factor)) for site, factor in (factors or {}).items()},
            norms,
        )

    def _before(self, model: onnx.ModelProto) -> list[str]:
        """List with the name of the input of the last softmax or sigmoid; empty if the graph ends otherwise."""
        producers = producers_of(model.graph)
        node = producers.get(self.output)
        while node is not None and node.op_type in ("Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze"):
            node = producers.get(node.input[0])
        ends = node is not None and node.op_type in ("Softmax", "LogSoftmax", "Sigmoid")
        return [node.input[0]] if node is not None and ends else []

    @cached_property
    def _norms(self) -> list[tuple[str, Values, Values]]:
        """Name of the input, learned mean and learned variance of each BatchNormalization node."""
        constants, found = Constants(self.plain), []
        for node in self.plain.graph.node:
            if node.op_type == "BatchNormalization" and not node.domain:
                mean, variance = constants.value(node.input[3]), constants.value(node.input[4])
                if mean is not None and variance is not None:
                    found.append((node.input[0], mean, variance))
        return found

    def biases(self) -> list[Values]:
        """Constant biases of the Conv and Gemm nodes, and constant vectors that are added."""
        constants, found = Constants(self.plain), []
        for node in self.plain.graph.node:
            names = list(node.input[2:3]) if node.op_type in ("Conv", "Gemm") else []
            names += node.input if node.op_type == "Add" else []
            values = [constants.value(name) for name in names]
            found += [np.asarray(value, np.float32) for value in values if value is not None and value.ndim == 1]
        return found


def _statistics(values: Values, mean: Values, variance: Values) -> NormInputs:
    axes = tuple(axis for axis in range(values.ndim) if axis != 1)
    return NormInputs(values.var(axis=axes), mean, variance)


class OnnxReference:
    """Reference for the verification: passes of an ONNX file on raw pixels.

    Args:
        network: the graphs of the file.
        preprocessing: preprocessing of the exported graph, applied here in numpy.
    """

    def __init__(self, network: OnnxNetwork, preprocessing: Preprocessing) -> None:
        self._network = network
        self._preprocessing = preprocessing

    def under(self, preprocessing: Preprocessing) -> OnnxReference:
        """The reference of the same file under another preprocessing with the same order of the axes."""
        return OnnxReference(self._network, preprocessing)

    def biases(self) -> list[Values]:
        """The biases of all layers."""
        return self._network.biases()

    def deterministic(self, images: Images) -> Values:
        """Outputs `[B, C]` without dropout."""
        return self.without_noise(images).outputs

    def as_trained(self, images: Images) -> SourcePass | None:
        """None, because a source ONNX file computes in float32."""
        return None

    def without_noise(self, images: Images) -> SourcePass:
        """A pass without dropout on `uint8 [B, H, W, C]`."""
        return self._network.run(self._preprocessing.apply(images), None)

    def draw(self, images: Images, seed: int) -> SourcePass:
        """A pass on `uint8 [B, H, W, C]` with new noise for every row; equal seeds give equal noise."""
        return self._network.run(self._preprocessing.apply(images), self._factors(len(images), seed))

    def other_roundings(self, images: Images, seed: int | None) -> list[SourcePass]:
        """Repetitions of `draw`, or of `without_noise` if `seed` is None, on pixels with other rounding errors."""
        pixels, rng = self._preprocessing.apply(images), np.random.default_rng(0)
        factors = None if seed is None else self._factors(len(images), seed)
        changes = (1 + rng.integers(0, 3, pixels.shape) * 2.0**-23 for _ in range(_OTHER_ROUNDINGS))
        return [self._network.run((pixels * change).astype(np.float32), factors) for change in changes]

    def _factors(self, rows: int, seed: int) -> dict[str, Values]:
        """The factor of each element of each site: 0, or `1 / (1 - rate)` with probability `1 - rate`."""
        factors = {}
        for index, site in enumerate(self._network.sites):
            draws = np.random.default_rng([seed, index]).random((rows, *site.noise_shape), np.float32)
            kept = (draws >= site.rate) / np.float32(1 - site.rate)
            factors[site.name] = np.ascontiguousarray(np.broadcast_to(kept, (rows, *site.shape)), np.float32)
        return factors
