"""Results of a GPU agree with those of the CPU, and have the same bits in every run, session and batch."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.contract.reader import ExportedModel
from screen.engine.device.choice import choose_device
from screen.engine.device.placement import misplaced_nodes
from screen.engine.device.provider import Device
from screen.engine.distance import DEFAULT_METRICS, fit_distance
from screen.engine.graph.plan import plan_engine
from screen.engine.passes import PassEngine
from screen.engine.statistics import PassSummary
from screen.run.screener import Screener
from tests.screen.engine.graphs import GRAPHS

pytestmark = pytest.mark.cuda

PASSES = 12
IMAGES = np.random.default_rng(5).integers(0, 256, (37, 4, 4, 3), dtype=np.uint8)
SOME = ("dense_chain", "convolutions", "attention", "three_layers")


def summarize(model: ExportedModel, device: str, images: NDArray[np.uint8] = IMAGES, **options: Any) -> PassSummary:
    (summary,) = Screener(model, device=device, **{"passes": PASSES, **options}).summarize_each([images])
    assert summary is not None
    return summary


def arrays(summary: PassSummary) -> dict[str, NDArray[Any]]:
    values = {field.name: getattr(summary, field.name) for field in fields(summary)}
    return {name: value for name, value in values.items() if value is not None}


@pytest.mark.parametrize("masks", ["shared", "per-row"])
@pytest.mark.parametrize("name", GRAPHS)
def test_statistics_agree_with_the_cpu(name: str, masks: str, device: Device) -> None:
    model = GRAPHS[name][0]()
    found, wanted = (summarize(model, one, masks=masks) for one in (device.name, "cpu"))
    for statistic in ("mean", "std", "entropy", "expected_entropy"):
        np.testing.assert_allclose(getattr(found, statistic), getattr(wanted, statistic), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SOME)
def test_flags_are_equal_away_from_the_threshold(name: str, device: Device) -> None:
    model = GRAPHS[name][0]()
    entropy = arrays(summarize(model, "cpu"))["entropy"]
    limit = float(np.median(entropy))
    found, wanted = (
        Screener(model, device=one, passes=PASSES, flag_if=f"entropy > {limit:.9f}").score(IMAGES).flag
        for one in (device.name, "cpu")
    )
    away = np.abs(entropy - limit) > 1e-5
    np.testing.assert_array_equal(found[away], wanted[away])
    assert 0 < found.sum() < len(found)


@pytest.mark.parametrize("name", SOME)
def test_distances_agree_with_the_cpu(name: str, device: Device) -> None:
    plan, cpu = plan_engine(GRAPHS[name][0](), features=True), choose_device("cpu", 0)
    options: dict[str, Any] = {"passes": 2, "seed": 0}
    reference = PassEngine(plan, device=cpu, **options).features(IMAGES[:20])
    distances = tuple(
        fit_distance(f"{group}_distance", reference, columns, cpu, DEFAULT_METRICS[f"{group}_distance"], 3)
        for group, columns in plan.features.groups.items()
    )
    assert distances
    found, wanted = (
        arrays(PassEngine(plan, device=one, distances=distances, **options).summarize(IMAGES[20:]))
        for one in (device, cpu)
    )
    for distance in distances:
        np.testing.assert_allclose(found[distance.name], wanted[distance.name], rtol=1e-5)


@pytest.mark.parametrize("name", SOME)
def test_runs_and_sessions_give_the_same_bits(name: str, device: Device) -> None:
    model = GRAPHS[name][0]()
    screener = Screener(model, device=device.name, passes=PASSES)
    first, again = (arrays(one) for one in screener.summarize_each([IMAGES, IMAGES]) if one is not None)
    fresh = arrays(summarize(model, device.name))
    for statistic, value in first.items():
        np.testing.assert_array_equal(value, again[statistic])
        np.testing.assert_array_equal(value, fresh[statistic])


@pytest.mark.parametrize("size", [1, 2, 7, 36])
@pytest.mark.parametrize("name", SOME)
def test_batch_sizes_give_the_same_bits(name: str, size: int, device: Device) -> None:
    """With 37 rows, the last batch has another size, mostly an odd one."""
    screener = Screener(GRAPHS[name][0](), device=device.name, passes=PASSES)
    (whole,) = screener.summarize_each([IMAGES])
    parts = [IMAGES[start : start + size] for start in range(0, len(IMAGES), size)]
    summaries = [arrays(one) for one in screener.summarize_each(parts) if one is not None]
    assert whole is not None
    for statistic in ("mean", "std", "entropy"):
        joined = np.concatenate([one[statistic] for one in summaries])
        np.testing.assert_array_equal(joined, getattr(whole, statistic))


@pytest.mark.parametrize("name", SOME)
def test_early_exit_gives_the_flags_and_passes_of_the_cpu(name: str, device: Device) -> None:
    model = GRAPHS[name][0]()
    limit = 0.8 * float(np.median(arrays(summarize(model, "cpu", passes=100))["entropy"]))
    options: dict[str, Any] = {"passes": 100, "adaptive": True, "flag_if": f"entropy > {limit:.6f}"}
    found, wanted = (arrays(summarize(model, one, **options)) for one in (device.name, "cpu"))
    away = np.abs(wanted["entropy"] - limit) > 1e-5
    np.testing.assert_array_equal((found["entropy"] > limit)[away], (wanted["entropy"] > limit)[away])
    assert np.mean(found["passes"] == wanted["passes"]) > 0.9
    assert found["passes"].min() < 100


@pytest.mark.parametrize("name", GRAPHS)
def test_no_node_but_shape_arithmetic_runs_elsewhere(name: str, device: Device) -> None:
    engine = Screener(GRAPHS[name][0](), device=device.name, passes=PASSES)._engine
    for session, graph in (
        (engine._trunk._session._session, engine.plan.trunk),
        (engine._head._session, engine.plan.head),
    ):
        groups = session.get_provider_graph_assignment_info()
        elsewhere = [node.name for group in groups if group.ep_name != device.provider for node in group.get_nodes()]
        assert misplaced_nodes(graph, elsewhere) == []


def test_too_little_memory_halves_the_rows(cuda: Device) -> None:
    model = GRAPHS["convolutions"][0]()
    notes: list[str] = []
    images = np.resize(IMAGES, (200_000, 4, 4, 3))
    screener = Screener(model, device=cuda.name, passes=PASSES, memory=64, notify=notes.append)
    sizes = screener._engine._trunk.sizes
    screener._engine._trunk.sizes = replace(sizes, rows=len(images), head_rows=len(images))
    (found,) = screener.summarize_each([images])
    assert found is not None
    assert any("memory ran out" in note for note in notes)
    # Fewer rows in a session run may have other kernels on a GPU.
    np.testing.assert_allclose(found.mean[:37], summarize(model, cuda.name).mean, atol=1e-5)
