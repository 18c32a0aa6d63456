from __future__ import annotations

import pytest
from onnx import TensorProto, helper

from export.onnx_source.insertion import find_places
from tests.export.onnx_source.graphs import node, weight

SCOPES = "pkg.torch.onnx.name_scopes"


@pytest.mark.parametrize(
    ("weights", "scopes", "path"),
    [
        ("stem.conv1.weight", "['', 'stem', 'stem.conv1', 'conv2d']", "stem.conv1"),
        ("stem.conv1.weight", "['', 'stem', 'stem.bn1', '_native_batch_norm_legit_no_training']", "stem.conv1"),
        ("fused", "['', 'stem', 'stem.bn1', '_native_batch_norm_legit_no_training']", "node_Conv_41"),
    ],
)
def test_a_convolution_that_contains_its_batch_normalization_has_the_name_of_the_convolution(
    weights: str, scopes: str, path: str
) -> None:
    convolution = node("Conv", ["image", weights], ["map"], name="node_Conv_41")
    convolution.metadata_props.add(key=SCOPES, value=scopes)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, 4, 4]) for name in ("image", "map")]
    graph = helper.make_graph([convolution], "g", values[:1], values[1:], [weight(weights, [[[[1.0]]]])])
    assert [place.path for place in find_places(helper.make_model(graph))] == [path]
