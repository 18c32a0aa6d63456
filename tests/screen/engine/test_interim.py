from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from export.contract.reader import ExportedModel
from export.errors import OutOfMemory
from screen.engine.device.provider import Device
from screen.engine.early_exit import CONCURRENT_BATCHES, MAX_WAITING_BATCHES, EarlyExitEngine, EntropyLimits
from screen.engine.graph.plan import plan_engine
from screen.engine.interim import (
    FIRST_LOOK,
    LAST_LOOK_SHARE,
    LOOK_GROWTH,
    MIN_LOOK_SPACING,
    STANDARD_ERRORS,
    UNSEEN_PASSES,
    critical_value,
    entropy_error,
    entropy_with_unseen_passes,
    find_decided_rows,
    plan_interim_looks,
)
from screen.engine.passes import PassEngine
from screen.engine.statistics import PassSummary, RunStatistics
from tests.agreement import assert_close_to_scale

PASSES = 200
MANY = 10**9
"""T so large that the finite population correction of the standard error is negligible."""


def statistics_of(passes: NDArray[np.float64]) -> RunStatistics:
    """Moments of raw passes `[T, B, C]`."""
    mean = passes.mean(axis=0)
    deviation = passes - mean
    return RunStatistics(len(passes), mean, *((deviation**power).sum(axis=0) for power in (2, 3, 4)))


def entropy_of(runs: RunStatistics) -> float:
    return float(-(runs.mean * np.log(runs.mean)).sum())


def exact_error(passes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard error by the delta method, from the linear projection of every pass."""
    projected = (passes * -np.log(passes.mean(axis=0))).sum(axis=2)
    return np.asarray(projected.std(axis=0, ddof=1) / math.sqrt(len(passes)))


@given(st.integers(1, 3000))
def test_interim_looks_are_within_their_bounds_and_keep_their_spacing(passes: int) -> None:
    looks = plan_interim_looks(passes)
    assert looks[-1] == passes
    assert looks[0] == (FIRST_LOOK if passes >= FIRST_LOOK + MIN_LOOK_SPACING else passes)
    assert all(look <= LAST_LOOK_SHARE * passes for look in looks[:-1])
    assert all(step >= MIN_LOOK_SPACING for step in np.diff(looks))


def test_the_error_falls_by_the_same_factor_between_looks() -> None:
    looks = np.array(plan_interim_looks(10_000)[:-1])
    variance = 1 / looks - 1 / 10_000
    np.testing.assert_allclose(variance[:-1] / variance[1:], LOOK_GROWTH, rtol=0.05)


@given(st.integers(0, 1000), st.integers(2, 6))
def test_the_error_is_never_below_that_of_the_delta_method(seed: int, classes: int) -> None:
    passes = np.random.default_rng(seed).dirichlet(np.ones(classes), (30, 20))
    assert np.all(entropy_error(statistics_of(passes), MANY) >= exact_error(passes) * (1 - 1e-6))


def test_between_two_classes_the_error_is_exact() -> None:
    passes = np.random.default_rng(0).dirichlet(np.ones(2), (30, 20))
    np.testing.assert_allclose(entropy_error(statistics_of(passes), MANY), exact_error(passes), rtol=1e-6)
    binary = statistics_of(passes[..., :1])
    np.testing.assert_allclose(entropy_error(binary, MANY), exact_error(passes), rtol=1e-6)


@pytest.mark.parametrize("completed", [50, 300, 450])
def test_the_error_is_relative_to_the_entropy_after_all_passes(completed: int) -> None:
    """The entropy of a random subset of 500 passes deviates from that of all by the estimated standard error."""
    rng = np.random.default_rng(0)
    passes = rng.dirichlet([8.0, 4.0], 500)
    whole = statistics_of(passes[:, np.newaxis])
    deviations, errors = [], []
    for _ in range(2000):
        subset = statistics_of(rng.permutation(passes)[:completed, np.newaxis])
        deviations.append(entropy_of(subset) - entropy_of(whole))
        errors.append(entropy_error(subset, 500)[0])
    assert np.std(deviations) == pytest.approx(np.mean(errors), rel=0.06)


def decided(
    entropy: list[float], error: list[float], limit: list[float], completed: int, information: float = 0
) -> list[bool]:
    """The decided rows after some of T = 1000 passes."""
    found: list[bool] = find_decided_rows(
        np.array(entropy), np.full(len(entropy), information), np.array(error), np.array(limit), completed, 1000
    ).tolist()
    return found


def test_a_row_is_decided_where_its_entropy_is_far_from_the_limit() -> None:
    entropy, limit = [0.1, 0.5, 0.51, 1.0, 0.3, 0.3], [0.5, 0.5, 0.5, 0.5, math.inf, -math.inf]
    assert decided(entropy, [0.01] * 6, limit, 100) == [True, False, False, True, True, True]
    assert decided([0.1], [0.2], [0.5], 100) == [False]


def test_passes_that_agree_must_be_farther_from_the_limit_the_fewer_they_are() -> None:
    assert decided([1.01], [0], [1], 20) == [False]
    assert decided([1.01], [0], [1], 200) == [True]


@pytest.mark.parametrize("limit", [0.0, -1.0, 1e-300, math.nan])
def test_no_row_is_decided_below_a_limit_that_no_entropy_is_below(limit: float) -> None:
    assert decided([0.0, math.nan], [0, 0], [limit, limit], 500) == [limit < 0, False]


@given(st.integers(FIRST_LOOK, 3000))
def test_the_critical_value_is_the_quantile_of_students_t(passes: int) -> None:
    exact = stats.t.isf(stats.norm.sf(STANDARD_ERRORS), passes - 1)
    assert critical_value(passes) == pytest.approx(exact, rel=0.02)


@given(st.integers(0, 1000), st.integers(FIRST_LOOK, 500))
def test_the_entropy_with_unseen_passes_is_that_of_their_mixture(seed: int, passes: int) -> None:
    """The unseen passes replace a share of the mean by a class of its own."""
    mean = np.random.default_rng(seed).dirichlet(np.ones(4))
    share = UNSEEN_PASSES / passes
    with_them = np.array([*(1 - share) * mean, share])
    found = entropy_with_unseen_passes(np.array([-(mean * np.log(mean)).sum()]), passes)
    np.testing.assert_allclose(found, -(with_them * np.log(with_them)).sum())


def test_passes_that_agree_do_not_decide_a_row_that_unseen_passes_could_flag() -> None:
    limit = [0.2, 0.5]
    assert decided([0, 0], [0, 0], limit, 20) == [False, True]
    assert decided([0, 0], [0, 0], limit, 100) == [True, True]
    assert decided([0.1, 0.35], [0, 0], limit, 40) == [False, False], "unseen passes add to the entropy so far"
    assert decided([1, 1], [0, 0], limit, 20) == [True, True]


def test_passes_that_all_differ_do_not_decide_a_row_below_its_limit() -> None:
    """Twelve passes that choose twelve classes have an entropy of ln 12, which more passes would raise."""
    votes = np.eye(100)[:12, np.newaxis]
    runs = statistics_of(votes)
    seen, error = float(-np.log(1 / 12)), float(entropy_error(runs, 500)[0])
    assert error == pytest.approx(0)
    assert decided([seen], [error], [seen + 1.5], 12, information=seen) == [False]
    assert decided([seen], [error], [seen + 1.5], 12, information=0.1) == [True]
    assert decided([seen], [error], [seen - 0.5], 12, information=seen) == [True]


def test_rows_with_rare_but_certain_dissenting_passes_keep_nearly_all_their_flags() -> None:
    """Each of 500 passes is certain, and 2 % choose another class: the first twelve of most rows have none of these."""
    rng, rows, passes = np.random.default_rng(0), 2000, 500
    other = rng.random((passes, rows)) < 0.02
    votes = np.stack([~other, other], axis=2).astype(np.float64)
    final = statistics_of(votes).mean
    entropy = -(final * np.log(np.maximum(final, 1e-30))).sum(axis=1)
    limit = np.full(rows, np.quantile(entropy, 0.5))
    flagged, remaining = np.zeros(rows, np.bool_), np.ones(rows, np.bool_)
    for look in plan_interim_looks(passes):
        runs = statistics_of(votes[:look])
        so_far = -(runs.mean * np.log(np.maximum(runs.mean, 1e-30))).sum(axis=1)
        error = entropy_error(runs, passes)
        exits = remaining & ((look == passes) | find_decided_rows(so_far, so_far, error, limit, look, passes))
        flagged[exits] = so_far[exits] > limit[exits]
        remaining &= ~exits
    lost = (entropy > limit) & ~flagged
    assert lost.sum() <= 0.05 * (entropy > limit).sum()


def engine_of(model: ExportedModel, threads: int = 1) -> EarlyExitEngine:
    return EarlyExitEngine(plan_engine(model), passes=PASSES, seed=0, device=Device("cpu", threads))


def summarize_batch(engine: EarlyExitEngine, rows: NDArray[np.uint8], limits: EntropyLimits) -> PassSummary:
    """The summary of a single batch."""
    (summary,) = engine.summarize_early_exit([rows], limits)
    assert summary is not None
    return summary


def test_a_row_that_completes_all_passes_has_the_scores_of_a_run_without_early_exit(
    article: ExportedModel, digits: NDArray[np.uint8]
) -> None:
    """Each row's limit is its entropy after all passes, so that few rows are decided early."""
    plain = PassEngine(plan_engine(article), passes=PASSES, seed=0, device=Device("cpu", 1))
    whole = plain.summarize(digits[:40])
    entropy = whole.entropy
    assert entropy is not None
    summary = summarize_batch(engine_of(article), digits[:40], lambda rows, _: entropy)
    complete = summary.passes == PASSES
    assert complete.any()
    assert_close_to_scale(summary.mean[complete], whole.mean[complete], 1e-6)
    assert_close_to_scale(summary.std[complete], whole.std[complete], 1e-6, of=whole.mean)


@pytest.mark.parametrize("look", [0, 1])
def test_a_row_that_exits_has_the_scores_of_a_run_with_that_number_of_passes(
    article: ExportedModel, digits: NDArray[np.uint8], look: int
) -> None:
    summary = summarize_batch(engine_of(article), digits[:300], lambda rows, _: np.full(rows, 0.5))
    assert set(summary.passes.tolist()) <= set(plan_interim_looks(PASSES))
    passes = plan_interim_looks(PASSES)[look]
    exited = summary.passes == passes
    assert exited.any()
    few = PassEngine(plan_engine(article), passes=passes, seed=0, device=Device("cpu", 1))
    assert_close_to_scale(summary.mean[exited], few.summarize(digits[:300]).mean[exited], 1e-6)


def test_nearly_every_flag_is_that_of_all_passes(article: ExportedModel, digits: NDArray[np.uint8]) -> None:
    plain = PassEngine(plan_engine(article), passes=PASSES, seed=0, device=Device("cpu", 2))
    entropy = plain.summarize(digits[:600]).entropy
    assert entropy is not None
    limit = float(np.quantile(entropy, 0.9))
    stopped = summarize_batch(engine_of(article, threads=2), digits[:600], lambda rows, _: np.full(rows, limit))
    assert stopped.entropy is not None
    assert np.mean((stopped.entropy > limit) == (entropy > limit)) > 0.995
    assert stopped.passes.mean() < PASSES / 2


@pytest.mark.parametrize("masks", ["shared", "per-row"])
def test_when_a_row_exits_does_not_depend_on_its_neighbours(
    article: ExportedModel, digits: NDArray[np.uint8], masks: str
) -> None:
    limits = np.random.default_rng(0).uniform(0.05, 1.5, 40)
    by_row = {digits[row].tobytes(): limits[row] for row in range(40)}

    plan = plan_engine(article, masks=masks)

    @functools.cache
    def open_engine(threads: int, memory: int) -> EarlyExitEngine:
        return EarlyExitEngine(plan, passes=60, seed=0, device=Device("cpu", threads, memory=memory))

    def score(rows: NDArray[np.uint8], threads: int, memory: int = 2**28) -> NDArray[np.float64]:
        engine = open_engine(threads, memory)
        assert memory == 2**28 or engine.rows_per_run < 20
        limit = np.array([by_row[row.tobytes()] for row in rows])
        waiting = iter(limit)  # pieces run in order
        summary = summarize_batch(engine, rows, lambda count, _: np.array([next(waiting) for _ in range(count)]))
        assert summary.entropy is not None
        assert summary.kurtosis is not None
        return np.column_stack([summary.passes, summary.entropy, summary.kurtosis, summary.mean])

    whole = score(digits[:40], 2)
    assert len(set(whole[:, 0])) > 1

    @settings(max_examples=8, deadline=None)
    @given(st.integers(0, 39), st.integers(1, 12), st.sampled_from([1, 3]))
    def check(start: int, count: int, threads: int) -> None:
        some = digits[:40][start : start + count]
        np.testing.assert_array_equal(score(some, threads), whole[start : start + count])

    check()
    np.testing.assert_array_equal(score(digits[:40][::-1], 1), whole[::-1])
    np.testing.assert_array_equal(score(digits[:40], 2, memory=1), whole)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("limit", [0.3, -np.inf, np.inf])
def test_summaries_are_in_order_and_equal_to_those_of_each_batch_alone(
    article: ExportedModel, digits: NDArray[np.uint8], limit: float, threads: int
) -> None:
    """More batches than may wait, of unequal size; the remaining rows of several batches run together."""
    cuts = [0, 1, 12, 13, *range(20, 120, 10)]
    batches = [digits[start:end] for start, end in itertools.pairwise(cuts)]
    assert len(batches) > MAX_WAITING_BATCHES

    def limits(count: int, _: object) -> NDArray[np.float64]:
        return np.full(count, limit)

    engine, single = engine_of(article, threads), engine_of(article)
    together = list(engine.summarize_early_exit(iter(batches), limits))
    assert len(together) == len(batches)
    for batch, summary in zip(batches, together, strict=True):
        assert summary is not None
        alone = summarize_batch(single, batch, limits)
        np.testing.assert_array_equal(summary.passes, alone.passes)
        np.testing.assert_array_equal(summary.mean, alone.mean)
        assert summary.entropy is not None
        np.testing.assert_array_equal(summary.entropy, alone.entropy)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_batches_read_ahead_is_bounded(
    article: ExportedModel, digits: NDArray[np.uint8], threads: int
) -> None:
    """Batches with remaining rows, and batches without rows between them."""
    taken = []

    def batches() -> Iterator[NDArray[np.uint8] | None]:
        for start in range(100):
            taken.append(start)
            yield digits[start : start + 1] if start % 3 == 0 else None

    def never(count: int, _: object) -> NDArray[np.float64]:
        return np.full(count, 1e-30)

    found = engine_of(article, threads).summarize_early_exit(batches(), never)
    for start in range(100):
        assert (next(found) is None) == (start % 3 != 0)
        assert len(taken) <= start + MAX_WAITING_BATCHES + min(CONCURRENT_BATCHES, threads) - 1
    assert next(found, "the end") == "the end"


def test_the_error_of_a_batch_is_raised_in_its_turn(article: ExportedModel, digits: NDArray[np.uint8]) -> None:
    """Batches that have started finish; no other batch starts."""
    taken = []

    def batches() -> Iterator[NDArray[np.uint8]]:
        for start in range(100):
            taken.append(start)
            yield digits[start : start + 1]

    def limits(count: int, _: object) -> NDArray[np.float64]:
        if len(taken) > 3:
            raise ValueError("the fourth")
        return np.full(count, np.inf)

    found = engine_of(article, threads=2).summarize_early_exit(batches(), limits)
    with pytest.raises(ValueError, match="the fourth"):
        list(found)
    assert len(taken) < 7


def test_batches_that_do_not_fit_together_are_run_one_at_a_time(
    article: ExportedModel, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With memory for one of two concurrent batches, both run in whole pieces and the rows per run stay the same."""
    batches = [digits[start : start + 10] for start in range(0, 60, 10)]
    running, most, look = [0], [0], EarlyExitEngine._run_first_look

    def look_if_alone(self: EarlyExitEngine, images: NDArray[np.uint8], limits: EntropyLimits) -> Any:
        running[0] += 1
        most[0] = max(most[0], len(images))
        try:
            time.sleep(0.05)
            if running[0] > 1:
                raise OutOfMemory("two", wanted="one", next_step="wait")
            return look(self, images, limits)
        finally:
            running[0] -= 1

    def limits(count: int, _: object) -> NDArray[np.float64]:
        return np.full(count, 0.3)

    wanted = list(engine_of(article, threads=2).summarize_early_exit(iter(batches), limits))
    monkeypatch.setattr(EarlyExitEngine, "_run_first_look", look_if_alone)
    engine = engine_of(article, threads=2)
    before = engine.rows_per_run
    found = list(engine.summarize_early_exit(iter(batches), limits))
    assert engine.rows_per_run == before
    assert most == [10]
    for one, other in zip(found, wanted, strict=True):
        assert one is not None
        assert other is not None
        np.testing.assert_array_equal(one.mean, other.mean)


def test_a_batch_without_remaining_rows_is_returned_at_once(article: ExportedModel, digits: NDArray[np.uint8]) -> None:
    endless = itertools.chain([None, digits[:5]], itertools.repeat(None))
    found = engine_of(article).summarize_early_exit(endless, lambda count, _: np.full(count, np.inf))
    assert [next(found) is None for _ in range(4)] == [True, False, True, True]
