"""Small stochastic graphs for the planner, and their reference outputs, computed pass by pass.

The reference replaces each site by a product with a mask that is an input, keeps the graph in one piece and runs one
pass at a time. It shares no code with the planner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.contract.inputs import Preprocessing
from export.contract.metadata import ALPHA_KINDS, ALPHA_PRIME, DOMAIN, ModelContract, Site
from export.contract.reader import ExportedModel
from export.graph.passes import add_noise_functions
from export.runtime import onnxruntime
from screen.engine.masks import draw_mask

SHAPE = (4, 4, 3)


class Graph:
    """Builds a graph node by node; `image` is float32 `[N, 4, 4, 3]` in 0..1."""

    def __init__(self, seed: int = 0, kind: str = "softmax") -> None:
        self.rng = np.random.default_rng(seed)
        self.kind = kind
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.sites: list[Site] = []
        self.image = self.op("Mul", self.op("Cast", "image", to=TensorProto.FLOAT), self.const(np.float32(1 / 255)))

    def op(self, op_type: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], **attributes))
        return output

    def const(self, array: Any) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(array), f"w{len(self.weights)}"))
        return str(self.weights[-1].name)

    def weight(self, *shape: int) -> str:
        return self.const((self.rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32))

    def site(
        self, x: str, *shape: int, noise: tuple[int, ...] | None = None, rate: float = 0.4, family: str = "Dropout"
    ) -> str:
        """Add a dropout site on rows of `shape`."""
        noise = noise or shape
        kind = f"MC{family}" if noise == shape else f"MCBroadcast{family}"
        site = Site(f"drop{len(self.sites)}", kind, rate, shape, noise)
        self.sites.append(site)
        attributes: dict[str, Any] = {"rate": rate}
        if noise != shape:
            attributes["noise_axes"] = [1, *(int(own == size) for own, size in zip(noise, shape, strict=True))]
        return self.op(kind, x, domain=DOMAIN, name=site.name, **attributes)

    def flat(self) -> str:
        """The image as rows of 48 elements, `[N, 48]`."""
        return self.op("Reshape", self.image, self.const(np.array([-1, 48])))

    def dense(self, x: str, inner: int, outer: int) -> str:
        return self.op("Add", self.op("MatMul", x, self.weight(inner, outer)), self.weight(outer))

    def finish(self, logits: str, classes: int) -> ExportedModel:
        last = {"softmax": "Softmax", "sigmoid": "Sigmoid"}.get(self.kind, "Identity")
        attributes = {"axis": -1} if last == "Softmax" else {}
        self.op(last, logits, output="output", **attributes)
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *SHAPE])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", classes])],
            self.weights,
        )
        imports = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, 1)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=8)
        add_noise_functions(model)
        contract = ModelContract(
            "image", "output", *SHAPE, classes, self.kind, tuple(self.sites), Preprocessing(1 / 255)
        )
        return ExportedModel(Path("test.onnx"), model, contract, "0" * 64)


def raw_values(kind: str, classes: int = 3) -> ExportedModel:
    """A model of output kind `kind`, whose outputs are probabilities for a black image only."""
    g = Graph(kind="regression")
    probabilities = np.arange(1, classes + 1) / (classes * (classes + 1) / 2) if classes > 1 else np.array([0.3])
    x = g.op("MatMul", g.site(g.flat(), 48), g.weight(48, classes))
    model = g.finish(g.op("Add", x, g.const(probabilities.astype(np.float32))), classes)
    return replace(model, contract=replace(model.contract, output_kind=kind))


def pass_by_pass(model: ExportedModel, images: NDArray[np.uint8], passes: int, seed: int) -> NDArray[np.float64]:
    """Outputs `[T, B, C]` of the whole graph, one pass at a time, with the masks of `seed`."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model.proto)
    del plain.functions[:]
    sites = {site.name: site for site in model.contract.sites}
    for node in plain.graph.node:
        if node.domain == DOMAIN:
            site = sites[node.name]
            shape = [1, *site.noise_shape]
            plain.graph.input.append(helper.make_tensor_value_info("m_" + site.name, TensorProto.FLOAT, shape))
            node.op_type, node.domain = "Mul", ""
            node.input.append("m_" + site.name)
            del node.attribute[:]
            if site.kind in ALPHA_KINDS:
                _make_affine(plain, node, site)
    session = onnxruntime.InferenceSession(plain.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = []
    for index in range(passes):
        masks = {"m_" + name: draw_mask(seed, site, index)[np.newaxis] for name, site in sites.items()}
        outputs.append(session.run(None, {"image": images, **masks})[0].astype(np.float64))
    return np.stack(outputs)


def _make_affine(plain: onnx.ModelProto, node: onnx.NodeProto, site: Site) -> None:
    """Append `a (x k + alpha' (1 - k)) + b` to the product `x k`, in the form of Klambauer et al. (2017)."""
    gain = 1 / np.sqrt((1 - site.rate) * (1 + site.rate * ALPHA_PRIME**2))
    output, mask = node.output[0], "m_" + site.name
    node.output[0] = output + "_kept"
    values = {"one": 1.0, "alpha": ALPHA_PRIME, "gain": gain, "shift": -gain * ALPHA_PRIME * site.rate}
    for name, value in values.items():
        plain.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), f"{output}_{name}"))
    steps = [
        ("Sub", f"{output}_one", mask, f"{output}_dropped"),
        ("Mul", f"{output}_dropped", f"{output}_alpha", f"{output}_sent"),
        ("Add", node.output[0], f"{output}_sent", f"{output}_mixed"),
        ("Mul", f"{output}_mixed", f"{output}_gain", f"{output}_scaled"),
        ("Add", f"{output}_scaled", f"{output}_shift", output),
    ]
    place = list(plain.graph.node).index(node) + 1
    for op_type, one, other, result in reversed(steps):
        plain.graph.node.insert(place, helper.make_node(op_type, [one, other], [result]))


def dense_chain() -> ExportedModel:
    g = Graph()
    x = g.op("Relu", g.dense(g.site(g.flat(), 48), 48, 20))
    return g.finish(g.dense(g.site(x, 20, rate=0.25), 20, 5), 5)


def site_before_flatten() -> ExportedModel:
    """The mask is transposed and reshaped with the data."""
    g = Graph()
    x = g.op("Transpose", g.site(g.image, 4, 4, 3), perm=[0, 3, 1, 2])
    x = g.op("Reshape", x, g.const(np.array([0, -1])))
    return g.finish(g.dense(x, 48, 5), 5)


def spatial_before_flatten() -> ExportedModel:
    g = Graph()
    x = g.op("Flatten", g.site(g.image, 4, 4, 3, noise=(1, 1, 3)), axis=1)
    return g.finish(g.dense(x, 48, 5), 5)


def gemm_transposed() -> ExportedModel:
    g = Graph()
    x = g.op("Gemm", g.site(g.flat(), 48), g.weight(7, 48), g.weight(7), transB=1)
    return g.finish(g.op("Gemm", g.site(g.op("Tanh", x), 7), g.weight(7, 5)), 5)


def scaled_gemm() -> ExportedModel:
    """Alpha and beta are not 1, so the mask multiplies the data."""
    g = Graph()
    return g.finish(g.op("Gemm", g.site(g.flat(), 48), g.weight(48, 5), g.weight(5), alpha=0.5, beta=2.0), 5)


def residual() -> ExportedModel:
    """Skip connections around the sites: the boundary is read twice."""
    g = Graph()
    x = g.op("Relu", g.dense(g.flat(), 48, 12))
    x = g.op("Add", x, g.dense(g.site(x, 12), 12, 12))
    x = g.op("Add", x, g.dense(g.site(g.op("Relu", x), 12), 12, 12))
    return g.finish(g.dense(x, 12, 5), 5)


def site_read_twice() -> ExportedModel:
    """Two products read the output of one site: masking a single weight would be wrong."""
    g = Graph()
    x = g.site(g.flat(), 48)
    return g.finish(g.op("Add", g.dense(x, 48, 5), g.op("Tanh", g.dense(x, 48, 5))), 5)


def parallel_branches() -> ExportedModel:
    g = Graph()
    one = g.op("Relu", g.dense(g.site(g.flat(), 48), 48, 6))
    two = g.op("Relu", g.dense(g.site(g.op("Tanh", g.flat()), 48, rate=0.7), 48, 6))
    return g.finish(g.dense(g.op("Concat", one, two, axis=1), 12, 5), 5)


def convolutions() -> ExportedModel:
    """Spatial dropout between convolutions: the passes are folded into the batch axis."""
    g = Graph()
    x = g.op("Transpose", g.image, perm=[0, 3, 1, 2])
    x = g.op("Relu", g.op("Conv", x, g.weight(6, 3, 3, 3), pads=[1, 1, 1, 1]))
    x = g.site(x, 6, 4, 4, noise=(6, 1, 1))
    x = g.op("Relu", g.op("Conv", x, g.weight(6, 6, 3, 3)))
    x = g.op("Flatten", g.op("GlobalAveragePool", x))
    return g.finish(g.dense(g.site(x, 6, rate=0.1), 6, 5), 5)


def tokens_with_own_masks() -> ExportedModel:
    """Each token has its own mask and the product keeps the token axis, so no single weight can be masked."""
    g = Graph()
    x = g.site(g.op("Reshape", g.image, g.const(np.array([-1, 16, 3]))), 16, 3)
    x = g.op("MatMul", x, g.weight(3, 4))
    return g.finish(g.op("ReduceMean", g.dense(x, 4, 5), g.const(np.array([1])), keepdims=0), 5)


def attention() -> ExportedModel:
    """Dropout on the attention scores, `[N, heads, S, S]`, before a product of two dynamic operands."""
    g = Graph()
    x = g.op("Reshape", g.image, g.const(np.array([-1, 16, 3])))

    def heads(perm: list[int]) -> str:
        projected = g.op("Reshape", g.dense(x, 3, 8), g.const(np.array([-1, 16, 2, 4])))
        return g.op("Transpose", projected, perm=perm)

    scores = g.op("Softmax", g.op("MatMul", heads([0, 2, 1, 3]), heads([0, 2, 3, 1])), axis=-1)
    mixed = g.op("MatMul", g.site(scores, 2, 16, 16), heads([0, 2, 1, 3]))
    mixed = g.op("Reshape", g.op("Transpose", mixed, perm=[0, 2, 1, 3]), g.const(np.array([-1, 16, 8])))
    pooled = g.op("ReduceMean", mixed, g.const(np.array([1])), keepdims=0)
    return g.finish(g.dense(g.site(pooled, 8), 8, 5), 5)


def shape_of_the_trunk() -> ExportedModel:
    """A reshape after the site takes the number of rows from a tensor before it."""
    g = Graph()
    x = g.op("Relu", g.dense(g.flat(), 48, 12))
    rows = g.op("Slice", g.op("Shape", g.image), g.const(np.array([0])), g.const(np.array([1])))
    target = g.op("Concat", rows, g.const(np.array([3, 4])), axis=0)
    x = g.op("Reshape", g.site(x, 12), target)
    x = g.op("Reshape", g.op("Tanh", x), g.op("Concat", rows, g.const(np.array([12])), axis=0))
    return g.finish(g.dense(x, 12, 5), 5)


def site_with_many_outputs() -> ExportedModel:
    """A wide layer, whose weight costs more to mask than the data."""
    g = Graph()
    x = g.op("Relu", g.dense(g.site(g.flat(), 48), 48, 1500))
    return g.finish(g.dense(x, 1500, 5), 5)


def site_on_a_side_path() -> ExportedModel:
    """The last node adds a deterministic and a stochastic value."""
    g = Graph()
    return g.finish(g.op("Add", g.dense(g.flat(), 48, 5), g.dense(g.site(g.flat(), 48), 48, 5)), 5)


def three_layers() -> ExportedModel:
    """The layer before the second site is compacted; a third site follows."""
    g = Graph()
    x = g.op("LeakyRelu", g.dense(g.site(g.flat(), 48), 48, 20), alpha=0.1)
    x = g.op("Mul", g.op("Tanh", x), g.weight(20))
    x = g.op("Relu", g.dense(g.site(x, 20, rate=0.6), 20, 10))
    return g.finish(g.dense(g.site(x, 10), 10, 5), 5)


def layer_read_twice() -> ExportedModel:
    """The layer between two sites has another reader, so all of its units are needed."""
    g = Graph()
    x = g.op("Relu", g.dense(g.site(g.flat(), 48), 48, 12))
    return g.finish(g.op("Add", g.dense(g.site(x, 12), 12, 5), g.dense(x, 12, 5)), 5)


def compacted_behind_a_batch_site() -> ExportedModel:
    """The compacted layer reads stochastic values, not the boundary."""
    g = Graph()
    tokens = g.site(g.op("Reshape", g.image, g.const(np.array([-1, 16, 3]))), 16, 3)
    x = g.op("Flatten", g.op("MatMul", tokens, g.weight(3, 2)), axis=1)
    x = g.op("Sub", g.op("Gemm", g.site(g.op("Tanh", x), 32), g.weight(9, 32), g.weight(9), transB=1), g.weight(9))
    return g.finish(g.op("Gemm", g.site(x, 9, rate=0.7), g.weight(5, 9), g.weight(5), transB=1), 5)


def gaussian_noise() -> ExportedModel:
    """Gaussian masks multiply weights as dropout masks do, but no unit is dropped."""
    g = Graph()
    x = g.op("Relu", g.dense(g.site(g.flat(), 48, family="GaussianDropout"), 48, 20))
    return g.finish(g.dense(g.site(x, 20, rate=0.25, family="GaussianDropout"), 20, 5), 5)


def gaussian_before_zeros() -> ExportedModel:
    g = Graph()
    x = g.op("Relu", g.dense(g.site(g.flat(), 48, family="GaussianDropout"), 48, 20))
    return g.finish(g.dense(g.site(x, 20, rate=0.25), 20, 5), 5)


def alpha_dropout() -> ExportedModel:
    """A dropped element is not 0, so the mask cannot multiply weights."""
    g = Graph()
    x = g.op("Selu", g.dense(g.site(g.flat(), 48, family="AlphaDropout", rate=0.2), 48, 20))
    tokens = g.op("Reshape", x, g.const(np.array([-1, 4, 5])))
    x = g.op("Flatten", g.site(tokens, 4, 5, noise=(1, 5), family="AlphaDropout"), axis=1)
    return g.finish(g.dense(x, 20, 5), 5)


GRAPHS: dict[str, tuple[Callable[[], ExportedModel], tuple[str, ...]]] = {
    "dense_chain": (dense_chain, ("weights", "compacted")),
    "site_before_flatten": (site_before_flatten, ("weights",)),
    "spatial_before_flatten": (spatial_before_flatten, ("weights",)),
    "gemm_transposed": (gemm_transposed, ("weights", "compacted")),
    "three_layers": (three_layers, ("weights", "compacted", "weights")),
    "layer_read_twice": (layer_read_twice, ("weights", "weights")),
    "compacted_behind_a_batch_site": (compacted_behind_a_batch_site, ("batch", "weights", "compacted")),
    "gaussian_noise": (gaussian_noise, ("weights", "weights")),
    "gaussian_before_zeros": (gaussian_before_zeros, ("weights", "compacted")),
    "alpha_dropout": (alpha_dropout, ("batch", "batch")),
    "scaled_gemm": (scaled_gemm, ("batch",)),
    "residual": (residual, ("weights", "weights")),
    "site_read_twice": (site_read_twice, ("batch",)),
    "parallel_branches": (parallel_branches, ("weights", "weights")),
    "convolutions": (convolutions, ("batch", "weights")),
    "tokens_with_own_masks": (tokens_with_own_masks, ("batch",)),
    "attention": (attention, ("batch", "weights")),
    "shape_of_the_trunk": (shape_of_the_trunk, ("batch",)),
    "site_with_many_outputs": (site_with_many_outputs, ("batch",)),
    "site_on_a_side_path": (site_on_a_side_path, ("weights",)),
}
