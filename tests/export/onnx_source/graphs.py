"""Small ONNX files of an image network, as exporters write them, for the tests of the export of ONNX files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.contract.metadata import ModelContract
from export.exporter import export_file

RATE = 0.3
CLASSES = 3
IMAGE = (3, 8, 8)


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], name: str = "", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, outputs, name=name, **attributes)


def weight(name: str, values: Any, dtype: Any = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def weights(seed: int = 0, features: int = 4) -> list[onnx.TensorProto]:
    rng = np.random.default_rng(seed)
    return [
        weight("conv.w", rng.normal(size=(features, IMAGE[0], 3, 3)) / 4),
        weight("conv.b", rng.normal(size=features) / 4),
        weight("fc.w", rng.normal(size=(CLASSES, features))),
        weight("fc.b", rng.normal(size=CLASSES)),
        weight("ratio", RATE),
        weight("on", True, np.bool_),
        weight("off", False, np.bool_),
    ]


def network(
    dropout: Sequence[onnx.NodeProto] | None = None,
    *,
    before: Sequence[onnx.NodeProto] = (),
    end: Sequence[onnx.NodeProto] = (),
    more: Sequence[onnx.TensorProto] = (),
    inputs: Sequence[onnx.ValueInfoProto] = (),
    pixels: str = "image",
    conv_input: str = "",
    output: str = "logits",
    opset: int = 18,
    batch: int | str = "n",
    ir_version: int = 8,
    kind: int = TensorProto.FLOAT,
    image: Sequence[int | str] = IMAGE,
    functions: Sequence[onnx.FunctionProto] = (),
    flatten: Sequence[onnx.NodeProto] | None = None,
) -> onnx.ModelProto:
    """Conv, Relu, pooling, `dropout` from `flat` to `dropped`, and Gemm to `logits`."""
    if dropout is None:
        dropout = [node("Dropout", ["flat", "ratio", "on"], ["dropped", "mask"], "/classifier/drop/Dropout")]
    nodes = [
        *before,
        node("Conv", [conv_input or pixels, "conv.w", "conv.b"], ["conv"], "conv", pads=[1, 1, 1, 1]),
        node("Relu", ["conv"], ["relu"], "relu"),
        node("GlobalAveragePool", ["relu"], ["pooled"], "pool"),
        *(flatten or [node("Flatten", ["pooled"], ["flat"], "flatten")]),
        *dropout,
        node("Gemm", ["dropped", "fc.w", "fc.b"], ["logits"], "fc", transB=1),
        *end,
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(pixels, kind, [batch, *image]), *inputs],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, CLASSES])],
        [*weights(), *more],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(one.domain, 1) for one in functions)]
    model = helper.make_model(graph, opset_imports=imports, functions=functions, producer_name="pytorch")
    model.ir_version = ir_version
    return model


def export(model: onnx.ModelProto, folder: Path, **options: Any) -> ModelContract:
    """Export a model with pixels in 0..1 and logits, unless the options differ."""
    onnx.save(model, folder / "source.onnx")
    return export_saved(folder, **options)


def export_saved(folder: Path, **options: Any) -> ModelContract:
    return export_file(
        folder / "source.onnx", folder / "out.onnx", **{"scale": 1 / 255, "output_kind": "logits", **options}
    )
