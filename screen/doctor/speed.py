"""Measure the speed of this machine: matrix products, convolutions, copies to a GPU, and decoding.

In: a `Device`. Out: `Speed`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.contract.inputs import Preprocessing, Resize
from export.contract.metadata import ModelContract
from screen.config import RunConfig
from screen.doctor.source import decode_made
from screen.doctor.timing import PER
from screen.engine.device.provider import Device
from screen.engine.device.session import GraphSession

_SECONDS = 0.5
"""Seconds of each test."""

_MATRIX = {"cpu": 1024, "cuda": 4096}
"""Number of rows and of columns of the matrices, by the name of the device; a GPU needs larger matrices."""

_IMAGES = {"cpu": 4, "cuda": 128}
"""Number of images in a convolution, by the name of the device."""

_CHANNELS, _SIDE, _KERNEL = 64, 56, 3
"""Channels in and out of the convolution; height and width of the images; height and width of the kernel."""

_COPY_BYTES = 2**26
"""Size of the array that is copied to a GPU, in bytes."""

_FLOAT32_ERROR = 2e-5
"""Maximum error of a float32 product relative to the product's largest element; factors rounded to 10 bits, as in tf32,
give about 3e-4."""

PHOTO = (375, 500)
"""Height and width of the JPEG images in the decoding test, in pixels."""

_PHOTO_CONTRACT = ModelContract(
    input_name="image",
    output_name="output",
    height=224,
    width=224,
    channels=3,
    classes=2,
    output_kind="softmax",
    sites=(),
    preprocessing=Preprocessing(scale=1.0),
    resize=Resize("bilinear"),
)


@dataclass(frozen=True)
class Speed:
    """Speed of a device, and of decoding on the CPU.

    Attributes:
        matrix_size: number of rows and of columns of the matrices.
        matrix_gflops: speed of products of two matrices, one product at a time on each worker, in 1e9 operations per
            second.
        convolution_gflops: speed of 3 x 3 convolutions, in the same unit.
        precision: measured precision of products: `float32`, or `tf32` if the error is larger than that of float32.
        copy_gb_per_second: speed of copies from the host to a GPU, in 1e9 bytes per second; None on the CPU.
        decoded_per_second: JPEG images of the size `PHOTO` that are decoded and resized to 224 x 224 in a second.
    """

    matrix_size: int
    matrix_gflops: float
    convolution_gflops: float
    precision: str
    copy_gb_per_second: float | None
    decoded_per_second: float


def measure_speed(device: Device, threads: int) -> Speed:
    """Measure the speed of a device; each test takes about `_SECONDS` seconds.

    Args:
        device: the device.
        threads: number of decoding threads; 0 for `usable_cores`.
    """
    size = _MATRIX[device.name]
    product = product_session(device)
    ones = np.ones((size, size), np.float32)
    decoded = decode_made(*PHOTO, _PHOTO_CONTRACT, RunConfig(threads=threads), _SECONDS)
    return Speed(
        matrix_size=size,
        matrix_gflops=2 * size**3 * _rate(product, {"a": ones, "b": ones}, device) / 1e9,
        convolution_gflops=_convolution_gflops(device),
        precision="float32" if _error(product) < _FLOAT32_ERROR else "tf32",
        copy_gb_per_second=None if device.name == "cpu" else _copy_speed(product) / 1e9,
        decoded_per_second=PER / decoded.timing.seconds,
    )


def product_session(device: Device) -> GraphSession:
    """A session that computes the product `c` of two square matrices `a` and `b`."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", "N"]) for name in "abc"]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", values[:2], values[2:])
    return GraphSession(_model(graph), device)


def _convolution_gflops(device: Device) -> float:
    images = _IMAGES[device.name]
    shape = [images, _CHANNELS, _SIDE, _SIDE]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    weights = numpy_helper.from_array(np.ones((_CHANNELS, _CHANNELS, _KERNEL, _KERNEL), np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[_KERNEL // 2] * 4)
    session = GraphSession(_model(helper.make_graph([node], "conv", values[:1], values[1:], [weights])), device)
    operations = 2 * images * (_CHANNELS * _KERNEL * _SIDE) ** 2
    return operations * _rate(session, {"x": np.ones(shape, np.float32)}, device) / 1e9


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _rate(session: GraphSession, arrays: dict[str, NDArray[np.float32]], device: Device) -> float:
    """Number of session runs per second, with one run at a time on each worker."""
    inputs = {name: session.put(array) for name, array in arrays.items()}
    session.run(inputs)  # the first run allocates memory and chooses algorithms

    def repeat(_: int) -> int:
        return _count(lambda: session.run(inputs), started)

    with ThreadPoolExecutor(device.workers) as pool:
        started = time.perf_counter()
        runs = sum(pool.map(repeat, range(device.workers)))
        return runs / (time.perf_counter() - started)


def _count(work: Callable[[], object], started: float) -> int:
    """Number of calls of `work` until `_SECONDS` seconds after `started`."""
    runs = 0
    while time.perf_counter() - started < _SECONDS:
        work()
        runs += 1
    return runs


def _error(product: GraphSession) -> float:
    """Largest error of a product of random matrices, relative to the largest element of the product."""
    a, b = np.random.default_rng(0).standard_normal((2, 256, 256)).astype(np.float32)
    found = product.run({"a": product.put(a), "b": product.put(b)})["c"].numpy()
    exact = a.astype(np.float64) @ b.astype(np.float64)
    return float(np.abs(found - exact).max() / np.abs(exact).max())


def _copy_speed(session: GraphSession) -> float:
    """Copied bytes per second from pageable host memory, from which a run copies too."""
    array = np.ones(_COPY_BYTES, np.uint8)
    session.put(array)
    started = time.perf_counter()
    runs = _count(lambda: session.put(array), started)
    return runs * _COPY_BYTES / (time.perf_counter() - started)
