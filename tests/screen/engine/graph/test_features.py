from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

from export.contract.metadata import DOMAIN
from export.contract.reader import ExportedModel
from export.runtime import onnxruntime
from screen.engine.device.provider import Device
from screen.engine.distance import DEFAULT_METRICS, DISTANCES, DistanceMeter, fit_distance, group_of
from screen.engine.graph.features.nodes import cell_weights
from screen.engine.graph.features.plan import FEATURES, FeaturePlan
from screen.engine.graph.features.tensors import FEATURES_MAX, GRID
from screen.engine.graph.plan import plan_engine
from screen.engine.passes import PassEngine
from tests.agreement import assert_close_to_scale
from tests.assumptions.cuda_kernels import CUDA_KERNELS
from tests.screen.engine.graphs import Graph

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 3), dtype=np.uint8)


def convolution(g: Graph, outer: int = 5) -> str:
    """`[N, outer, 4, 4]`: a convolution of single pixels, as NCHW."""
    x = g.op("Transpose", g.image, perm=[0, 3, 1, 2])
    return g.op("Conv", x, g.const(g.rng.normal(size=(outer, 3, 1, 1)).astype(np.float32)))


def channels_first() -> ExportedModel:
    g = Graph()
    x = g.site(g.op("Relu", convolution(g)), 5, 4, 4)
    return g.finish(g.dense(g.op("Reshape", x, g.const(np.array([0, -1]))), 80, 3), 3)


def channels_last() -> ExportedModel:
    g = Graph()
    x = g.op("Add", convolution(g), g.const(np.zeros((1, 5, 1, 1), np.float32)))
    x = g.site(g.op("Relu", g.op("Transpose", x, perm=[0, 2, 3, 1])), 4, 4, 5)
    return g.finish(g.dense(g.op("Reshape", x, g.const(np.array([0, -1]))), 80, 3), 3)


def tiled() -> ExportedModel:
    """Six positions along each axis, two for each spatial cell."""
    g = Graph()
    x = g.op("Pad", g.op("Relu", convolution(g)), g.const(np.array([0, 0, 1, 0, 0, 0, 1, 2])))
    return g.finish(g.dense(g.op("Reshape", g.site(x, 5, 6, 6), g.const(np.array([0, -1]))), 180, 3), 3)


def flattened() -> ExportedModel:
    g = Graph()
    x = g.op("Reshape", g.op("Relu", convolution(g)), g.const(np.array([0, -1])))
    return g.finish(g.dense(g.site(x, 80), 80, 3), 3)


def tokens() -> ExportedModel:
    """16 tokens of 7 features, computed by a matrix product."""
    g = Graph()
    x = g.op("Reshape", g.image, g.const(np.array([0, 16, 3])))
    x = g.site(g.op("MatMul", x, g.weight(3, 7)), 16, 7)
    return g.finish(g.dense(g.op("Reshape", x, g.const(np.array([0, -1]))), 112, 3), 3)


def flat() -> ExportedModel:
    g = Graph()
    return g.finish(g.dense(g.site(g.op("Relu", g.dense(g.flat(), 48, 20)), 20), 20, 3), 3)


def several() -> ExportedModel:
    """A residual block whose input and inner layer are both boundary tensors."""
    g = Graph()
    shallow = g.op("Relu", g.dense(g.flat(), 48, 20))
    deep = g.op("Relu", g.dense(shallow, 20, 20))
    return g.finish(g.dense(g.op("Add", shallow, g.site(deep, 20)), 20, 3), 3)


def undetermined_channels() -> ExportedModel:
    """A reshape gives the output of a product its spatial axes, so no operator determines the channel axis."""
    g = Graph()
    x = g.op("Reshape", g.dense(g.flat(), 48, 48), g.const(np.array([0, 4, 4, 3])))
    x = g.op("Mul", x, x)
    x = g.site(x, 4, 4, 3)
    return g.finish(g.dense(g.op("Reshape", x, g.const(np.array([0, -1]))), 48, 3), 3)


def empty() -> ExportedModel:
    g = Graph()
    return g.finish(g.dense(g.site(g.flat(), 48), 48, 3), 3)


def two_layers() -> ExportedModel:
    """Two convolutions with a dropout site behind each, then a dense layer and the last one."""
    g = Graph()
    x = g.site(g.op("Relu", convolution(g)), 5, 4, 4)
    x = g.op("Relu", g.op("Conv", x, g.const(g.rng.normal(size=(6, 5, 1, 1)).astype(np.float32))))
    x = g.op("Reshape", g.site(x, 6, 4, 4), g.const(np.array([0, -1])))
    x = g.site(g.op("Relu", g.dense(x, 96, 20)), 20)
    return g.finish(g.dense(x, 20, 3), 3)


def empty_trunk() -> ExportedModel:
    """A dropout site on the image itself, in front of every layer."""
    g = Graph()
    x = g.op("Transpose", g.site(g.image, 4, 4, 3), perm=[0, 3, 1, 2])
    x = g.op("Relu", g.op("Conv", x, g.const(g.rng.normal(size=(6, 3, 1, 1)).astype(np.float32))))
    return g.finish(g.dense(g.op("Reshape", x, g.const(np.array([0, -1]))), 96, 3), 3)


MODELS = {
    "channels first": channels_first(),
    "channels last": channels_last(),
    "tiled": tiled(),
    "flattened": flattened(),
    "tokens": tokens(),
    "flat": flat(),
    "several": several(),
    "undetermined channels": undetermined_channels(),
    "empty": empty(),
    "two layers": two_layers(),
    "empty trunk": empty_trunk(),
}


def plan_of(model: ExportedModel) -> FeaturePlan:
    return plan_engine(model, features=True).features


def features_of(model: ExportedModel, images: NDArray[np.uint8], threads: int = 1) -> NDArray[np.float32]:
    plan = plan_engine(model, features=True)
    return PassEngine(plan, passes=1, seed=0, device=Device("cpu", threads, memory=2**22)).features(images)


def deterministic(model: ExportedModel, name: str) -> NDArray[np.float32]:
    """A tensor of the network without dropout, by onnxruntime alone."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.functions[:]
    for node in proto.graph.node:
        if node.domain == DOMAIN:
            node.op_type, node.domain = "Identity", ""
            del node.attribute[:]
    proto.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    tensor: NDArray[np.float32] = session.run([name], {model.contract.input_name: IMAGES})[0]
    return tensor


def summary(tensor: NDArray[np.float32], channels: int, grid: tuple[int, ...]) -> list[NDArray[np.float32]]:
    """Cell means `[N, C * cells]`, channel means and channel deviations `[N, C]`, by loops over the cells."""
    rows = np.moveaxis(tensor, channels + 1, 1)
    spatial = rows.shape[2:]
    means = []
    for cell in np.ndindex(*grid):
        bounds = [
            slice(index * size // cells, -(-(index + 1) * size // cells))
            for index, size, cells in zip(cell, spatial, grid, strict=True)
        ]
        means.append(rows[(slice(None), slice(None), *bounds)].reshape(*rows.shape[:2], -1).mean(axis=2))
    flat = rows.reshape(*rows.shape[:2], -1)
    return [np.stack(means, axis=2).reshape(len(tensor), -1), flat.mean(axis=2), flat.std(axis=2)]


def test_cells_are_those_of_adaptive_average_pooling() -> None:
    np.testing.assert_allclose(cell_weights(4, 3) @ np.arange(4), [0.5, 1.5, 2.5])
    np.testing.assert_allclose(cell_weights(6, 3) @ np.arange(6), [0.5, 2.5, 4.5])
    np.testing.assert_allclose(cell_weights(2, 2) @ np.arange(2), [0, 1])


@pytest.mark.parametrize("name", MODELS)
def test_features_are_summaries_of_tensors_of_the_network_without_dropout(name: str) -> None:
    model = MODELS[name]
    plan = plan_of(model)
    expected = []
    if plan.early.channels is not None:
        expected += summary(deterministic(model, plan.early.name), plan.early.channels, plan.early.grid)
    elif plan.early.name:
        expected.append(deterministic(model, plan.early.name).reshape(len(IMAGES), -1))
    if plan.penultimate.channels is not None:
        tensor = deterministic(model, plan.penultimate.name)
        expected.append(summary(tensor, plan.penultimate.channels, plan.penultimate.grid)[0])
    elif plan.penultimate.name:
        expected.append(deterministic(model, plan.penultimate.name).reshape(len(IMAGES), -1))
    whole = np.concatenate(expected, axis=1)
    assert whole.shape[1] == plan.size > 0
    assert_close_to_scale(features_of(model, IMAGES), whole, 2e-6)


@pytest.mark.parametrize("name", MODELS)
def test_groups_divide_the_feature_vector(name: str) -> None:
    plan = plan_of(MODELS[name])
    ends = [0, *(group.stop for group in plan.groups.values())]
    assert [group.start for group in plan.groups.values()] == ends[:-1]
    assert ends[-1] == plan.size


def test_the_early_tensor_is_in_the_middle_and_the_penultimate_one_before_the_last_layer() -> None:
    plan = plan_of(MODELS["two layers"])
    assert plan.early.shape == (6, 4, 4)
    assert "of the arithmetic precedes it" in plan.early.why
    assert plan.penultimate.shape == (20,)
    assert plan.flops > 0
    assert set(plan.groups) == {"layout", "contrast", "penultimate"}


def test_a_site_on_the_image_leaves_the_features_unchanged() -> None:
    plan = plan_of(MODELS["empty trunk"])
    assert sorted(plan.early.shape) == [3, 4, 4]
    assert plan.early.why == "0% of the arithmetic precedes it"
    assert plan.early.shape[plan.early.channels or 0] == 3
    assert plan.penultimate.shape == (6, 4, 4)
    assert "before it is flattened" in plan.penultimate.why


def test_a_model_with_a_single_layer_has_the_image_as_its_early_tensor_and_no_penultimate_one() -> None:
    plan = plan_of(MODELS["empty"])
    assert plan.early.shape == (4, 4, 3)
    assert plan.penultimate.name == ""
    assert dict(plan.describe())["penultimate"].endswith("or no layer with weights precedes this layer")


def test_tokens_are_averaged_in_groups() -> None:
    plan = plan_of(MODELS["tokens"])
    assert (plan.penultimate.shape, plan.penultimate.channels, plan.penultimate.grid) == ((16, 7), 1, (GRID,))


def test_where_no_operator_determines_the_channel_axis_the_last_is_taken_and_reported() -> None:
    plan = plan_of(MODELS["undetermined channels"])
    assert plan.penultimate.channels == 2
    assert "do not determine the channel axis" in plan.penultimate.why


def test_an_image_that_is_averaged_at_once_is_the_early_tensor() -> None:
    g = Graph()
    x = g.op("ReduceMean", g.image, g.const(np.array([1, 2])), keepdims=0)
    x = g.site(g.op("Relu", g.dense(x, 3, 8)), 8)
    model = g.finish(g.dense(g.op("Relu", g.dense(x, 8, 8)), 8, 3), 3)
    assert plan_of(model).early.shape == (4, 4, 3)
    assert np.isfinite(features_of(model, IMAGES)).all()


def test_an_image_that_the_graph_reshapes_first_is_the_early_tensor() -> None:
    """As in a model with an input of shape [4, 12]: the rows of the reshaped image have no channels."""
    g = Graph()
    x = g.op("Reshape", g.op("Reshape", g.image, g.const(np.array([-1, 4, 12]))), g.const(np.array([-1, 48])))
    x = g.op("Relu", g.dense(x, 48, 8))
    plan = plan_of(g.finish(g.dense(g.site(x, 8), 8, 3), 3))
    assert (plan.early.shape, plan.early.why) == ((4, 4, 3), "0% of the arithmetic precedes it")


def test_any_number_of_spatial_axes_is_averaged() -> None:
    g = Graph()
    x = g.op("Reshape", g.image, g.const(np.array([-1, 2, 2, 2, 2, 3])))
    x = g.op("Transpose", g.op("MatMul", x, g.weight(3, 5)), perm=[0, 5, 1, 2, 3, 4])
    model = g.finish(g.dense(g.op("Reshape", g.site(x, 5, 2, 2, 2, 2), g.const(np.array([0, -1]))), 80, 3), 3)
    plan = plan_of(model)
    assert (plan.penultimate.channels, len(plan.penultimate.grid)) == (0, 4)
    assert np.isfinite(features_of(model, IMAGES)).all()


def test_many_channels_get_a_coarser_grid() -> None:
    g = Graph()
    x = g.site(convolution(g, outer=FEATURES_MAX // 4), FEATURES_MAX // 4, 4, 4)
    x = g.op("Conv", x, g.const(g.rng.normal(size=(3, FEATURES_MAX // 4, 1, 1)).astype(np.float32)))
    x = g.op("Reshape", g.op("GlobalAveragePool", x), g.const(np.array([0, 3])))
    assert plan_of(g.finish(x, 3)).penultimate.grid == (2, 2)


@pytest.mark.parametrize("name", MODELS)
def test_features_are_the_same_bits_in_every_batch_and_with_the_passes(name: str) -> None:
    model = MODELS[name]
    whole = features_of(model, IMAGES)
    plan = plan_engine(model, features=True)
    groups = plan.features.groups
    names = [one for one in DISTANCES if group_of(one) in groups]
    cpu = Device("cpu", 1)
    distances = tuple(fit_distance(one, whole[:10], groups[group_of(one)], cpu, DEFAULT_METRICS[one]) for one in names)
    far = DistanceMeter(distances, cpu).measure(whole)
    engine = PassEngine(plan, passes=3, seed=0, device=Device("cpu", 2, memory=2**22), distances=distances)

    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 29), st.integers(1, 30))
    def check(start: int, count: int) -> None:
        some = IMAGES[start : start + count]
        np.testing.assert_array_equal(engine.features(some), whole[start : start + count])
        summary = engine.summarize(some)
        for one in names:
            np.testing.assert_array_equal(getattr(summary, one), getattr(far, one)[start : start + count])

    check()


@pytest.mark.parametrize("name", MODELS)
def test_features_change_no_statistic(name: str) -> None:
    model = MODELS[name]
    with_features, without = (
        PassEngine(plan_engine(model, features=features), passes=5, seed=0, device=Device("cpu", 1, memory=2**22))
        for features in (True, False)
    )
    one, other = with_features.summarize(IMAGES), without.summarize(IMAGES)
    np.testing.assert_array_equal(one.mean, other.mean)
    np.testing.assert_array_equal(one.std, other.std)


@pytest.mark.parametrize("name", MODELS)
def test_every_operator_that_makes_features_has_a_cuda_kernel(name: str) -> None:
    nodes = plan_engine(MODELS[name], features=True).trunk.graph.node
    added = [node for node in nodes if node.name.startswith(FEATURES)]
    assert added
    assert {node.op_type for node in added} <= set(CUDA_KERNELS)
