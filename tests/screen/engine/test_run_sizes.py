"""Rows and concurrency by number of threads and memory; the results always have the same bits."""

from __future__ import annotations

import threading
from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from export.contract.reader import ExportedModel
from screen.engine.device.provider import Device
from screen.engine.graph.plan import plan_engine
from screen.engine.passes import PassEngine
from screen.engine.run_sizes import size_runs
from screen.engine.statistics import PassSummary
from screen.engine.workers import Lane, WorkerPool

_MEMORY = 2**29


@pytest.mark.parametrize("threads", [2, 64, 256])
@pytest.mark.parametrize("masks", ["shared", "per-row"])
def test_more_threads_take_turns_instead_of_runs_of_few_rows(article: ExportedModel, threads: int, masks: str) -> None:
    plan = plan_engine(article, masks=masks)
    sizes = size_runs(plan, _MEMORY, threads)
    assert sizes.head_rows >= (256 if masks == "shared" else 8)
    assert sizes.trunk_rows >= 8
    assert 1 <= sizes.head_runs <= threads
    head = sizes.head_runs * plan.passes_per_run * (plan.head_pass_bytes + sizes.head_rows * plan.head_row_bytes)
    assert head + 2 * sizes.rows * plan.boundary_row_bytes <= _MEMORY
    assert sizes.trunk_runs * sizes.trunk_rows * plan.trunk_row_bytes <= _MEMORY // 2


def test_many_threads_take_slices_of_one_boundary(article: ExportedModel) -> None:
    """Its rows are not limited to those that one session run of the head takes beside all others."""
    plan = plan_engine(article)
    sizes = size_runs(plan, _MEMORY, 64)
    assert sizes.rows > 3 * sizes.head_rows
    assert 2 * sizes.rows * plan.boundary_row_bytes <= _MEMORY // 4


def test_all_of_64_threads_run_where_memory_suffices(article: ExportedModel) -> None:
    sizes = size_runs(plan_engine(article), 64 * _MEMORY, 64)
    assert (sizes.trunk_runs, sizes.head_runs) == (64, 64)
    assert sizes.head_slices(2**14, runs=4) == 16
    assert sizes.trunk_slices(2**14) >= 64


def test_small_batches_are_not_cut_below_the_rows_that_a_run_needs(article: ExportedModel) -> None:
    sizes = size_runs(plan_engine(article), 64 * _MEMORY, 64)
    assert sizes.head_slices(200, runs=1) == 1
    assert 200 // sizes.trunk_slices(200) >= 8


def test_large_images_run_in_every_thread_with_few_rows(article: ExportedModel) -> None:
    """The arithmetic of two rows occupies a kernel if each is that of a large image."""
    plan = replace(plan_engine(article), once_flops=10**9, trunk_row_bytes=2**20)
    assert size_runs(plan, _MEMORY, 64).trunk_runs == 64


@pytest.mark.parametrize("passes", [1, 10])
def test_a_row_has_the_same_bits_with_64_threads_and_with_little_memory(
    article: ExportedModel, digits: NDArray[np.uint8], passes: int
) -> None:
    plan = plan_engine(article)

    def score(threads: int, memory: int) -> PassSummary:
        device = Device("cpu", threads, memory=memory)
        return PassEngine(plan, passes=passes, seed=1, device=device).summarize(digits[:600])

    whole = score(1, _MEMORY)
    for threads, memory in ((2, _MEMORY), (3, 2**25), (64, _MEMORY), (64, 2**26)):
        other = score(threads, memory)
        for field in fields(PassSummary):
            np.testing.assert_array_equal(getattr(other, field.name), getattr(whole, field.name), err_msg=field.name)


def test_a_lane_runs_at_most_its_limit_and_every_task_once() -> None:
    lock, running, most = threading.Lock(), 0, 0
    together = threading.Barrier(2)

    def task(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(timeout=60)  # two tasks are always concurrent
        with lock:
            running -= 1
        return number * number

    lane = Lane(WorkerPool(8, "test"), 2)
    assert lane.map(task, range(40)) == [number * number for number in range(40)]
    assert most == 2


def test_a_lane_raises_the_error_of_a_task_and_goes_on() -> None:
    lane = Lane(WorkerPool(2, "test"), 1)
    with pytest.raises(ZeroDivisionError):
        lane.map(lambda number: 1 // number, [1, 0, 1])
    assert lane.map(abs, [-1, -2]) == [1, 2]
