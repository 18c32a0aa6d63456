"""ONNX files of networks as users write them: the facts and the next steps in the messages of the export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.errors import ModelRefused, VerificationFailed
from export.exporter import ExportNotice
from tests.export.onnx_source.graphs import CLASSES, export, export_saved, network, node, weight


def replaced(model: onnx.ModelProto, name: str, values: object) -> onnx.ModelProto:
    """The model with other values of one weight."""
    tensor = next(one for one in model.graph.initializer if one.name == name)
    tensor.CopyFrom(weight(name, values))
    return model


def branches(ratio: float, source: str, output: str, inner: str) -> onnx.NodeProto:
    """An If with a constant condition, whose branches have a weight of the same name in each If."""

    def graph(nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
        value = helper.make_tensor_value_info(inner, TensorProto.FLOAT, None)
        return helper.make_graph(nodes, "branch", [], [value], [weight("inner.ratio", ratio)])

    then = graph([node("Dropout", [source, "inner.ratio", "on"], [inner], "drop")])
    other = graph([node("Identity", [source], [inner])])
    return node("If", ["on"], [output], f"if_{output}", then_branch=then, else_branch=other)


@pytest.mark.parametrize("softmax", [False, True])
def test_constant_outputs_are_named_because_they_prove_nothing(softmax: bool, tmp_path: Path) -> None:
    end = [node("Softmax", ["logits"], ["scores"])] if softmax else []
    model = network(end=end, output="scores" if softmax else "logits")
    with pytest.warns(ExportNotice, match="returns the same outputs for every test image, with and without dropout"):
        export(replaced(model, "fc.w", np.zeros((CLASSES, 4))), tmp_path, output_kind=None if softmax else "logits")


def test_the_notice_about_a_silent_dropout_names_the_options_that_keep_the_sites(tmp_path: Path) -> None:
    nodes = [
        node("Dropout", ["flat", "ratio", "off"], ["d1"], "quiet"),
        node("Dropout", ["d1", "ratio", "on"], ["d2"], "live"),
        node("Dropout", ["d2", "zero", "on"], ["dropped"], "zero"),
    ]
    with pytest.warns(ExportNotice) as notices:
        export(network(nodes, more=[weight("zero", 0.0)]), tmp_path)
    off = "would switch this dropout on and all other dropout off; to keep the sites too, add --keep-layer 'live'"
    messages = [str(one.message) for one in notices]
    assert any(one.endswith(f"--keep-layer 'quiet' {off}") for one in messages), messages
    assert any(one.endswith(f"--keep-layer 'zero' --rate 'zero=0.5' {off}") for one in messages), messages
    with pytest.warns(ExportNotice) as notices:
        contract = export_saved(tmp_path, keep_layer=["quiet", "live"])
    assert [site.name for site in contract.sites] == ["quiet", "live"]
    assert any(
        "switch this dropout on, add --keep-layer 'zero' --rate 'zero=0.5'" in str(one.message) for one in notices
    )


@pytest.mark.parametrize("second", ["inner", "other"])
def test_branches_with_equal_names_keep_their_own_values(second: str, tmp_path: Path) -> None:
    model = network([branches(0.2, "flat", "once", "inner"), branches(0.4, "once", "dropped", second)])
    assert [(site.name, site.rate) for site in export(model, tmp_path).sites] == [("drop", 0.2), ("drop#2", 0.4)]


def test_mixed_rows_are_named_as_the_reason(tmp_path: Path) -> None:
    end = [
        node("ReduceMean", ["logits", "rows"], ["mean"]),
        node("Mul", ["mean", "half"], ["part"]),
        node("Sub", ["logits", "part"], ["x"]),
    ]
    model = network(end=end, output="x", more=[weight("rows", [0], np.int64), weight("half", 0.5)])
    with pytest.raises(VerificationFailed, match=r"changes by .* with the other rows of its batch"):
        export(model, tmp_path)


def test_a_single_squeezed_output_gets_its_axis_back(tmp_path: Path) -> None:
    model = network(end=[node("ReduceMax", ["logits", "last"], ["top"], keepdims=0)], output="top")
    model.graph.initializer.append(weight("last", [1], np.int64))
    del model.graph.output[0].type.tensor_type.shape.dim[1]
    with pytest.raises(ModelRefused, match=r"has the shape \[2\] for 2 images") as raised:
        export(model, tmp_path)
    assert "torch.nn.Unflatten(0, (-1, 1))" in raised.value.next_step


@pytest.mark.parametrize(
    "move",
    [
        node("Gather", ["image", "reversed"], ["moved"], axis=1),
        node("Transpose", ["image"], ["moved"], perm=[0, 1, 2, 3]),
    ],
    ids=lambda one: str(one.op_type),
)
def test_a_scale_is_found_after_moves_and_readers_of_the_shape(move: onnx.NodeProto, tmp_path: Path) -> None:
    before = [
        node("Shape", ["image"], ["shape"], "shape"),
        node("Gather", ["shape", "first"], ["rows"]),
        move,
        node("Div", ["moved", "by"], ["scaled"]),
    ]
    end = [node("Concat", ["rows", "all"], ["size"], axis=0), node("Reshape", ["logits", "size"], ["out"])]
    more = [weight("by", 255.0), weight("reversed", [2, 1, 0], np.int64), weight("first", [0], np.int64)]
    model = network(
        before=before, conv_input="scaled", end=end, output="out", more=[*more, weight("all", [CLASSES], np.int64)]
    )
    assert export(model, tmp_path, scale=None).preprocessing.scale is None


def test_pixels_that_are_indices_are_not_scaled_by_the_model(tmp_path: Path) -> None:
    before = [
        node("Cast", ["image"], ["index"], to=TensorProto.INT64),
        node("Gather", ["palette", "index"], ["colours"]),
        node("Div", ["colours", "by"], ["scaled"]),
    ]
    more = [weight("palette", np.arange(256)), weight("by", 255.0)]
    with pytest.raises(ModelRefused, match="has no operation that scales pixels"):
        export(network(before=before, conv_input="scaled", more=more), tmp_path, scale=None)


@pytest.mark.parametrize(
    ("data", "found", "next_step"),
    [
        (b"PK\3\4" + bytes(26) + b"net/model.onnx" + bytes(20), "a ZIP archive", "extract the archive"),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "a web page", "download the file itself"),
    ],
    ids=["zip", "html"],
)
def test_a_file_that_is_named_like_onnx_is_recognised(data: bytes, found: str, next_step: str, tmp_path: Path) -> None:
    (tmp_path / "source.onnx").write_bytes(data)
    with pytest.raises(ModelRefused, match=found) as raised:
        export_saved(tmp_path)
    assert next_step in raised.value.next_step


@pytest.mark.parametrize("same_factor", [True, False])
def test_one_mask_for_two_values_is_not_two_dropouts(same_factor: bool, tmp_path: Path) -> None:
    nodes = [
        node("RandomUniformLike", ["flat"], ["numbers"], "n1"),
        node("Less", ["numbers", "keep"], ["kept"]),
        node("Cast", ["kept"], ["kept.f"], to=TensorProto.FLOAT),
        node("Div", ["kept.f", "keep"], ["factor"]),
        node("Div", ["kept.f", "keep"], ["again"]),
        node("Mul", ["flat", "factor"], ["a"]),
        node("Sin", ["flat"], ["sine"]),
        node("Mul", ["sine", "factor" if same_factor else "again"], ["b"]),
        node("Sub", ["a", "b"], ["dropped"]),
    ]
    with pytest.raises(ModelRefused, match=r"draws random numbers .* n1 \(RandomUniformLike\)"):
        export(network(nodes, more=[weight("keep", 0.75)]), tmp_path)


def test_the_index_of_the_largest_logit_is_no_output(tmp_path: Path) -> None:
    model = network(end=[node("ArgMax", ["logits"], ["top"], axis=1)], output="top")
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    with pytest.raises(ModelRefused, match=r"The output top .* has the type int64") as raised:
        export(model, tmp_path)
    assert "argmax" in raised.value.next_step


@pytest.mark.parametrize("name", ["ratio", "fc.w", "flat"])
def test_two_values_of_one_name_are_refused(name: str, tmp_path: Path) -> None:
    model = network()
    model.graph.initializer.append(weight(name, 0.6))
    with pytest.raises(ModelRefused, match=f"has several values with the name {name}"):
        export(model, tmp_path)


@pytest.mark.parametrize("imported", [False, True])
def test_the_other_name_of_the_standard_domain_is_known(imported: bool, tmp_path: Path) -> None:
    model = network()
    for one in model.graph.node:
        one.domain = "ai.onnx" if one.op_type == "Dropout" or imported else ""
    model.opset_import[0].domain = "ai.onnx" if imported else ""
    assert [site.name for site in export(model, tmp_path).sites] == ["classifier/drop"]


def test_the_name_of_a_site_is_printable(tmp_path: Path) -> None:
    nodes = [node("Dropout", ["flat", "ratio", "on"], ["dropped"], "n\u00e4me\n\x1b[31m")]
    assert export(network(nodes), tmp_path).sites[0].name == "n\u00e4me__[31m"
