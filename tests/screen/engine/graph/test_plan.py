from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from export.contract.metadata import ZEROING_KINDS, Site
from export.contract.reader import ExportedModel
from export.errors import ContractRefused
from screen.engine.device.provider import Device
from screen.engine.graph.compaction import choose_units
from screen.engine.graph.plan import plan_engine
from screen.engine.graph.sites import Shortcuts
from screen.engine.graph.split import split_graph
from screen.engine.graph.subtraction import choose_dropped, subtraction_pays
from screen.engine.masks import draw_mask, draw_masks
from screen.engine.passes import PassEngine
from screen.engine.run_sizes import size_runs
from screen.engine.statistics import PassSummary
from tests.agreement import assert_close_to_scale
from tests.screen.engine.graphs import GRAPHS, SHAPE, Graph, pass_by_pass

CPU = Device("cpu", 1)
IMAGES = np.random.default_rng(1).integers(0, 256, (9, *SHAPE), dtype=np.uint8)


WAYS = {
    "all": Shortcuts(),
    "subtracted": Shortcuts(compact_layers=False),
    "compacted": Shortcuts(subtract_dropped=False),
    "weights": Shortcuts(compact_layers=False, subtract_dropped=False),
    "batch": Shortcuts(masks_in_weights=False),
}


@pytest.fixture
def subtraction_always_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """On small graphs subtraction is slower; forced here, because its results must be right for every size."""
    monkeypatch.setattr("screen.engine.graph.sites.subtraction_pays", lambda *_: True)


def run_engine(model: ExportedModel, passes: int, way: str = "all") -> PassSummary:
    plan = plan_engine(model, shortcuts=WAYS[way])
    return PassEngine(plan, passes=passes, seed=5, device=CPU).summarize(IMAGES)


@pytest.mark.usefixtures("subtraction_always_pays")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", GRAPHS)
def test_the_plan_gives_what_the_graph_gives_pass_by_pass(name: str, way: str) -> None:
    model = GRAPHS[name][0]()
    summary = run_engine(model, 40, way)
    expected = pass_by_pass(model, IMAGES, 40, seed=5)
    assert_close_to_scale(summary.mean, expected.mean(axis=0), 1e-5)
    assert_close_to_scale(summary.std, expected.std(axis=0), 1e-5, of=expected)
    assert summary.expected_entropy is not None
    entropies = -(expected * np.log(expected)).sum(axis=2)
    assert_close_to_scale(summary.expected_entropy, entropies.mean(axis=0), 1e-5)


@pytest.mark.parametrize("name", GRAPHS)
def test_masks_go_into_weights_exactly_where_that_is_right(name: str) -> None:
    build, methods = GRAPHS[name]
    assert tuple(site.method for site in plan_engine(build()).sites) == methods
    assert {site.method for site in plan_engine(build(), shortcuts=WAYS["batch"]).sites} == {"batch"}


@pytest.mark.usefixtures("subtraction_always_pays")
@pytest.mark.parametrize("name", GRAPHS)
def test_only_a_product_of_what_the_trunk_gives_is_made_by_subtraction(name: str) -> None:
    model = GRAPHS[name][0]()
    plan = plan_engine(model, shortcuts=WAYS["subtracted"])
    read = {node.name: node.input[0] for node in model.proto.graph.node if node.name}
    raw = {site.name for site in model.contract.sites if read[site.name] in split_graph(model.proto.graph).boundary}
    methods = {site.site.name: site.method for site in plan_engine(model, shortcuts=WAYS["weights"]).sites}
    zeroing = {site.name for site in model.contract.sites if site.kind in ZEROING_KINDS}
    assert {site.site.name for site in plan.sites if site.method == "subtracted"} == {
        name for name in raw & zeroing if methods[name] == "weights"
    }


@pytest.mark.usefixtures("subtraction_always_pays")
def test_the_boundary_is_handed_over_only_where_something_reads_it() -> None:
    chain, branches = (plan_engine(GRAPHS[name][0]()) for name in ("dense_chain", "residual"))
    assert [(tensor.shape, tensor.row_axis) for tensor in chain.boundary] == [((48,), 1), ((20,), 0)]
    assert [(tensor.shape, tensor.row_axis) for tensor in branches.boundary] == [((12,), 0), ((12,), 1), ((12,), 0)]


@pytest.mark.parametrize("name", GRAPHS)
def test_nothing_stochastic_is_in_the_trunk_and_nothing_else_in_the_head(name: str) -> None:
    model = GRAPHS[name][0]()
    plan = plan_engine(model, shortcuts=WAYS["compacted"])
    assert not any("mask" in value for node in plan.trunk.graph.node for value in node.input)
    assert {value.name for value in plan.trunk.graph.output} == {tensor.name for tensor in plan.boundary}
    heavy = ("Conv", "MatMul", "Gemm")
    counts = [sum(node.op_type in heavy for node in half.graph.node) for half in (plan.trunk, plan.head)]
    assert sum(counts) == sum(node.op_type in heavy for node in model.proto.graph.node)
    onnx.checker.check_model(plan.head)


@given(
    seed=st.integers(0, 10_000),
    layers=st.lists(st.sampled_from("drsbpt"), min_size=1, max_size=6),
    subtract=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_random_graphs_give_what_they_give_pass_by_pass(seed: int, layers: list[str], subtract: bool) -> None:
    g = Graph(seed)
    x = g.dense(g.flat(), 48, 8)
    for layer in layers:
        if layer == "d":
            x = g.op("Relu", g.dense(g.site(x, 8), 8, 8))
        elif layer == "r":
            x = g.op("Add", x, g.dense(g.site(g.op("Tanh", x), 8), 8, 8))
        elif layer == "s":
            x = g.op("Tanh", x)
        elif layer == "b":
            x = g.site(g.site(x, 8, rate=0.1), 8, noise=(1,), rate=0.2)
        elif layer == "p":
            x = g.op("Mul", g.site(x, 8), g.op("Sigmoid", g.dense(x, 8, 8)))
        else:
            tokens = g.op("Reshape", x, g.const(np.array([-1, 2, 4])))
            x = g.op("Flatten", g.op("MatMul", g.site(tokens, 2, 4, noise=(1, 4)), g.weight(4, 4)), axis=1)
    model = g.finish(g.dense(g.site(x, 8), 8, 3), 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("screen.engine.graph.sites.subtraction_pays", lambda *_: subtract)
        summary = run_engine(model, 8)
    expected = pass_by_pass(model, IMAGES, 8, seed=5)
    assert_close_to_scale(summary.mean, expected.mean(axis=0), 1e-5)
    assert_close_to_scale(summary.std, expected.std(axis=0), 1e-5, of=expected)


@pytest.mark.parametrize("passes", [1, 2, 3, 7, 16, 33, 100, 500])
def test_passes_are_cut_into_runs_without_a_single_one(passes: int) -> None:
    runs = plan_engine(GRAPHS["dense_chain"][0]()).runs(passes)
    assert sum(runs) == passes
    assert min(runs) >= 2 or passes == 1


def test_a_graph_that_lost_its_sites_is_refused() -> None:
    model = GRAPHS["dense_chain"][0]()
    for node in model.proto.graph.node:
        if node.name == "drop0":
            node.op_type, node.domain = "Identity", ""
            del node.attribute[:]
    with pytest.raises(ContractRefused, match=r"lists the dropout sites \['drop0', 'drop1'\], but its graph contains"):
        plan_engine(model)


def test_a_site_whose_first_axis_does_not_count_rows_is_refused() -> None:
    g = Graph()
    x = g.op("Transpose", g.flat(), perm=[1, 0])
    x = g.op("Transpose", g.site(x, 48), perm=[1, 0])
    model = g.finish(g.dense(x, 48, 3), 3)
    with pytest.raises(ContractRefused, match="does not have the batch axis as its first axis"):
        plan_engine(model)


def test_sub_graphs_in_the_head_are_refused() -> None:
    g = Graph()
    x = g.site(g.flat(), 48)
    value = helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Neg", [x], ["inner"])], "branch", [], [value])
    x = g.op("If", g.const(np.array(True)), then_branch=branch, else_branch=branch)
    model = g.finish(g.dense(x, 48, 3), 3)
    with pytest.raises(ContractRefused, match="If"):
        plan_engine(model)


def summaries_over_seeds(model: ExportedModel, masks: str, seeds: range) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Mean and std of class 0 and predictive entropy after few passes, for each seed: `[seeds, 3, B]`."""
    engine = PassEngine(plan_engine(model, masks=masks), passes=8, seed=seeds[0], device=CPU)
    rows = []
    for seed in seeds:
        # One pair of sessions serves all seeds: only the masks depend on the seed.
        engine.seed = seed
        engine._mask_cache.clear()
        summary = engine.summarize(IMAGES)
        assert summary.entropy is not None
        rows.append(np.stack([summary.mean[:, 0], summary.std[:, 0], summary.entropy]))
    return np.stack(rows)


def kolmogorov_smirnov(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """The largest distance between two empirical distribution functions."""
    both = np.sort(np.concatenate([one, other]))
    return float(
        np.abs(
            np.searchsorted(np.sort(one), both, "right") / len(one)
            - np.searchsorted(np.sort(other), both, "right") / len(other)
        ).max()
    )


@pytest.mark.parametrize("name", ["dense_chain", "convolutions"])
def test_a_row_has_the_same_distribution_over_seeds_with_shared_masks_and_with_its_own(name: str) -> None:
    """Kolmogorov-Smirnov tests at a significance level of about 1e-5 for each of 27 comparisons."""
    model, seeds = GRAPHS[name][0](), 250
    shared = summaries_over_seeds(model, "shared", range(seeds))
    own = summaries_over_seeds(model, "per-row", range(seeds))
    critical = 2.47 * np.sqrt(2 / seeds)
    for statistic in range(3):
        for row in range(len(IMAGES)):
            assert kolmogorov_smirnov(shared[:, statistic, row], own[:, statistic, row]) < critical
    # The test has power: it rejects a distribution whose std is 20 % smaller.
    assert kolmogorov_smirnov(shared[:, 1, 0], shared[:, 1, 0] * 0.8) > critical


def test_masks_per_row_differ_between_rows_and_not_between_batches() -> None:
    model = GRAPHS["dense_chain"][0]()
    plan = plan_engine(model, masks="per-row")
    assert {site.method for site in plan.sites} == {"batch"}
    engine = PassEngine(plan, passes=12, seed=3, device=CPU)
    whole = engine.summarize(IMAGES)
    for rows in (slice(0, 1), slice(2, 7), slice(8, 9)):
        np.testing.assert_array_equal(engine.summarize(IMAGES[rows]).std, whole.std[rows])
    raw = PassEngine(plan_engine(model, masks="per-row", raw=True), passes=12, seed=3, device=CPU)
    passes = np.concatenate(list(raw.raw_passes(IMAGES)))
    assert_close_to_scale(passes.mean(axis=0), whole.mean, 1e-6)


def test_a_tiny_std_close_to_certainty_is_right_to_one_percent() -> None:
    """Logits of 9.2 with little noise from dropout give a std of about 1e-4 around 0.9999."""
    g = Graph()
    hidden = g.op("Add", g.op("Mul", g.flat(), g.const(np.float32(0))), g.const(np.ones(48, np.float32)))
    weight = np.zeros((48, 2), np.float32)
    weight[:, 0] = 9.2 / 48
    logits = g.op("MatMul", g.site(hidden, 48, rate=0.3), g.const(weight))
    model = g.finish(logits, 2)
    summary = run_engine(model, 400)
    logit = pass_by_pass_logits(model, 400)
    exact = 1 / (1 + np.exp(-logit))
    assert 0.999 < exact.mean() < 0.99995
    assert 2e-5 < exact.std() < 1e-3
    np.testing.assert_allclose(summary.std[:, 0], exact.std(), rtol=0.01)


def pass_by_pass_logits(model: ExportedModel, passes: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    (site,) = model.contract.sites
    return np.array([draw_mask(5, site, index).astype(np.float64).sum() * 9.2 / 48 for index in range(passes)])


def test_the_units_that_are_computed_are_those_that_are_kept_and_a_fill() -> None:
    masks = draw_masks(3, Site("s", "MCDropout", 0.5, (40,), (40,)), 0, 6)[:, 0]
    units, kept = choose_units(masks)
    assert units.shape == kept.shape
    assert units.shape[1] % 8 == 0
    assert units.shape[1] < 40
    for index in range(6):
        assert set(np.flatnonzero(masks[index])) <= set(units[index].tolist())
        assert len(set(units[index].tolist())) == units.shape[1]
        np.testing.assert_array_equal(kept[index], masks[index, units[index]])


def test_a_pass_that_keeps_no_unit_or_every_unit_is_possible() -> None:
    none, _ = choose_units(np.zeros((2, 5), np.float32))
    every, _ = choose_units(np.ones((2, 5), np.float32))
    assert (none.shape, every.shape) == ((2, 5), (2, 5))


def test_the_features_that_are_subtracted_are_those_that_are_dropped_and_a_fill() -> None:
    masks = draw_masks(3, Site("s", "MCDropout", 0.25, (100,), (100,)), 0, 6)[:, 0]
    dropped, scale = choose_dropped(masks, 0.25)
    assert dropped.shape == scale.shape
    assert dropped.shape[1] % 16 == 0
    assert dropped.shape[1] < 100
    for index in range(6):
        real = scale[index] > 0
        np.testing.assert_array_equal(dropped[index][real], np.flatnonzero(masks[index] == 0))
        np.testing.assert_array_equal(np.unique(scale[index][real]), [np.float32(4 / 3)])


def test_a_pass_that_drops_no_feature_or_every_feature_is_possible() -> None:
    none, unscaled = choose_dropped(np.ones((2, 5), np.float32), 0.5)
    every, _ = choose_dropped(np.zeros((2, 5), np.float32), 0.5)
    assert (none.shape, every.tolist()) == ((2, 1), [[0, 1, 2, 3, 4]] * 2)
    assert not unscaled.any()


def test_subtraction_pays_at_small_rates_before_wide_layers() -> None:
    assert subtraction_pays(0.25, 64)
    assert not subtraction_pays(0.25, 3)
    assert not subtraction_pays(0.8, 64)


def test_the_predicted_cost_is_that_of_what_is_run(article: ExportedModel) -> None:
    whole = plan_engine(article, shortcuts=WAYS["batch"])
    compacted, least = plan_engine(article, shortcuts=WAYS["compacted"]), plan_engine(article)
    share = 1 - whole.trunk_share
    assert whole.relative_cost(1) == pytest.approx(1)
    assert compacted.relative_cost(100) == pytest.approx(1 - share + 100 * share / 2, rel=0.01)
    # Each pass: a quarter of the features for half of the units; once: the full product.
    assert least.relative_cost(100) == pytest.approx(1 + 100 * share / 8, rel=0.02)


def test_a_trunk_with_large_tensors_takes_fewer_rows_at_a_time_and_leaves_room_for_the_head() -> None:
    plan = replace(plan_engine(GRAPHS["dense_chain"][0]()), trunk_row_bytes=14 * 2**20)
    sizes = size_runs(plan, 2**29, 2)
    assert (sizes.trunk_rows, sizes.trunk_runs) == (18, 1)
    assert sizes.rows > 1000
    assert size_runs(plan, 2**20, 2).trunk_rows == 2
    assert size_runs(replace(plan, trunk_row_bytes=100), 2**29, 2).trunk_rows == 128


def test_a_kind_of_noise_that_is_not_known_is_refused() -> None:
    model = GRAPHS["dense_chain"][0]()
    sites = tuple(replace(site, kind="MCCauchyDropout") for site in model.contract.sites)
    with pytest.raises(ContractRefused, match="MCCauchyDropout"):
        plan_engine(replace(model, contract=replace(model.contract, sites=sites)))
