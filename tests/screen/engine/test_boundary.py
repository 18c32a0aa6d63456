"""Graphs that select and join rows of boundary tensors on a GPU; the tests run these graphs on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from export.contract.reader import ExportedModel
from screen.engine.boundary import Boundary, TrunkRunner
from screen.engine.device.provider import Device
from screen.engine.device.rows import DeviceRows
from screen.engine.early_exit import EarlyExitEngine
from screen.engine.graph.plan import plan_engine
from screen.engine.run_sizes import RunSizes, size_gpu_runs, size_runs
from screen.engine.workers import WorkerPool

CPU = Device("cpu", 2)
IMAGES = np.random.default_rng(0).integers(0, 256, (13, 28, 28, 1), dtype=np.uint8)


def test_rows_on_the_device_equal_rows_on_the_host(article: ExportedModel) -> None:
    plan = plan_engine(article)
    assert {tensor.row_axis for tensor in plan.boundary} == {0, 1}  # one tensor is transposed
    with WorkerPool(2, "test") as pool:
        runner, other = (TrunkRunner(plan, CPU, pool, size_runs(plan, 2**28)) for _ in range(2))
        other._device_rows = DeviceRows(plan.boundary, CPU)
        whole = runner.run(IMAGES)
        for positions in (np.array([3]), np.array([12, 0, 5])):
            _check(runner.take(whole, positions), other.take(whole, positions))
        parts = [runner.take(whole, np.array(one)) for one in ([1], [2, 3, 4], [5], [7, 6], [0])]
        _check(runner.join(parts), other.join(parts))
        for own, its in zip(runner.split(whole, 4), other.split(whole, 4), strict=True):
            _check(own, its)


def _check(expected: Boundary, found: Boundary) -> None:
    assert len(expected.rows.images) == len(found.rows.images)
    np.testing.assert_array_equal(expected.rows.images, found.rows.images)
    for name, value in expected.tensors.items():
        np.testing.assert_array_equal(found.tensors[name].numpy(), value.numpy())


def test_early_exit_is_the_same_with_rows_on_the_device(article: ExportedModel) -> None:
    plan = plan_engine(article)
    batches = [IMAGES[:6], IMAGES[6:7], IMAGES[7:]]
    found = []
    for on_device in (False, True):
        engine = EarlyExitEngine(plan, passes=200, seed=1, device=CPU)
        if on_device:
            rows = DeviceRows(plan.boundary, CPU)
            engine._trunk._device_rows = rows
        limits = lambda count, _: np.full(count, 0.2)  # noqa: E731
        found.append([one for one in engine.summarize_early_exit(batches, limits) if one is not None])
    for host, device in zip(*found, strict=True):
        np.testing.assert_array_equal(host.mean, device.mean)
        np.testing.assert_array_equal(host.passes, device.passes)
    assert {"_gather"} <= set(vars(rows))


@pytest.mark.parametrize("count", [1, 3, 8, 13])
def test_rows_padded_to_one_shape_have_the_same_results(article: ExportedModel, count: int) -> None:
    """The way of a GPU, on the CPU: every session run of trunk and head has 8 rows."""
    plan = plan_engine(article, features=True)
    usual, padded = (EarlyExitEngine(plan, passes=200, seed=1, device=CPU) for _ in range(2))
    padded._trunk.sizes = RunSizes(8, 8, 1, 8, 1, 8, 8, padded=8)
    padded._trunk._device_rows = DeviceRows(plan.boundary, CPU)
    rows_of_runs = _record_rows(padded)
    images = IMAGES[:count]
    limits = lambda number, _: np.full(number, 0.2)  # noqa: E731
    for found, wanted in (
        (padded.summarize(images), usual.summarize(images)),
        (
            next(padded.summarize_early_exit([images], limits)),
            next(usual.summarize_early_exit([images], limits)),
        ),
    ):
        for field in ("mean", "std", "entropy", "passes"):
            np.testing.assert_array_equal(getattr(found, field), getattr(wanted, field))
    np.testing.assert_array_equal(padded.features(images), usual.features(images))
    assert rows_of_runs == {8}


def _record_rows(engine: EarlyExitEngine) -> set[int]:
    """The numbers of rows of all later session runs of trunk and head."""
    found: set[int] = set()
    axes = {engine.plan.contract.input_name: 0} | {one.name: one.row_axis for one in engine.plan.boundary}
    for session in (engine._trunk._session, engine._head):
        run = session.run

        def recorded(inputs: Mapping[str, Any], run: Callable[..., Any] = run) -> Any:
            found.update(value.shape()[axes[name]] for name, value in inputs.items() if name in axes)
            return run(inputs)

        session.run = recorded  # type: ignore[method-assign]
    return found


def test_a_gpu_has_one_number_of_rows_that_fits_into_memory(article: ExportedModel) -> None:
    plan = plan_engine(article)
    assert size_gpu_runs(plan, 2**36).padded == 1024  # little arithmetic for each row
    large = replace(plan, once_flops=10**9, trunk_row_bytes=2**24)
    assert size_gpu_runs(large, 2**36).padded == 128
    assert size_gpu_runs(large, 2**30).padded == 32  # 64 rows of 16 MiB and the boundary do not fit
    assert size_gpu_runs(large, 2**20).padded == 2
    assert size_gpu_runs(plan, 2**36).limit(100) == RunSizes(100, 1024, 1, 100, 1, 1024, 1024, padded=100)
