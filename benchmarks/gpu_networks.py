"""The networks of `benchmarks.gpu`: small networks exported beforehand, and a ResNet50 built here with random weights.

In: a folder. Out: exported files, images, and shards of encoded images. Only `prepare` needs TensorFlow.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from benchmarks.networks import NETWORKS
from export.contract.inputs import Preprocessing, Resize
from export.contract.metadata import DOMAIN, ModelContract, Site
from export.errors import InputRefused
from export.graph.passes import add_noise_functions, stamp_metadata

RESNET = "resnet50"
RESNET_NETWORK = "ResNet50 on 224 x 224 x 3, 1,000 classes, random weights, one dropout before the classifier"
DESCRIPTIONS = {**NETWORKS, RESNET: RESNET_NETWORK}

_STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))
"""Blocks and inner channels of the stages of ResNet50 (He et al. 2016)."""

_BRANCH_GAIN = 0.3
"""Factor of the last convolution of a block, so that activations stay near 1 in magnitude through all blocks."""

_CLASSIFIER_GAIN = 6.0
"""Factor of the classifier's weight, so that the logits differ enough for predictions that are not uniform."""

_PHOTOGRAPH = (375, 500)
"""Height and width of the photographs for networks that resize."""


def prepare(work: Path) -> None:
    """Export the small networks into a folder; needs TensorFlow."""
    from benchmarks.networks import SHAPES, build
    from export.exporter import export_model

    work.mkdir(parents=True, exist_ok=True)
    for name in NETWORKS:
        resize = "bilinear" if SHAPES[name][0] >= 224 else "none"
        export_model(build(name), work / f"{name}.onnx", scale=1 / 255, resize=resize)


def find_models(work: Path, scratch: Path) -> dict[str, Path]:
    """Paths of the exported files of all networks, by name; ResNet50 is built in `scratch`.

    Raises:
        InputRefused: the folder lacks a network.
    """
    missing = [name for name in NETWORKS if not (work / f"{name}.onnx").is_file()]
    if missing:
        raise InputRefused(
            f"The folder {work} lacks {', '.join(f'{name}.onnx' for name in missing)}.",
            wanted="the networks that need TensorFlow to be exported",
            next_step=f"run `python -m benchmarks.gpu --prepare --work {work}` on a machine with TensorFlow",
        )
    return {**{name: work / f"{name}.onnx" for name in NETWORKS}, RESNET: build_resnet50(scratch / f"{RESNET}.onnx")}


class _Builder:
    """Collects the nodes and weights of a graph with axes `[N, C, H, W]`."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, array: NDArray[np.float32]) -> str:
        self.weights.append(numpy_helper.from_array(array, f"weight_{len(self.weights)}"))
        return str(self.weights[-1].name)

    def node(self, op_type: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"value_{len(self.nodes)}"
        name = f"{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=name, **attributes))
        return output

    def convolution(self, x: str, inner: int, outer: int, size: int, stride: int = 1, gain: float = 1.0) -> str:
        """Add a convolution, with the following BatchNormalization folded into its weight and bias."""
        deviation = gain * math.sqrt(2 / (inner * size * size))
        weight = self._random.standard_normal((outer, inner, size, size), np.float32) * np.float32(deviation)
        bias = self.constant(np.zeros(outer, np.float32))
        pads = [size // 2] * 4
        return self.node("Conv", x, self.constant(weight), bias, strides=[stride] * 2, pads=pads)

    def block(self, x: str, inner: int, middle: int, stride: int) -> str:
        """Add a bottleneck block."""
        y = self.node("Relu", self.convolution(x, inner, middle, 1))
        y = self.node("Relu", self.convolution(y, middle, middle, 3, stride))
        y = self.convolution(y, middle, 4 * middle, 1, gain=_BRANCH_GAIN)
        if inner != 4 * middle:
            x = self.convolution(x, inner, 4 * middle, 1, stride, gain=math.sqrt(0.5))
        return self.node("Relu", self.node("Add", x, y))

    def dense(self, x: str, inner: int, outer: int) -> str:
        weight = self._random.standard_normal((inner, outer), np.float32) * np.float32(
            _CLASSIFIER_GAIN / math.sqrt(inner)
        )
        return self.node("Gemm", x, self.constant(weight), self.constant(np.zeros(outer, np.float32)))


def build_resnet50(path: Path, side: int = 224, classes: int = 1000) -> Path:
    """Write a ResNet50 with random weights and dropout before the classifier, in the format of `oodscreen export`.

    Args:
        path: path of the file.
        side: height and width of the images, a multiple of 32.
        classes: number of classes.
    """
    shape = (side, side, 3)
    g = _Builder()
    x = g.node("Cast", "image", to=TensorProto.FLOAT)
    x = g.node("Mul", x, g.constant(np.array(1 / 255, np.float32)))
    x = g.node("Relu", g.convolution(g.node("Transpose", x, perm=[0, 3, 1, 2]), 3, 64, 7, 2))
    x = g.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    inner = 64
    for stage, (blocks, middle) in enumerate(_STAGES):
        for block in range(blocks):
            x = g.block(x, inner, middle, 2 if stage and not block else 1)
            inner = 4 * middle
    x = g.node("Flatten", g.node("GlobalAveragePool", x), axis=1)
    site = Site("dropout", "MCDropout", 0.2, (inner,), (inner,), (f"Gemm_{len(g.nodes) + 1}",))
    x = g.node(site.kind, x, domain=DOMAIN, rate=site.rate)
    g.nodes[-1].name = site.name
    g.node("Softmax", g.dense(x, inner, classes), output="output", axis=-1)
    graph = helper.make_graph(
        g.nodes,
        RESNET,
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *shape])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", classes])],
        g.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    add_noise_functions(model)
    contract = ModelContract(
        "image", "output", *shape, classes, "softmax", (site,), Preprocessing(1 / 255), Resize("bilinear")
    )
    stamp_metadata(model, contract)
    path.write_bytes(model.SerializeToString())
    return path


def make_images(shape: tuple[int, int, int], rows: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random images `uint8 [rows, H, W, C]` with the 1/f spectrum of photographs, so that neighbours are similar."""
    height, width, channels = shape
    random = np.random.default_rng(seed)
    y, x = np.fft.fftfreq(height)[:, np.newaxis], np.fft.rfftfreq(width)
    envelope = 1 / np.maximum(np.hypot(y, x), 1 / max(height, width))
    images = np.empty((rows, *shape), np.uint8)
    for image in images:
        noise = np.fft.rfft2(random.standard_normal((channels, height, width)))
        waves = np.fft.irfft2(noise * envelope, s=(height, width))
        waves = (waves - waves.mean()) / waves.std()
        image[:] = np.clip(128 + 60 * waves, 0, 255).transpose(1, 2, 0)
    return images


def write_images(contract: ModelContract, rows: int, folder: Path) -> Path:
    """Write a shard of `rows` encoded images, which repeat 32 different images, and return its folder.

    For networks that resize, the images are JPEG photographs of 500 x 375 pixels; else PNG images of the input size.
    """
    resizes = contract.resize.method != "none"
    shape = (*_PHOTOGRAPH, contract.channels) if resizes else contract.image_shape
    encoded = []
    for image in make_images(shape, 32):
        buffer = io.BytesIO()
        pixels = image[..., 0] if contract.channels == 1 else image
        Image.fromarray(pixels).save(buffer, "JPEG" if resizes else "PNG", quality=90)
        encoded.append(buffer.getvalue())
    folder.mkdir(parents=True, exist_ok=True)
    column = pa.array([encoded[row % len(encoded)] for row in range(rows)], pa.binary())
    pq.write_table(pa.table({"image": column}), folder / "a.parquet", row_group_size=256, use_dictionary=False)
    return folder
