"""Rows of boundary tensors are selected and joined by graphs on a GPU; here the same graphs run on the CPU."""

from __future__ import annotations

import numpy as np

from export.contract.reader import ExportedModel
from screen.engine.boundary import Boundary, DeviceRows, TrunkRunner
from screen.engine.early_exit import EarlyExitEngine
from screen.engine.graph.plan import plan_engine
from screen.engine.run_sizes import size_runs
from screen.engine.runs import Rows
from screen.engine.session import Device
from screen.engine.workers import WorkerPool

CPU = Device("cpu", 2)
IMAGES = np.random.default_rng(0).integers(0, 256, (13, 28, 28, 1), dtype=np.uint8)


def test_rows_on_the_device_equal_rows_on_the_host(article: ExportedModel) -> None:
    plan = plan_engine(article)
    assert {tensor.row_axis for tensor in plan.boundary} == {0, 1}  # one tensor is transposed
    with WorkerPool(2, "test") as pool:
        runner, other = (TrunkRunner(plan, CPU, pool, size_runs(plan, 2**28)) for _ in range(2))
        other._device_rows = DeviceRows(plan.boundary, CPU)
        whole = runner.run(Rows(IMAGES))
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
        engine = EarlyExitEngine(plan, passes=200, seed=1, device=CPU, memory=2**28)
        if on_device:
            rows = DeviceRows(plan.boundary, CPU)
            engine._trunk._device_rows = rows
        limits = lambda count, _: np.full(count, 0.2)  # noqa: E731
        found.append([one for one in engine.summarize_early_exit(batches, limits) if one is not None])
    for host, device in zip(*found, strict=True):
        np.testing.assert_array_equal(host.mean, device.mean)
        np.testing.assert_array_equal(host.passes, device.passes)
    assert {"_gather"} <= set(vars(rows))
