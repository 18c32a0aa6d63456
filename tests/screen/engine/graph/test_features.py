from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.contract.reader import ExportedModel
from screen.engine.distance import DistanceMeter, NearestNeighbours
from screen.engine.graph.features import FEATURES, FEATURES_MAX, GRID, cell_weights
from screen.engine.graph.plan import plan_engine
from screen.engine.passes import PassEngine
from screen.engine.session import Device
from tests.agreement import assert_close_to_scale
from tests.assumptions.cuda_kernels import CUDA_KERNELS
from tests.screen.engine.graphs import Graph

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 3), dtype=np.uint8)
SCALED = IMAGES.astype(np.float32) / 255


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


def features_of(model: ExportedModel, images: NDArray[np.uint8], threads: int = 1) -> NDArray[np.float32]:
    plan = plan_engine(model, features=GRID)
    return PassEngine(plan, passes=1, seed=0, device=Device("cpu", threads), memory=2**22).features(images)


def pooled(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """`[N, H, W, C]` averaged over a grid of spatial cells, by einsum."""
    cells = cell_weights(4, GRID)
    means: NDArray[np.float32] = np.einsum("ih,jw,nhwc->nijc", cells, cells, images)
    return means.reshape(len(images), -1)


def test_cells_are_those_of_adaptive_average_pooling() -> None:
    np.testing.assert_allclose(cell_weights(4, 3) @ np.arange(4), [0.5, 1.5, 2.5])
    np.testing.assert_allclose(cell_weights(6, 3) @ np.arange(6), [0.5, 2.5, 4.5])
    np.testing.assert_allclose(cell_weights(2, 2) @ np.arange(2), [0, 1])


@pytest.mark.parametrize("model", [channels_first(), channels_last(), flattened()])
def test_channels_are_found_wherever_they_are(model: ExportedModel) -> None:
    weight = next(w for w in model.proto.graph.initializer if list(w.dims) == [5, 3, 1, 1])
    kernel = np.frombuffer(weight.raw_data, np.float32).reshape(5, 3)
    expected = pooled(np.maximum(SCALED @ kernel.T, 0))
    found = features_of(model, IMAGES)
    if plan_engine(model).features.channels == 0:
        found = found.reshape(-1, 5, GRID * GRID).swapaxes(1, 2).reshape(len(found), -1)
    assert_close_to_scale(found, expected, 2e-6)


def test_cells_that_tile_the_spatial_axes_are_pooled() -> None:
    model = tiled()
    assert "AveragePool" in {node.op_type for node in plan_engine(model, features=GRID).trunk.graph.node}
    weight = next(w for w in model.proto.graph.initializer if list(w.dims) == [5, 3, 1, 1])
    kernel = np.frombuffer(weight.raw_data, np.float32).reshape(5, 3)
    padded = np.pad(np.maximum(SCALED @ kernel.T, 0), ((0, 0), (1, 1), (0, 2), (0, 0)))
    expected = padded.reshape(-1, GRID, 2, GRID, 2, 5).mean(axis=(2, 4)).transpose(0, 3, 1, 2).reshape(len(padded), -1)
    assert_close_to_scale(features_of(model, IMAGES), expected, 1e-6)


@pytest.mark.parametrize("grid", [1, GRID])
def test_more_spatial_axes_than_pooling_supports_are_averaged_by_a_product(grid: int) -> None:
    g = Graph()
    x = g.op("Reshape", g.image, g.const(np.array([-1, 2, 2, 2, 2, 3])))
    x = g.op("Transpose", g.op("MatMul", x, g.weight(3, 5)), perm=[0, 5, 1, 2, 3, 4])
    model = g.finish(g.dense(g.op("Reshape", g.site(x, 5, 2, 2, 2, 2), g.const(np.array([0, -1]))), 80, 3), 3)
    plan = plan_engine(model, features=grid)
    assert (plan.features.channels, len(plan.features.grid)) == (0, 4)
    found = PassEngine(plan, passes=1, seed=0, device=Device("cpu", 1), memory=2**22).features(IMAGES)
    assert found.shape == (len(IMAGES), plan.features.size)
    assert np.isfinite(found).all()


def test_a_flat_boundary_is_taken_before_it_was_flattened() -> None:
    description = plan_engine(flattened()).features.describe()
    assert "the boundary, before it is flattened" in description
    assert "[5, 4, 4]" in description


def test_tokens_are_averaged_in_groups() -> None:
    plan = plan_engine(tokens()).features
    assert (plan.shape, plan.channels, plan.grid, plan.size) == ((16, 7), 1, (GRID,), 7 * GRID)


def test_a_flat_tensor_is_taken_as_it_is() -> None:
    plan = plan_engine(flat()).features
    assert (plan.channels, plan.size) == (None, 20)
    assert "which is flat" in plan.why


def test_of_several_boundary_tensors_the_deepest_is_taken_and_reported() -> None:
    plan = plan_engine(several()).features
    assert "the deepest of 2 boundary tensors" in plan.why
    deep = next(node.input[0] for node in several().proto.graph.node if node.name == "drop0")
    assert plan.tensor == deep


def test_where_no_operator_determines_the_channel_axis_the_last_is_taken_and_reported() -> None:
    plan = plan_engine(undetermined_channels()).features
    assert plan.channels == 2
    assert "do not determine the channel axis" in plan.why


def test_an_empty_trunk_has_no_features_and_the_plan_gives_the_reason() -> None:
    plan = plan_engine(empty(), features=GRID).features
    assert (plan.tensor, plan.size) == ("", 0)
    assert plan.describe() == "none: no learned layer precedes the first dropout"


def test_many_channels_get_a_coarser_grid() -> None:
    g = Graph()
    x = g.site(convolution(g, outer=FEATURES_MAX // 4), FEATURES_MAX // 4, 4, 4)
    model = g.finish(g.dense(g.op("GlobalAveragePool", x), 1, 3), 3)
    assert plan_engine(model).features.grid == (2, 2)


@pytest.mark.parametrize("model", [channels_first(), channels_last(), tiled(), tokens(), flat()])
def test_features_are_the_same_bits_in_every_batch_and_with_the_passes(model: ExportedModel) -> None:
    whole = features_of(model, IMAGES)
    distance = NearestNeighbours.fit(whole[:10])
    far = DistanceMeter(distance, Device("cpu", 1)).measure(whole)
    plan = plan_engine(model, features=GRID)
    engine = PassEngine(plan, passes=3, seed=0, device=Device("cpu", 2), memory=2**22, distance=distance)

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 29), st.integers(1, 30))
    def check(start: int, count: int) -> None:
        some = IMAGES[start : start + count]
        np.testing.assert_array_equal(engine.features(some), whole[start : start + count])
        np.testing.assert_array_equal(engine.summarize(some).feature_distance, far[start : start + count])

    check()


def test_features_change_no_statistic() -> None:
    for model in (channels_last(), flat()):
        with_features, without = (
            PassEngine(plan_engine(model, features=grid), passes=5, seed=0, device=Device("cpu", 1), memory=2**22)
            for grid in (GRID, 0)
        )
        one, other = with_features.summarize(IMAGES), without.summarize(IMAGES)
        np.testing.assert_array_equal(one.mean, other.mean)
        np.testing.assert_array_equal(one.std, other.std)


@pytest.mark.parametrize("model", [channels_first(), channels_last(), tokens(), flat()])
def test_every_operator_that_makes_features_has_a_cuda_kernel(model: ExportedModel) -> None:
    added = [node for node in plan_engine(model, features=GRID).trunk.graph.node if node.name.startswith(FEATURES)]
    assert added
    assert {node.op_type for node in added} <= set(CUDA_KERNELS)
