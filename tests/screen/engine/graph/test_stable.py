"""A row has the same bits in every batch, for heads of every shape and operators whose kernels round by position."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.contract.reader import ExportedModel
from screen.engine.device.provider import Device
from screen.engine.graph.plan import plan_engine
from screen.engine.graph.stable import VECTORIZED
from screen.engine.passes import PassEngine
from screen.engine.statistics import PassSummary
from tests.agreement import assert_close_to_scale
from tests.screen.engine.graphs import SHAPE, Graph, pass_by_pass

IMAGES = np.random.default_rng(0).integers(0, 256, (97, *SHAPE), dtype=np.uint8)
PASSES = 13


def engine(model: ExportedModel, masks: str, threads: int, memory: int = 2**28) -> PassEngine:
    plan = plan_engine(model, masks=masks)
    return PassEngine(plan, passes=PASSES, seed=1, device=Device("cpu", threads, memory=memory))


def assert_same_bits(model: ExportedModel, masks: str) -> None:
    """Compare batches of other sizes, with other threads and memory, with one batch on one thread."""
    whole = engine(model, masks, 1).summarize(IMAGES)
    for threads, memory in ((1, 2**28), (3, 2**28), (2, 2**16)):
        other = engine(model, masks, threads, memory)
        for start, end in ((0, 97), (0, 1), (3, 5), (1, 4), (40, 97), (7, 24)):
            part = other.summarize(IMAGES[start:end])
            for field in fields(PassSummary):
                ours, full = getattr(part, field.name), getattr(whole, field.name)
                if full is not None:
                    np.testing.assert_array_equal(ours, full[start:end], err_msg=f"{field.name}, rows {start}:{end}")


def assert_right_numbers(model: ExportedModel) -> None:
    raw = plan_engine(model, raw=True)
    passes = PassEngine(raw, passes=PASSES, seed=1, device=Device("cpu", 2)).raw_passes(IMAGES)
    assert_close_to_scale(np.concatenate(list(passes)), pass_by_pass(model, IMAGES, PASSES, 1), 1e-5)


def dense_layers(kind: str, outputs: int, widths: tuple[int, ...], rate: float) -> ExportedModel:
    """Layers with a site before each, of which the last has `outputs` units."""
    g = Graph(seed=outputs, kind=kind)
    x, width = g.op("Relu", g.dense(g.flat(), 48, 33)), 33
    for units in widths:
        x, width = g.op("Relu", g.dense(g.site(x, width, rate=rate), width, units)), units
    return g.finish(g.dense(g.site(x, width, rate=rate), width, outputs), outputs)


@pytest.mark.parametrize("masks", ["shared", "per-row"])
@pytest.mark.parametrize("outputs", [1, 2, 3, 5, 7, 11])
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(["sigmoid", "regression", "softmax"]),
    widths=st.lists(st.sampled_from([1, 2, 3, 5, 7, 13]), max_size=2),
    rate=st.sampled_from([0.02, 0.4]),  # a low rate is run by subtraction also for a single output
)
def test_a_row_has_the_same_bits_for_every_shape_of_head(
    masks: str, outputs: int, kind: str, widths: list[int], rate: float
) -> None:
    if kind == "softmax" and outputs == 1:
        kind = "sigmoid"
    assert_same_bits(dense_layers(kind, outputs, tuple(widths), rate), masks)


@pytest.mark.parametrize("widths", [(), (7,), (5, 1), (1, 1)])
@pytest.mark.parametrize("rate", [0.02, 0.4])
def test_one_output_and_layers_of_one_unit_have_the_right_numbers(widths: tuple[int, ...], rate: float) -> None:
    assert_right_numbers(dense_layers("regression", 1, widths, rate))


def pooled(channels: int, op_type: str, axes: list[int]) -> ExportedModel:
    """A convolution with channels last, as Keras has it, a reduction over positions or channels, and a layer."""
    g = Graph(seed=channels)
    x = g.op("Transpose", g.image, perm=[0, 3, 1, 2])
    x = g.op("Relu", g.op("Conv", x, g.weight(channels, 3, 2, 2)))  # 3 x 3 positions
    x = g.op("Transpose", x, perm=[0, 2, 3, 1])
    x = g.op(op_type, x, g.const(np.array(axes)), keepdims=0)
    size = channels if axes != [-1] else 9
    x = g.op("Flatten", x)
    return g.finish(g.dense(g.site(x, size), size, 3), 3)


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 33, 50])
def test_a_row_has_the_same_bits_behind_global_pooling_over_any_number_of_channels(channels: int) -> None:
    assert_same_bits(pooled(channels, "ReduceMean", [1, 2]), "shared")


@pytest.mark.parametrize("op_type", ["ReduceMean", "ReduceSum"])
@pytest.mark.parametrize("axes", [[1, 2], [-2, -3], [-1]])
def test_reductions_have_the_same_bits_and_the_right_numbers(op_type: str, axes: list[int]) -> None:
    model = pooled(7, op_type, axes)
    assert_same_bits(model, "shared")
    assert_right_numbers(model)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_reduction_after_a_site_has_the_same_bits_and_the_right_numbers(keepdims: int) -> None:
    """As in LayerNormalization."""
    g = Graph()
    x = g.site(g.op("Reshape", g.image, g.const(np.array([-1, 3, 16]))), 3, 16)
    x = g.op("MatMul", x, g.weight(16, 5))
    x = g.op("ReduceMean", x, g.const(np.array([2])), keepdims=keepdims)
    x = g.op("Reshape", x, g.const(np.array([-1, 3])))
    model = g.finish(g.dense(x, 3, 5), 5)
    assert_same_bits(model, "shared")
    assert_right_numbers(model)


@pytest.mark.parametrize("op_type", VECTORIZED)
def test_vectorized_functions_have_the_same_bits_and_the_right_numbers(op_type: str) -> None:
    """The function is applied in the trunk and, behind a site, in the head, to 33 and to 7 elements in a row."""
    g = Graph(seed=1)
    x = g.op(op_type, g.op("Sigmoid", g.dense(g.flat(), 48, 33)))
    x = g.dense(g.site(x, 33), 33, 7)
    x = g.op(op_type, g.op("Sigmoid", x) if op_type in ("Acos", "Asin", "Log") else x)
    model = g.finish(g.dense(g.site(x, 7), 7, 3), 3)
    assert_same_bits(model, "shared")
    assert_right_numbers(model)


def test_attention_with_heads_of_one_element_has_the_same_bits() -> None:
    """Both factors of the product are data, and the right one has a single column."""
    g = Graph()
    x = g.op("Reshape", g.dense(g.site(g.flat(), 48), 48, 48), g.const(np.array([-1, 16, 3])))
    weights, values = g.op("Softmax", g.op("MatMul", x, g.weight(3, 16)), axis=-1), g.op("MatMul", x, g.weight(3, 1))
    x = g.op("Reshape", g.op("MatMul", weights, values), g.const(np.array([-1, 16])))
    model = g.finish(g.dense(x, 16, 3), 3)
    assert_same_bits(model, "shared")
    assert_right_numbers(model)


def test_nodes_whose_rows_fill_whole_vectors_are_unchanged() -> None:
    """The results of most models stay what they were, and cost nothing more."""
    g = Graph()
    x = g.op("Elu", g.dense(g.flat(), 48, 32))
    x = g.op("Elu", g.dense(g.site(x, 32), 32, 8))
    plan = plan_engine(g.finish(g.dense(g.site(x, 8), 8, 2), 2))
    assert "Concat" not in [node.op_type for node in plan.trunk.graph.node]
    elus = [node for model in (plan.trunk, plan.head) for node in model.graph.node if node.op_type == "Elu"]
    assert len(elus) == 2
    assert not any("stable" in name for node in elus for name in (*node.input, *node.output))
