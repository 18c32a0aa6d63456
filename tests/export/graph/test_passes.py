from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.contract.inputs import Preprocessing
from export.contract.metadata import DOMAIN, Site
from export.graph.conditions import GraphPassError
from export.graph.passes import add_noise_functions, add_uint8_input, name_sites
from export.runtime import onnxruntime
from tests.agreement import assert_close_to_scale


def one_site(kind: str, rate: float, shape: list[int], noise_axes: list[int] | None = None) -> onnx.ModelProto:
    """A graph that consists of one site."""
    attributes: dict[str, Any] = {"noise_axes": noise_axes} if noise_axes else {}
    node = helper.make_node(kind, ["x"], ["y"], domain=DOMAIN, rate=rate, **attributes)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape]) for name in "xy"]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def run(model: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0], np.float32)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_noise_function_drops_the_rate_and_scales_the_rest(rate: float) -> None:
    model = one_site("MCDropout", rate, [400])
    add_noise_functions(model)
    onnx.checker.check_model(model, full_check=True)
    y = run(model, np.ones((500, 400), np.float32))
    np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - rate)], rtol=1e-6)
    assert abs(np.mean(y == 0) - rate) < 5 * np.sqrt(rate * (1 - rate) / y.size)


def test_broadcast_noise_is_shared_along_its_axes_and_drawn_for_each_row() -> None:
    model = one_site("MCBroadcastDropout", 0.5, [4, 5, 40], [1, 0, 0, 1])
    add_noise_functions(model)
    onnx.checker.check_model(model, full_check=True)
    y = run(model, np.ones((30, 4, 5, 40), np.float32))
    assert np.all(y == y[:, :1, :1])
    assert len(np.unique(y[:, 0, 0], axis=0)) == 30


def test_rate_zero_is_the_identity() -> None:
    model = one_site("MCDropout", 0.0, [40])
    add_noise_functions(model)
    x = np.random.default_rng(0).random((10, 40)).astype(np.float32)
    np.testing.assert_array_equal(run(model, x), x)


def test_preprocessing_is_scale_then_mean_then_std() -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2, 2, 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    add_uint8_input(model, Preprocessing(1 / 255, (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)), (2, 2, 3))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3) * 10
    expected = (pixels / 255 - [0.4, 0.5, 0.6]) / [0.1, 0.2, 0.3]
    assert_close_to_scale(session.run(None, {"image": pixels})[0], expected, 2e-6)


def test_a_pass_refuses_a_graph_that_is_not_what_it_requires() -> None:
    with pytest.raises(GraphPassError, match="requires known noise kinds"):
        add_noise_functions(one_site("Unheard", 0.5, [4]))
    with pytest.raises(GraphPassError, match="requires an input with the values of one image"):
        add_uint8_input(one_site("MCDropout", 0.5, [4]), Preprocessing(1.0), (2, 2, 3))
    model = one_site("MCDropout", 0.5, [4])
    model.graph.node[0].attribute.append(helper.make_attribute("site", "a"))
    with pytest.raises(GraphPassError, match="one noise node for each site"):
        name_sites(model, [Site("b", "MCDropout", 0.5, (4,), (4,))])
