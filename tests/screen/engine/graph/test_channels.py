"""Convolutions that leave out dropped channels: equal numbers in every structure, and equal bits in every batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.contract.reader import ExportedModel
from screen.engine.device.provider import Device
from screen.engine.graph.channels.paths import choose_channels, relative_time
from screen.engine.graph.plan import EnginePlan, plan_engine
from screen.engine.graph.sites import Shortcuts
from screen.engine.graph.sizes import infer_sizes
from screen.engine.passes import PassEngine
from tests.agreement import assert_close_to_scale
from tests.screen.engine.graphs import SHAPE, Graph, pass_by_pass

IMAGES = np.random.default_rng(1).integers(0, 256, (11, *SHAPE), dtype=np.uint8)
PASSES = 7
PAYS = "screen.engine.graph.channels.paths"


@pytest.fixture(autouse=True)
def fewer_channels_are_always_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few of these small convolutions would be faster; forced, because the results must be right for every size."""
    monkeypatch.setattr(f"{PAYS}.relative_time", lambda _node, _sizes, inputs, outputs: 0.5 * inputs * outputs)
    monkeypatch.setattr(f"{PAYS}._LEAST_SAVING", 0)


class Network(Graph):
    """Builds convolutions; a value is `[N, channels, size, size]`."""

    def __init__(self, seed: int = 0, kind: str = "softmax") -> None:
        super().__init__(seed, kind)
        self.first = self.op("Transpose", self.image, perm=[0, 3, 1, 2])

    def conv(self, x: str, inner: int, outer: int, kernel: int = 3, bias: bool = True, **attributes: Any) -> str:
        attributes = {"pads": [kernel // 2] * 4, **attributes}
        weight = self.const((self.rng.normal(size=(outer, inner, kernel, kernel)) / np.sqrt(9 * inner)).astype("f"))
        return self.op("Conv", x, weight, *([self.weight(outer)] if bias else []), **attributes)

    def spatial(self, x: str, channels: int, size: int, rate: float = 0.4) -> str:
        return self.site(x, channels, size, size, noise=(channels, 1, 1), rate=rate)

    def pooled(self, x: str, channels: int) -> ExportedModel:
        return self.finish(self.dense(self.op("Flatten", self.op("GlobalAveragePool", x)), channels, 4), 4)


def chain(rate: float = 0.4, **attributes: Any) -> ExportedModel:
    """Convolution in the trunk, then two that leave out channels; the second leaves out inputs and outputs."""
    g = Network()
    x = g.spatial(g.op("Relu", g.conv(g.first, 3, 10)), 10, 4, rate)
    x = g.op("Relu", g.conv(x, 10, 12, bias=False, **attributes))
    size = 2 if "strides" in attributes else 4
    return g.pooled(g.conv(g.spatial(x, 12, size, rate), 12, 6), 6)


def residual() -> ExportedModel:
    """Blocks with a skip connection: the sum needs all channels, the layer before each site does not."""
    g = Network()
    x = g.op("Relu", g.conv(g.first, 3, 9))
    for _ in range(3):
        y = g.spatial(g.op("Tanh", g.conv(x, 9, 11)), 11, 4, 0.5)
        x = g.op("Relu", g.op("Add", x, g.conv(y, 11, 9)))
    return g.pooled(x, 9)


def two_readers() -> ExportedModel:
    """Two convolutions read one site, so the mask multiplies the data; the next site is left out."""
    g = Network()
    x = g.spatial(g.conv(g.spatial(g.conv(g.first, 3, 8), 8, 4), 8, 8), 8, 4)
    return g.pooled(g.op("Add", g.conv(x, 8, 8), g.conv(x, 8, 8, kernel=1)), 8)


def layer_with_a_second_reader() -> ExportedModel:
    """Another node reads the layer before the second site, so all of its channels are computed."""
    g = Network()
    x = g.op("Relu", g.conv(g.spatial(g.conv(g.first, 3, 8), 8, 4), 8, 8))
    return g.pooled(g.op("Add", x, g.conv(g.spatial(x, 8, 4), 8, 8)), 8)


def channelwise_nodes() -> ExportedModel:
    """Every kind of node that keeps channels apart, before and behind the sites."""
    g = Network()
    x = g.op("LeakyRelu", g.spatial(g.conv(g.first, 3, 10), 10, 4), alpha=0.2)
    x = g.op("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4)
    x = g.op("Pad", x, g.const(np.array([0, 0, 1, 1, 0, 0, 1, 1])))
    x = g.conv(x, 10, 14, pads=[0] * 4)
    x = g.op("Elu", g.op("Mul", x, g.weight(14, 1, 1)))
    statistics = [g.const(g.rng.uniform(0.5, 1.5, 14).astype("f")) for _ in range(4)]
    x = g.op("BatchNormalization", x, *statistics)
    x = g.op("Add", g.op("Sub", g.const(np.float32(0.3)), x), g.weight(1, 14, 1, 1))
    x = g.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = g.op("AveragePool", g.spatial(x, 14, 2), kernel_shape=[2, 2], pads=[0, 0, 1, 1], count_include_pad=1)
    return g.pooled(g.conv(x, 14, 5, kernel=1), 5)


def channels_last() -> ExportedModel:
    """The site is between transposes, with channels in its last axis."""
    g = Network()
    x = g.op("Transpose", g.op("Relu", g.conv(g.first, 3, 8)), perm=[0, 2, 3, 1])
    x = g.op("Transpose", g.site(x, 4, 4, 8, noise=(1, 1, 8)), perm=[0, 3, 1, 2])
    x = g.op("Transpose", g.op("Relu", g.conv(x, 8, 8)), perm=[0, 2, 3, 1])
    x = g.op("Transpose", g.site(x, 4, 4, 8, noise=(1, 1, 8)), perm=[0, 3, 1, 2])
    return g.pooled(g.conv(x, 8, 6), 6)


def grouped() -> ExportedModel:
    """A grouped convolution reads fixed groups of channels, so the mask multiplies the data."""
    g = Network()
    x = g.spatial(g.conv(g.spatial(g.conv(g.first, 3, 8), 8, 4), 8, 8), 8, 4)
    weight = g.weight(8, 2, 3, 3)
    return g.pooled(g.op("Conv", x, weight, group=4, pads=[1] * 4), 8)


def other_noise() -> ExportedModel:
    """Elements, alpha and Gaussian noise between channel sites: their masks multiply the passes one by one."""
    g = Network()
    x = g.site(g.conv(g.first, 3, 8), 8, 4, 4, rate=0.2)
    x = g.site(g.conv(g.spatial(x, 8, 4), 8, 8), 8, 4, 4, family="GaussianDropout")
    x = g.site(g.conv(x, 8, 8), 8, 4, 4, family="AlphaDropout")
    x = g.conv(g.spatial(g.op("Tanh", x), 8, 4), 8, 8)
    return g.pooled(g.site(x, 8, 4, 4), 8)


def dense_behind() -> ExportedModel:
    """Dropout and dense layers behind the convolutions, which read the passes in the batch axis."""
    g = Network(kind="sigmoid")
    x = g.op("Relu", g.conv(g.spatial(g.conv(g.first, 3, 8), 8, 4), 8, 6, strides=[2, 2]))
    x = g.op("Relu", g.dense(g.site(g.op("Flatten", x), 24), 24, 12))
    return g.finish(g.dense(g.site(x, 12), 12, 3), 3)


def output_by_pass() -> ExportedModel:
    """The output itself has positions."""
    g = Network(kind="regression")
    x = g.conv(g.spatial(g.conv(g.first, 3, 8), 8, 4), 8, 1, kernel=4, pads=[0] * 4)
    return g.finish(g.op("Reshape", x, g.const(np.array([-1, 1]))), 1)


def shape_of_a_pass() -> ExportedModel:
    """A reshape reads the shape of a value that is computed for each pass."""
    g = Network()
    x = g.conv(g.spatial(g.conv(g.first, 3, 8), 8, 4), 8, 8)
    rows = g.op("Slice", g.op("Shape", x), g.const(np.array([0])), g.const(np.array([1])))
    x = g.op("Reshape", x, g.op("Concat", rows, g.const(np.array([8, 2, 8])), axis=0))
    return g.pooled(g.op("Tanh", x), 8)


BOTH = ("channels", "channels")
CASES: dict[str, tuple[Callable[[], ExportedModel], tuple[str, ...], int]] = {
    "chain": (chain, BOTH, 1),
    "few_dropped": (lambda: chain(0.1), BOTH, 1),
    "most_dropped": (lambda: chain(0.9), BOTH, 1),
    "strides": (lambda: chain(strides=[2, 2]), BOTH, 1),
    "dilations": (lambda: chain(dilations=[2, 2], pads=[2] * 4), BOTH, 1),
    "automatic_padding": (lambda: chain(auto_pad="SAME_UPPER", pads=None), BOTH, 1),
    "residual": (residual, (*BOTH, "channels"), 2),
    "two_readers": (two_readers, ("channels", "batch"), 0),
    "layer_with_a_second_reader": (layer_with_a_second_reader, BOTH, 0),
    "channelwise_nodes": (channelwise_nodes, BOTH, 1),
    "channels_last": (channels_last, BOTH, 0),
    "grouped": (grouped, ("channels", "batch"), 0),
    "other_noise": (other_noise, ("batch", "channels", "batch", "batch", "channels", "batch"), 0),
    "dense_behind": (dense_behind, ("channels", "weights", "compacted"), 0),
    "output_by_pass": (output_by_pass, ("channels",), 0),
    "shape_of_a_pass": (shape_of_a_pass, ("channels",), 0),
}
"""For each structure: its model, the methods of its sites, and the number of sites before which only kept channels are
computed."""


def run(plan: EnginePlan, images: Any, passes: int = PASSES, threads: int = 1) -> Any:
    device = Device("cpu", threads)
    return np.concatenate(list(PassEngine(plan, passes=passes, seed=1, device=device).raw_passes(images)))


@pytest.mark.parametrize("name", CASES)
def test_every_structure_gives_what_the_graph_gives_pass_by_pass(name: str) -> None:
    build, methods, computed = CASES[name]
    model = build()
    plan = plan_engine(model, raw=True)
    assert tuple(site.method for site in plan.sites) == methods
    assert sum(site.path is not None and site.path.source is not None for site in plan.sites) == computed
    for passes in (1, 2, PASSES):
        expected = pass_by_pass(model, IMAGES, passes, 1)
        assert_close_to_scale(run(plan, IMAGES, passes), expected, 1e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_row_has_the_same_bits_in_every_batch(name: str) -> None:
    plan = plan_engine(CASES[name][0](), raw=True)
    whole = run(plan, IMAGES)
    for start, end in ((0, 1), (2, 4), (3, 10)):
        np.testing.assert_array_equal(run(plan, IMAGES[start:end], threads=2), whole[:, start:end])


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10_000),
    layers=st.lists(
        st.tuples(
            st.sampled_from(["conv", "spatial", "spatial", "relu", "elu", "pool", "skip", "scale", "elements"]),
            st.sampled_from([1, 3, 6, 9]),
            st.sampled_from([1, 3]),
        ),
        min_size=3,
        max_size=9,
    ),
    rate=st.sampled_from([0.1, 0.5, 0.9]),
)
def test_random_networks_give_what_the_graph_gives_pass_by_pass(
    seed: int, layers: list[tuple[str, int, int]], rate: float
) -> None:
    g = Network(seed)
    x, channels = g.spatial(g.conv(g.first, 3, 6), 6, 4, rate), 6
    for kind, width, kernel in layers:
        if kind == "conv":
            x, channels = g.conv(x, channels, width, kernel), width
        elif kind == "spatial":
            x = g.spatial(x, channels, 4, rate) if channels > 1 else x
        elif kind == "elements":
            x = g.site(x, channels, 4, 4, rate=rate)
        elif kind == "skip":
            x = g.op("Add", x, g.conv(g.op("Relu", x), channels, channels, kernel))
        elif kind == "scale":
            x = g.op("Mul", x, g.weight(channels, 1, 1))
        elif kind == "pool":
            x = g.op("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4)
        else:
            x = g.op({"relu": "Relu", "elu": "Elu"}[kind], x)
    model = g.pooled(x, channels)
    plan = plan_engine(model, raw=True)
    whole = run(plan, IMAGES, 3)
    assert_close_to_scale(whole, pass_by_pass(model, IMAGES, 3, 1), 1e-5)
    np.testing.assert_array_equal(run(plan, IMAGES[4:6], 3), whole[:, 4:6])


def test_a_pass_may_drop_every_channel_or_none() -> None:
    masks = np.array([[0, 0, 0, 0, 0, 0], [2, 2, 2, 2, 2, 2], [0, 2, 0, 0, 2, 0]], np.float32)
    channels, kept, counts = choose_channels(masks)
    assert counts.tolist() == [4, 6, 4]
    assert channels[2].tolist() == [1, 4, 0, 2, 3, 5]
    np.testing.assert_array_equal(kept, np.take_along_axis(masks, channels, axis=1))
    g = Network(seed=3)
    x = g.spatial(g.conv(g.first, 3, 2), 2, 4, 0.9)
    model = g.pooled(g.conv(g.spatial(g.op("Relu", g.conv(x, 2, 3)), 3, 4, 0.9), 3, 4), 4)
    plan = plan_engine(model, raw=True)
    expected = pass_by_pass(model, IMAGES, 20, 1)
    assert np.ptp(expected, axis=1).max(axis=1).min() == 0, "no pass drops every channel: outputs differ between rows"
    assert_close_to_scale(run(plan, IMAGES, 20), expected, 1e-5)


def test_masks_per_row_multiply_the_data() -> None:
    plan = plan_engine(chain(), masks="per-row")
    assert {site.method for site in plan.sites} == {"batch"}
    assert plan.passes_per_run > 2


def test_the_cost_counts_the_channels_that_are_left_out() -> None:
    model = chain(0.5)
    plan, every = plan_engine(model), plan_engine(model, shortcuts=Shortcuts(leave_out_channels=False))
    first, second = 2 * 16 * 9 * 10 * 12, 2 * 16 * 9 * 12 * 6
    assert every.pass_flops - plan.pass_flops == first * 3 // 4 + second // 2
    assert every.once_flops == plan.once_flops


@pytest.mark.parametrize(
    ("channels", "rate", "method"), [(32, 0.5, "batch"), (128, 0.5, "channels"), (128, 0.1, "batch")]
)
def test_channels_are_left_out_only_where_that_is_faster(
    channels: int, rate: float, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{PAYS}.relative_time", relative_time)
    monkeypatch.setattr(f"{PAYS}._LEAST_SAVING", 0.1)
    g = Network()
    x = g.spatial(g.conv(g.first, 3, channels), channels, 4, rate)
    model = g.pooled(g.conv(x, channels, channels), channels)
    assert [site.method for site in plan_engine(model).sites] == [method]
    (conv,) = [node for node in model.proto.graph.node if node.op_type == "Conv"][1:]
    assert (relative_time(conv, infer_sizes(model.proto), 1 - rate, 1) < 0.9) == (method == "channels")
