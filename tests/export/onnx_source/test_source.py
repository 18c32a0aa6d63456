"""Layouts of ONNX files with active dropout that are exported, each with the proof of `export.proof`."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.contract.reader import read_model
from export.exporter import ExportNotice
from export.onnx_source.dropouts import SWITCHED_ON
from tests.export.onnx_source.graphs import CLASSES, IMAGE, RATE, export, export_saved, network, node, weight


def dropout(*inputs: str, **more: Any) -> list[onnx.NodeProto]:
    return [node("Dropout", ["flat", *inputs], ["dropped"], "drop", **more)]


def constants() -> onnx.ModelProto:
    """As PyTorch's TorchScript exporter writes them."""
    before = [
        node("Constant", [], ["r"], "/drop/Constant", value=weight("", 0.25)),
        node("Constant", [], ["t"], "/drop/Constant_1", value=weight("", True, np.bool_)),
    ]
    return network([node("Dropout", ["flat", "r", "t"], ["dropped", "unused"], "/drop/Dropout")], before=before)


def inputs_with_defaults() -> onnx.ModelProto:
    inputs = [
        helper.make_tensor_value_info("ratio", TensorProto.FLOAT, []),
        helper.make_tensor_value_info("on", TensorProto.BOOL, []),
    ]
    return network(inputs=inputs)


def input_without_value() -> onnx.ModelProto:
    return network(dropout("ratio", "train"), inputs=[helper.make_tensor_value_info("train", TensorProto.BOOL, [])])


def computed() -> onnx.ModelProto:
    before = [node("Not", ["off"], ["t"]), node("Mul", ["ratio", "ratio"], ["r"]), node("Identity", ["r"], ["r2"])]
    return network(dropout("r2", "t", seed=3), before=before)


def function() -> onnx.ModelProto:
    body = [
        node("Constant", [], ["t"], value=weight("", True, np.bool_)),
        node("Constant", [], ["r"], value=weight("", RATE)),
        node("Dropout", ["x", "r", "t"], ["y", "m"]),
    ]
    made = helper.make_function("torch.nn", "Dropout", ["x"], ["y"], body, [helper.make_opsetid("", 18)])
    call = [helper.make_node("Dropout", ["flat"], ["dropped"], name="/drop/Dropout", domain="torch.nn")]
    return network(call, functions=[made])


def branch() -> onnx.ModelProto:
    def graph(name: str, nodes: list[onnx.NodeProto], output: str) -> onnx.GraphProto:
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)])

    then = graph("then", [node("Dropout", ["flat", "ratio", "on"], ["a"], "inner")], "a")
    other = graph("else", [node("Identity", ["flat"], ["b"])], "b")
    return network([node("If", ["on"], ["dropped"], "if", then_branch=then, else_branch=other)])


def norm(opset: int, **attributes: Any) -> onnx.ModelProto:
    names = ["flat.n", "rm", "rv"] if opset >= 14 else ["flat.n", "rm", "rv", "sm", "sv"]
    nodes = [
        node("BatchNormalization", ["flat", "s", "b", "mean", "var"], names, "norm", **attributes),
        node("Dropout", ["flat.n", "ratio", "on"], ["dropped"], "drop"),
    ]
    more = [
        weight("s", [1, 2, 1, 1]),
        weight("b", [0, 0, 1, 0]),
        weight("mean", [0.1, 0, 0, 0]),
        weight("var", [2, 1, 1, 1]),
    ]
    return network(nodes, more=more, opset=opset)


def spelled_out(shape: tuple[int, ...], factor_first: bool = False) -> onnx.ModelProto:
    """As PyTorch's newer exporter writes `nn.Dropout2d`, in-place `nn.Dropout` and stochastic depth."""
    ends = ["factor", "relu"] if factor_first else ["relu", "factor"]
    nodes = [
        node("Shape", ["relu"], ["n"], start=0, end=1),
        node("Concat", ["n", "rest"], ["shape"], axis=0),
        node("ConstantOfShape", ["shape"], ["zeros"]),
        node("RandomUniformLike", ["zeros"], ["numbers"], "n1"),
        node("Less", ["numbers", "keep"], ["kept"]),
        node("Cast", ["kept"], ["kept.f"], to=TensorProto.FLOAT),
        node("Div", ["kept.f", "keep"], ["factor"]),
        node("Mul", ends, ["masked"], "node_mul"),
        node("GlobalAveragePool", ["masked"], ["pooled2"]),
        node("Flatten", ["pooled2"], ["dropped"]),
    ]
    return network(nodes, more=[weight("keep", 0.75), weight("rest", shape, np.int64)], opset=20, ir_version=10)


def fixed_batch(batch: int) -> onnx.ModelProto:
    flatten = [node("Reshape", ["pooled", "target"], ["flat"], "view")]
    return network(batch=batch, flatten=flatten, more=[weight("target", [batch, 4], np.int64)])


def class_token(batch: int | str) -> onnx.ModelProto:
    """Tokens with a constant token in front, as in a vision transformer with a fixed batch."""
    more = [
        weight("tokens", [batch if isinstance(batch, int) else 0, 4, 64], np.int64),
        weight("cls", np.ones((1, 1, 4))),
        weight("first", 0, np.int64),
    ]
    nodes = [
        node("Reshape", ["relu", "tokens"], ["columns"]),
        node("Transpose", ["columns"], ["rows"], perm=[0, 2, 1]),
        node("Concat", ["cls", "rows"], ["sequence"], axis=1),
        node("Dropout", ["sequence", "ratio", "on"], ["noisy"], "drop"),
        node("ReduceMean", ["noisy"], ["dropped"], axes=[1], keepdims=0),
    ]
    return network(nodes, more=more, batch=batch, opset=17)


def heads() -> onnx.ModelProto:
    """Rows and heads on one axis, as `nn.MultiheadAttention` with `need_weights=True` writes them."""
    more = [weight("joined", [-1, 2], np.int64), weight("apart", [-1, 4], np.int64)]
    nodes = [
        node("Reshape", ["flat", "joined"], ["h"]),
        node("Dropout", ["h", "ratio", "on"], ["h.d"], "drop"),
        node("Reshape", ["h.d", "apart"], ["dropped"]),
    ]
    return network(nodes, more=more)


def rows_second() -> onnx.ModelProto:
    nodes = [
        node("Transpose", ["flat"], ["t"], perm=[1, 0]),
        node("Dropout", ["t", "ratio", "on"], ["t.d"], "drop"),
        node("Transpose", ["t.d"], ["dropped"], perm=[1, 0]),
    ]
    return network(nodes)


LAYOUTS: dict[str, tuple[Callable[[], onnx.ModelProto], float, tuple[int, ...], tuple[int, ...]]] = {
    "constants": (constants, 0.25, (4,), (4,)),
    "initializers": (network, RATE, (4,), (4,)),
    "inputs with defaults": (inputs_with_defaults, RATE, (4,), (4,)),
    "training_mode as an input without a value": (input_without_value, RATE, (4,), (4,)),
    "computed constants and a seed": (computed, 0.09, (4,), (4,)),
    "ratio left out": (lambda: network(dropout("", "on")), 0.5, (4,), (4,)),
    "in a function": (function, RATE, (4,), (4,)),
    "in a branch with a constant condition": (branch, RATE, (4,), (4,)),
    "operator set 12": (lambda: network(opset=12), RATE, (4,), (4,)),
    "operator set 22": (lambda: network(opset=22, ir_version=10), RATE, (4,), (4,)),
    "BatchNormalization in training mode": (lambda: norm(17, training_mode=1), RATE, (4,), (4,)),
    "BatchNormalization in training mode, operator set 13": (lambda: norm(13), RATE, (4,), (4,)),
    "nn.Dropout2d": (lambda: spelled_out((4, 1, 1)), 0.25, (4, 8, 8), (4, 1, 1)),
    "in-place nn.Dropout": (lambda: spelled_out((4, 8, 8)), 0.25, (4, 8, 8), (4, 8, 8)),
    "stochastic depth": (lambda: spelled_out((1, 1, 1), factor_first=True), 0.25, (4, 8, 8), (1, 1, 1)),
    "fixed batch of 1": (lambda: fixed_batch(1), RATE, (4,), (4,)),
    "fixed batch of 2": (lambda: fixed_batch(2), RATE, (4,), (4,)),
    "class token and fixed batch of 1": (lambda: class_token(1), RATE, (65, 4), (65, 4)),
    "heads on the axis of the rows": (heads, RATE, (2, 2), (2, 2)),
    "rows on the second axis": (rows_second, RATE, (4,), (4,)),
    "names of the exported file": (
        lambda: network(pixels="output", output="image", end=[node("Identity", ["logits"], ["image"])]),
        RATE,
        (4,),
        (4,),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_with_active_dropout_is_exported(layout: str, tmp_path: Path) -> None:
    make, rate, shape, noise_shape = LAYOUTS[layout]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExportNotice)
        contract = export(make(), tmp_path)
    (site,) = contract.sites
    assert (site.rate, site.shape, site.noise_shape, site.origin) == (rate, shape, noise_shape, "")
    assert contract.classes == CLASSES
    assert contract.image_shape == (*IMAGE[1:], IMAGE[0])
    assert max(contract.verified["deterministic_difference"], contract.verified["masked_difference"]) < 1e-5
    assert read_model(tmp_path / "out.onnx").contract == contract


def test_no_framework_is_loaded(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "source.onnx")
    code = (
        "import sys\nfor name in ('tensorflow', 'keras', 'tf2onnx', 'torch'): sys.modules[name] = None\n"
        "from export import export_file\n"
        f"export_file({str(tmp_path / 'source.onnx')!r}, {str(tmp_path / 'out.onnx')!r}, scale=1, output_kind='logits')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert read_model(tmp_path / "out.onnx").contract.source_name == "the source file"


def test_a_silent_dropout_is_switched_on_only_by_name(tmp_path: Path) -> None:
    nodes = [
        node("Dropout", ["flat", "ratio", "off"], ["d1"], "/features/quiet/Dropout"),
        node("Dropout", ["d1", "ratio", "on"], ["dropped"], "/features/live/Dropout"),
    ]
    with pytest.warns(ExportNotice, match=r"features/quiet is not a site: training_mode is false; --keep-layer"):
        contract = export(network(nodes), tmp_path)
    assert [(site.name, site.origin) for site in contract.sites] == [("features/live", "")]
    with pytest.warns(ExportNotice, match="features/quiet is silent in .* --keep-layer switches it on"):
        contract = export_saved(tmp_path, keep_layer=["quiet"], rate={"quiet": 0.2})
    assert [(site.name, site.rate, site.origin) for site in contract.sites] == [("features/quiet", 0.2, SWITCHED_ON)]
    assert SWITCHED_ON in read_model(tmp_path / "out.onnx").contract.describe()


def test_a_dropout_of_an_old_operator_set_is_silent_until_it_is_named(tmp_path: Path) -> None:
    model = network(dropout(ratio=RATE), opset=11)
    onnx.save(model, tmp_path / "source.onnx")
    with pytest.warns(ExportNotice, match="operator set 11 has no training_mode"):
        contract = export_saved(tmp_path, keep_layer=["drop"])
    assert contract.sites[0].rate == RATE


def test_a_rate_replaces_a_ratio_without_a_value(tmp_path: Path) -> None:
    model = network(dropout("r", "on"), inputs=[helper.make_tensor_value_info("r", TensorProto.FLOAT, [])])
    assert export(model, tmp_path, rate=0.4).sites[0].rate == 0.4


def test_a_logsoftmax_becomes_a_softmax(tmp_path: Path) -> None:
    model = network(end=[node("LogSoftmax", ["logits"], ["logs"], axis=1)], output="logs")
    with pytest.warns(ExportNotice, match="the LogSoftmax at the end is exported as a Softmax"):
        contract = export(model, tmp_path, output_kind=None)
    assert contract.output_kind == "softmax"


def test_an_output_is_chosen_by_name(tmp_path: Path) -> None:
    model = network(end=[node("Softmax", ["logits"], ["scores"], axis=1)])
    model.graph.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", CLASSES]))
    assert export(model, tmp_path, output_kind=None, output_layer="scores").output_kind == "softmax"


def test_pixels_of_integers_and_channels_last_are_recognised(tmp_path: Path) -> None:
    before = [
        node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        node("Div", ["pixels", "by"], ["scaled"]),
        node("Transpose", ["scaled"], ["first"], perm=[0, 3, 1, 2]),
    ]
    model = network(
        before=before, conv_input="first", kind=TensorProto.UINT8, image=(8, 8, 3), more=[weight("by", 255.0)]
    )
    contract = export(model, tmp_path, scale=None)
    assert contract.preprocessing.scale is None
    assert not contract.preprocessing.channels_first
    assert contract.image_shape == (8, 8, 3)


def test_a_variable_image_size_needs_a_stated_one(tmp_path: Path) -> None:
    contract = export(network(image=(3, "h", "w")), tmp_path, image_shape=(12, 10, 3))
    assert contract.image_shape == (12, 10, 3)
    assert contract.preprocessing.channels_first


def test_external_weights_are_read(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "source.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    first = export_saved(tmp_path).source_digest
    with (tmp_path / "w.data").open("r+b") as file:
        file.write(b"\1")
    assert export_saved(tmp_path).source_digest != first


def test_notes_of_the_exporter_are_not_copied(tmp_path: Path) -> None:
    model = network()
    for one in model.graph.node:
        one.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/ann/secret.py")
    export(model, tmp_path)
    assert b"secret" not in (tmp_path / "out.onnx").read_bytes()


def test_a_site_in_a_function_has_the_name_of_the_call(tmp_path: Path) -> None:
    assert export(function(), tmp_path).sites[0].name == "drop"


def test_a_site_has_the_name_of_its_module(tmp_path: Path) -> None:
    model = network(dropout("ratio", "on"))
    model.graph.node[4].metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'head', 'head.0', 'dropout']")
    assert export(model, tmp_path).sites[0].name == "head.0"
    assert export_saved(tmp_path, keep_layer=["drop"]).sites[0].name == "head.0"
