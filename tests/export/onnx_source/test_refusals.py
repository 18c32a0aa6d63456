"""ONNX files that are refused, each with a separate message that names the problem and the next step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.errors import ModelRefused, OodscreenError, OptionRefused, OutputRefused, VerificationFailed
from export.exporter import export_file
from tests.export.onnx_source.graphs import CLASSES, export, export_saved, network, node, weight
from tests.export.onnx_source.test_source import dropout, norm, spelled_out

AGAIN = r"export the PyTorch model again with its dropout active"


@dataclass(frozen=True)
class Refused:
    """A model and the texts of its refusal."""

    make: Callable[[], onnx.ModelProto]
    found: str
    next_step: str
    error: type[OodscreenError] = ModelRefused
    options: dict[str, Any] = field(default_factory=dict)


def without_dropout() -> onnx.ModelProto:
    return network([node("Relu", ["flat"], ["dropped"], "relu2")])


def folded() -> onnx.ModelProto:
    return network([node("Identity", ["flat"], ["dropped"], "node_clone")])


def conditional(condition: str) -> onnx.ModelProto:
    def graph(name: str, nodes: list[onnx.NodeProto], output: str) -> onnx.GraphProto:
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)])

    then = graph("then", [node("Dropout", ["flat", "ratio", "on"], ["a"], "inner")], "a")
    other = graph("else", [node("Identity", ["flat"], ["b"])], "b")
    nodes = [
        node("ReduceMax", ["flat"], ["largest"], keepdims=0),
        node("Greater", ["largest", "ratio"], ["greater"]),
        node("If", [condition], ["dropped"], "if", then_branch=then, else_branch=other),
    ]
    return network(nodes)


def loop() -> onnx.ModelProto:
    body = helper.make_graph(
        [node("Dropout", ["x", "ratio", "on"], ["y"], "inner"), node("Identity", ["go"], ["go.out"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go.out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )
    return network(
        [node("Loop", ["two", "on", "flat"], ["dropped"], "loop", body=body)], more=[weight("two", 2, np.int64)]
    )


def half() -> onnx.ModelProto:
    model = network()
    model.graph.initializer[2].CopyFrom(weight("fc.w", np.ones((CLASSES, 4)), np.float16))
    return model


def domain(name: str, kind: str) -> onnx.ModelProto:
    extra = helper.make_node(kind, ["flat"], ["x"], domain=name)
    model = network([extra, node("Dropout", ["x", "ratio", "on"], ["dropped"])])
    model.opset_import.append(helper.make_opsetid(name, 1))
    return model


def several_outputs() -> onnx.ModelProto:
    model = network()
    model.graph.output.append(helper.make_tensor_value_info("pooled", TensorProto.FLOAT, None))
    return model


def two_inputs() -> onnx.ModelProto:
    extra = helper.make_tensor_value_info("age", TensorProto.FLOAT, ["n", 4])
    return network(
        [node("Add", ["flat", "age"], ["sum"]), node("Dropout", ["sum", "ratio", "on"], ["dropped"])], inputs=[extra]
    )


def untrained_norm() -> onnx.ModelProto:
    model = norm(17, training_mode=1)
    for tensor in model.graph.initializer:
        if tensor.name in ("mean", "var"):
            tensor.CopyFrom(weight(tensor.name, np.full(4, tensor.name == "var")))
    return model


def read_norm() -> onnx.ModelProto:
    model = norm(17, training_mode=1)
    model.graph.output.append(helper.make_tensor_value_info("rm", TensorProto.FLOAT, [4]))
    model.graph.node.append(node("Add", ["logits", "three"], ["sum"]))
    model.graph.node.append(node("Gather", ["rm", "first"], ["three"]))
    order = [*model.graph.node[:-2], model.graph.node[-1], model.graph.node[-2]]
    copies = [onnx.NodeProto.FromString(one.SerializeToString()) for one in order]
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.extend(copies)
    model.graph.output.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["n", CLASSES]))
    model.graph.initializer.append(weight("first", [0], np.int64))
    return model


def mixed_rows() -> onnx.ModelProto:
    nodes = [
        node("ReduceMean", ["flat"], ["mean"], axes=[0], keepdims=1),
        node("Sub", ["flat", "mean"], ["centred"]),
        node("Dropout", ["centred", "ratio", "on"], ["dropped"]),
    ]
    return network(nodes, opset=17)


def drawn_differently() -> onnx.ModelProto:
    model = spelled_out((4, 1, 1))
    for one in model.graph.node:
        if one.op_type == "Less":
            one.input[1] = "other"
    model.graph.initializer.append(weight("other", 0.5))
    return model


CASES: dict[str, Refused] = {
    "no dropout": Refused(without_dropout, r"no active dropout. Examined: no Dropout among 6 nodes \(Conv, ", AGAIN),
    "folded": Refused(folded, r"Identity nodes in place of removed dropout: node_clone", "TrainingMode.PRESERVE"),
    "training_mode false": Refused(
        lambda: network(dropout("ratio", "off")), r"drop \(training_mode is false\)", "switch a silent dropout on"
    ),
    "attention of PyTorch": Refused(
        lambda: network(dropout("ratio")), r"drop \(training_mode is left out, as in the files", AGAIN
    ),
    "ratio 0": Refused(
        lambda: network(dropout("zero", "on"), more=[weight("zero", 0.0)]), r"drop \(ratio is 0\)", AGAIN
    ),
    "operator set 11": Refused(
        lambda: network(dropout(ratio=0.3), opset=11), r"operator set 11 has no training_mode", "opset_version=18"
    ),
    "ratio 1": Refused(
        lambda: network(dropout("all", "on"), more=[weight("all", 1.0)]), "would have rate 1", "with --rate|`rate`"
    ),
    "ratio of the image": Refused(
        lambda: network([node("ReduceMean", ["flat"], ["r"], keepdims=0), *dropout("r", "on")]),
        "The ratio of the dropout drop .* is not a constant",
        "replace the value by a constant",
    ),
    "ratio without a value": Refused(
        lambda: network(dropout("r", "on"), inputs=[helper.make_tensor_value_info("r", TensorProto.FLOAT, [])]),
        "is an input of the graph without a value",
        "add the rate that was used in training",
        OptionRefused,
    ),
    "mask read": Refused(
        lambda: network(
            [
                node("Dropout", ["flat", "ratio", "on"], ["d", "m"], "drop"),
                node("Where", ["m", "d", "flat"], ["dropped"]),
            ]
        ),
        "The mask of the dropout drop .* is read by other nodes",
        "compute the output from the first output",
    ),
    "branch": Refused(lambda: conditional("greater"), "dropout inner .* is within the If if", "without this branch"),
    "loop": Refused(loop, "dropout inner .* is within the Loop loop", "fixed number of steps"),
    "hand-made mask": Refused(
        lambda: network(
            [
                node("Sigmoid", ["flat"], ["p"]),
                node("Bernoulli", ["p"], ["b"], "coin"),
                node("Mul", ["flat", "b"], ["x"]),
                node("Dropout", ["x", "ratio", "on"], ["dropped"]),
            ]
        ),
        r"operators other than Dropout: coin \(Bernoulli\)",
        "and hand-written masks, use these operators",
    ),
    "noise": Refused(
        lambda: network(
            [
                node("RandomNormalLike", ["flat"], ["z"], "noise"),
                node("Add", ["flat", "z"], ["noisy"]),
                node("Dropout", ["noisy", "ratio", "on"], ["dropped"]),
            ]
        ),
        r"random numbers in operators other than Dropout: noise \(RandomNormalLike\)",
        "replace this noise by torch.nn.Dropout",
    ),
    "spelled out with two rates": Refused(drawn_differently, r"n1 \(RandomUniformLike\)", "hand-written masks"),
    "float16": Refused(half, "computes in float16", r"model.float\(\)"),
    "float64 input": Refused(lambda: network(kind=TensorProto.DOUBLE), "computes in float64", r"model.float\(\)"),
    "quantized": Refused(
        lambda: network(
            [
                node("QuantizeLinear", ["flat", "ratio"], ["q"]),
                node("DequantizeLinear", ["q", "ratio"], ["x"]),
                node("Dropout", ["x", "ratio", "on"], ["dropped"]),
            ]
        ),
        "is quantized: it uses DequantizeLinear, QuantizeLinear",
        "before its quantization",
    ),
    "sklearn": Refused(
        lambda: domain("ai.onnx.ml", "Scaler"), "operators of classical machine learning: Scaler", "with dropout"
    ),
    "optimized by onnxruntime": Refused(
        lambda: domain("com.microsoft", "FusedConv"), "domains com.microsoft: FusedConv", "that the exporter wrote"
    ),
    "noise function without a contract": Refused(
        lambda: domain("oodscreen", "MCDropout"), "noise functions of oodscreen, but no contract", "original model"
    ),
    "unknown operator": Refused(
        lambda: network([node("Dropoff", ["flat"], ["x"]), node("Dropout", ["x", "ratio", "on"], ["dropped"])]),
        "operators that ONNX does not define: Dropoff",
        "with standard ONNX operators only",
    ),
    "operator set 6": Refused(lambda: network(opset=6), "uses operator set 6", "opset_version=18"),
    "several outputs": Refused(
        several_outputs, "has 2 outputs: logits, pooled", "--output-layer|output_layer", OptionRefused
    ),
    "no such output": Refused(
        network, "has no output of this name", "give one of these names", OptionRefused, {"output_layer": "x"}
    ),
    "no such site": Refused(
        network, "matches none of the dropout layers", "give one of these names", OptionRefused, {"keep_layer": ["x"]}
    ),
    "rate of no site": Refused(
        network,
        "matches none of the kept dropout layers",
        "give one of these names",
        OptionRefused,
        {"rate": {"x": 0.1}},
    ),
    "two inputs": Refused(
        two_inputs, r"has 2 inputs without a value: image \[N, 3, 8, 8\], age \[N, 4\]", "export this module"
    ),
    "four channels": Refused(
        lambda: network(image=(4, 8, 8)), r"takes an input \[N, 4, 8, 8\]", "with 1 or 3 channels"
    ),
    "variable size": Refused(
        lambda: network(image=(3, "h", "w")), r"takes an input \[N, 3, variable, variable\]", "224x224x3"
    ),
    "no scale": Refused(
        network, "has no operation that scales pixels of 0..255, and no scale", "1/255", options={"scale": None}
    ),
    "no output kind": Refused(network, "does not determine whether", "logits", options={"output_kind": None}),
    "maps": Refused(
        lambda: network(
            end=[node("Unsqueeze", ["logits", "one"], ["m"])], output="m", more=[weight("one", [1], np.int64)]
        ),
        r"The output m .* has the shape \[2, 1, 3\] for 2 images",
        "torch.nn.Flatten",
    ),
    "initial statistics": Refused(untrained_norm, "in training mode, and its running mean and variance have", "eval"),
    "statistics that are read": Refused(read_norm, "training mode, and other nodes read its batch statistics", "eval"),
    "rows are mixed": Refused(mixed_rows, "with the other rows of its batch", "across the batch", VerificationFailed),
    "weights": Refused(network, "was given, but an ONNX file", "leave out", OptionRefused, {"weights": Path("w.h5")}),
    "code": Refused(network, "was given, but an ONNX file", "leave out", OptionRefused, {"unsafe": True}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore::export.exporter.ExportNotice")
def test_a_file_that_cannot_be_exported_is_refused_by_name(case: str, tmp_path: Path) -> None:
    refused = CASES[case]
    with pytest.raises(refused.error, match=refused.found) as raised:
        export(refused.make(), tmp_path, **refused.options)
    assert raised.value.next_step
    assert any(part in raised.value.next_step for part in refused.next_step.replace("\\", "").split("|"))
    assert not (tmp_path / "out.onnx").exists()


FILES: dict[str, tuple[bytes, str, str]] = {
    "empty": (b"", r"source.onnx is not an ONNX file \(0 bytes\)", "compare the size"),
    "text": (b"hello, world", r"is not an ONNX file", "compare the size"),
    "PyTorch": (b"PK\3\4" + bytes(40), r"is not an ONNX file \(44 bytes, a PyTorch file\)", "torch.onnx.export"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer", "git lfs pull"),
    "half a file": (network().SerializeToString()[:200], "is not an ONNX file", "compare the size"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_no_onnx_is_refused(kind: str, tmp_path: Path) -> None:
    data, found, next_step = FILES[kind]
    (tmp_path / "source.onnx").write_bytes(data)
    with pytest.raises(ModelRefused, match=found) as raised:
        export_saved(tmp_path)
    assert next_step in raised.value.next_step


def test_the_file_itself_is_not_replaced(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "source.onnx")
    before = (tmp_path / "source.onnx").read_bytes()
    with pytest.raises(OutputRefused, match="is the model to export, and the export would replace it") as raised:
        export_file(tmp_path / "source.onnx", tmp_path / "." / "source.onnx", scale=1, output_kind="logits")
    assert "source-exported.onnx" in raised.value.next_step
    assert (tmp_path / "source.onnx").read_bytes() == before


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"source\.onnx could not be read: No such file"):
        export_saved(tmp_path)


def test_an_exported_file_is_not_exported_again(tmp_path: Path) -> None:
    export(network(), tmp_path)
    (tmp_path / "out.onnx").rename(tmp_path / "source.onnx")
    with pytest.raises(ModelRefused, match="was written by oodscreen export: its dropout is already stochastic"):
        export_saved(tmp_path)


def test_external_weights_must_be_whole_and_beside_the_file(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "source.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    (tmp_path / "w.data").rename(tmp_path / "other.data")
    with pytest.raises(ModelRefused, match=r"stores weights in 'w.data', which does not exist"):
        export_saved(tmp_path)
    (tmp_path / "w.data").write_bytes(b"\0" * 20)
    with pytest.raises(ModelRefused, match=r"external weights of .* are damaged"):
        export_saved(tmp_path)
    model = onnx.load(tmp_path / "source.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../secret"
    onnx.save(model, tmp_path / "source.onnx")
    with pytest.raises(ModelRefused, match="not a regular file in the folder of the model"):
        export_saved(tmp_path)


def test_a_file_with_too_many_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.onnx_source.read.LARGEST_FILE", 100)
    onnx.save(network(), tmp_path / "source.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    with pytest.raises(ModelRefused, match="GB of external weights"):
        export_saved(tmp_path)
