from __future__ import annotations

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
from screen.engine.early_exit import BATCHES, HELD_BATCHES, EarlyExitEngine, Limits
from screen.engine.graph.plan import plan_engine
from screen.engine.interim import (
    ERRORS,
    FIRST_LOOK,
    GROWTH,
    LAST_LOOK,
    LEAST_APART,
    UNSEEN,
    entropy_error,
    entropy_with_unseen,
    errors_after,
    find_decided,
    plan_looks,
)
from screen.engine.passes import PassEngine
from screen.engine.session import Device
from screen.engine.statistics import PassSummary, RunStatistics

PASSES = 200
MANY = 10**9
"""So many that those so far are none of them."""


def statistics_of(passes: NDArray[np.float64]) -> RunStatistics:
    """Of raw passes `[T, B, C]`."""
    mean = passes.mean(axis=0)
    deviation = passes - mean
    return RunStatistics(len(passes), mean, *((deviation**power).sum(axis=0) for power in (2, 3, 4)))


def entropy_of(runs: RunStatistics) -> float:
    return float(-(runs.mean * np.log(runs.mean)).sum())


def exact_error(passes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The delta method, by projecting every pass."""
    projected = (passes * -np.log(passes.mean(axis=0))).sum(axis=2)
    return np.asarray(projected.std(axis=0, ddof=1) / math.sqrt(len(passes)))


@given(st.integers(1, 3000))
def test_looks_begin_and_end_where_they_may_and_are_some_passes_apart(passes: int) -> None:
    looks = plan_looks(passes)
    assert looks[-1] == passes
    assert looks[0] == (FIRST_LOOK if passes >= FIRST_LOOK + LEAST_APART else passes)
    assert all(look <= LAST_LOOK * passes for look in looks[:-1])
    assert all(step >= LEAST_APART for step in np.diff(looks))


def test_from_look_to_look_the_error_falls_as_much() -> None:
    looks = np.array(plan_looks(10_000)[:-1])
    variance = 1 / looks - 1 / 10_000
    np.testing.assert_allclose(variance[:-1] / variance[1:], GROWTH, rtol=0.05)


@given(st.integers(0, 1000), st.integers(2, 6))
def test_the_error_is_never_below_that_of_the_delta_method(seed: int, classes: int) -> None:
    passes = np.random.default_rng(seed).dirichlet(np.ones(classes), (30, 20))
    assert np.all(entropy_error(statistics_of(passes), MANY) >= exact_error(passes) * (1 - 1e-6))


def test_between_two_classes_the_error_is_exact() -> None:
    passes = np.random.default_rng(0).dirichlet(np.ones(2), (30, 20))
    np.testing.assert_allclose(entropy_error(statistics_of(passes), MANY), exact_error(passes), rtol=1e-6)
    binary = statistics_of(passes[..., :1])
    np.testing.assert_allclose(entropy_error(binary, MANY), exact_error(passes), rtol=1e-6)


@pytest.mark.parametrize("so_far", [50, 300, 450])
def test_the_error_is_that_of_what_is_left_to_come(so_far: int) -> None:
    """Of 500 passes any so many may be the first: their entropy strays from that of all by so much."""
    rng = np.random.default_rng(0)
    passes = rng.dirichlet([8.0, 4.0], 500)
    whole = statistics_of(passes[:, np.newaxis])
    strays, errors = [], []
    for _ in range(2000):
        some = statistics_of(rng.permutation(passes)[:so_far, np.newaxis])
        strays.append(entropy_of(some) - entropy_of(whole))
        errors.append(entropy_error(some, 500)[0])
    assert np.std(strays) == pytest.approx(np.mean(errors), rel=0.06)


def settled(
    entropy: list[float], error: list[float], limit: list[float], so_far: int, information: float = 0
) -> list[bool]:
    """Of T = 1000."""
    known = np.array(entropy)
    found: list[bool] = find_decided(
        known, np.full(len(known), information), np.array(error), np.array(limit), so_far, 1000
    ).tolist()
    return found


def test_a_row_is_settled_where_its_entropy_is_far_from_the_limit() -> None:
    entropy, limit = [0.1, 0.5, 0.51, 1.0, 0.3, 0.3], [0.5, 0.5, 0.5, 0.5, math.inf, -math.inf]
    assert settled(entropy, [0.01] * 6, limit, 100) == [True, False, False, True, True, True]
    assert settled([0.1], [0.2], [0.5], 100) == [False]


def test_passes_that_agree_must_be_the_further_from_the_limit_the_fewer_they_are() -> None:
    assert settled([1.01], [0], [1], 20) == [False]
    assert settled([1.01], [0], [1], 200) == [True]


@pytest.mark.parametrize("limit", [0.0, -1.0, 1e-300, math.nan])
def test_no_row_is_below_a_limit_that_nothing_is_below(limit: float) -> None:
    assert settled([0.0, math.nan], [0, 0], [limit, limit], 500) == [limit < 0, False]


@given(st.integers(FIRST_LOOK, 3000))
def test_the_error_of_few_passes_is_trusted_less_as_students_t_says(passes: int) -> None:
    exact = stats.t.isf(stats.norm.sf(ERRORS), passes - 1)
    assert errors_after(passes) == pytest.approx(exact, rel=0.02)


@given(st.integers(0, 1000), st.integers(FIRST_LOOK, 500))
def test_the_entropy_with_unseen_passes_is_that_of_the_mean_with_them(seed: int, passes: int) -> None:
    """They make a share of the passes of one that the others know nothing of."""
    mean = np.random.default_rng(seed).dirichlet(np.ones(4))
    share = UNSEEN / passes
    with_them = np.array([*(1 - share) * mean, share])
    found = entropy_with_unseen(np.array([-(mean * np.log(mean)).sum()]), passes)
    np.testing.assert_allclose(found, -(with_them * np.log(with_them)).sum())


def test_passes_that_agree_do_not_settle_a_row_that_unseen_ones_could_flag() -> None:
    limit = [0.2, 0.5]
    assert settled([0, 0], [0, 0], limit, 20) == [False, True]
    assert settled([0, 0], [0, 0], limit, 100) == [True, True]
    assert settled([0.1, 0.35], [0, 0], limit, 40) == [False, False], "what is unseen comes on top of what is seen"
    assert settled([1, 1], [0, 0], limit, 20) == [True, True]


def test_passes_that_all_differ_do_not_settle_a_row_below_its_limit() -> None:
    """Twelve passes that choose twelve classes have an entropy of ln 12, whatever so many more would have."""
    votes = np.eye(100)[:12, np.newaxis]
    runs = statistics_of(votes)
    seen, error = float(-np.log(1 / 12)), float(entropy_error(runs, 500)[0])
    assert error == pytest.approx(0)
    assert settled([seen], [error], [seen + 1.5], 12, information=seen) == [False]
    assert settled([seen], [error], [seen + 1.5], 12, information=0.1) == [True]
    assert settled([seen], [error], [seen - 0.5], 12, information=seen) == [True]


def test_rows_whose_passes_disagree_seldom_and_surely_keep_nearly_all_their_flags() -> None:
    """Each of 500 passes is sure, and of another class one time in fifty: few see it among the first twelve."""
    rng, rows, passes = np.random.default_rng(0), 2000, 500
    other = rng.random((passes, rows)) < 0.02
    votes = np.stack([~other, other], axis=2).astype(np.float64)
    final = statistics_of(votes).mean
    entropy = -(final * np.log(np.maximum(final, 1e-30))).sum(axis=1)
    limit = np.full(rows, np.quantile(entropy, 0.5))
    flagged, left = np.zeros(rows, np.bool_), np.ones(rows, np.bool_)
    for look in plan_looks(passes):
        runs = statistics_of(votes[:look])
        so_far = -(runs.mean * np.log(np.maximum(runs.mean, 1e-30))).sum(axis=1)
        error = entropy_error(runs, passes)
        leaves = left & ((look == passes) | find_decided(so_far, so_far, error, limit, look, passes))
        flagged[leaves] = so_far[leaves] > limit[leaves]
        left &= ~leaves
    lost = (entropy > limit) & ~flagged
    assert lost.sum() <= 0.05 * (entropy > limit).sum()


def engine_of(model: ExportedModel, threads: int = 1) -> EarlyExitEngine:
    return EarlyExitEngine(plan_engine(model), passes=PASSES, seed=0, device=Device("cpu", threads), memory=2**28)


def settle(engine: EarlyExitEngine, rows: NDArray[np.uint8], limits: Limits) -> PassSummary:
    """Of a single batch."""
    (summary,) = engine.summarize_early_exit([rows], limits)
    assert summary is not None
    return summary


def test_a_row_that_has_all_passes_scores_what_it_scores_without(
    article: ExportedModel, digits: NDArray[np.uint8]
) -> None:
    """Each row's limit is the entropy that it will have, so that none can be sure."""
    plain = PassEngine(plan_engine(article), passes=PASSES, seed=0, device=Device("cpu", 1), memory=2**28)
    whole = plain.summarize(digits[:40])
    entropy = whole.entropy
    assert entropy is not None
    every = settle(engine_of(article), digits[:40], lambda rows, _: entropy)
    stayed = every.passes == PASSES
    assert stayed.any()
    np.testing.assert_allclose(every.mean[stayed], whole.mean[stayed], atol=1e-6)
    np.testing.assert_allclose(every.std[stayed], whole.std[stayed], atol=1e-6)


@pytest.mark.parametrize("look", [0, 1])
def test_a_row_that_leaves_scores_what_so_many_passes_say(
    article: ExportedModel, digits: NDArray[np.uint8], look: int
) -> None:
    summary = settle(engine_of(article), digits[:300], lambda rows, _: np.full(rows, 0.5))
    assert set(summary.passes.tolist()) <= set(plan_looks(PASSES))
    passes = plan_looks(PASSES)[look]
    left = summary.passes == passes
    assert left.any()
    few = PassEngine(plan_engine(article), passes=passes, seed=0, device=Device("cpu", 1), memory=2**28)
    np.testing.assert_allclose(summary.mean[left], few.summarize(digits[:300]).mean[left], atol=1e-6)


def test_nearly_every_flag_is_that_of_all_passes(article: ExportedModel, digits: NDArray[np.uint8]) -> None:
    plain = PassEngine(plan_engine(article), passes=PASSES, seed=0, device=Device("cpu", 2), memory=2**28)
    entropy = plain.summarize(digits[:600]).entropy
    assert entropy is not None
    limit = float(np.quantile(entropy, 0.9))
    stopped = settle(engine_of(article, threads=2), digits[:600], lambda rows, _: np.full(rows, limit))
    assert stopped.entropy is not None
    assert np.mean((stopped.entropy > limit) == (entropy > limit)) > 0.995
    assert stopped.passes.mean() < PASSES / 2


@pytest.mark.parametrize("masks", ["shared", "per-row"])
def test_when_a_row_leaves_does_not_depend_on_the_rows_beside_it(
    article: ExportedModel, digits: NDArray[np.uint8], masks: str
) -> None:
    limits = np.random.default_rng(0).uniform(0.05, 1.5, 40)
    by_row = {digits[row].tobytes(): limits[row] for row in range(40)}

    def score(rows: NDArray[np.uint8], threads: int, memory: int = 2**28) -> NDArray[np.float64]:
        plan = plan_engine(article, masks=masks)
        engine = EarlyExitEngine(plan, passes=60, seed=0, device=Device("cpu", threads), memory=memory)
        assert memory == 2**28 or engine.rows_per_run < 20
        limit = np.array([by_row[row.tobytes()] for row in rows])
        waiting = iter(limit)  # pieces come in order
        summary = settle(engine, rows, lambda count, _: np.array([next(waiting) for _ in range(count)]))
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
def test_batches_come_back_in_order_with_the_numbers_that_each_has_alone(
    article: ExportedModel, digits: NDArray[np.uint8], limit: float, threads: int
) -> None:
    """More batches than are held, of unequal size; rows that stay are run with those of other batches."""
    cuts = [0, 1, 12, 13, *range(20, 120, 10)]
    batches = [digits[start:end] for start, end in itertools.pairwise(cuts)]
    assert len(batches) > HELD_BATCHES

    def limits(count: int, _: object) -> NDArray[np.float64]:
        return np.full(count, limit)

    engine = engine_of(article, threads)
    together = list(engine.summarize_early_exit(iter(batches), limits))
    assert len(together) == len(batches)
    for batch, summary in zip(batches, together, strict=True):
        assert summary is not None
        alone = settle(engine_of(article), batch, limits)
        np.testing.assert_array_equal(summary.passes, alone.passes)
        np.testing.assert_array_equal(summary.mean, alone.mean)
        assert summary.entropy is not None
        np.testing.assert_array_equal(summary.entropy, alone.entropy)


@pytest.mark.parametrize("threads", [1, 2])
def test_only_so_many_batches_are_taken_before_one_comes_back(
    article: ExportedModel, digits: NDArray[np.uint8], threads: int
) -> None:
    """Batches with rows that stay, and batches of no rows between them."""
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
        assert len(taken) <= start + HELD_BATCHES + min(BATCHES, threads) - 1
    assert next(found, "the end") == "the end"


def test_what_goes_wrong_with_a_batch_comes_in_its_place(article: ExportedModel, digits: NDArray[np.uint8]) -> None:
    """The batches that were begun are waited for, and no other is."""
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
    """Memory for one, and two that are begun: they get through in whole pieces, and nobody is told of smaller ones."""
    batches = [digits[start : start + 10] for start in range(0, 60, 10)]
    running, most, look = [0], [0], EarlyExitEngine._look_first

    def look_if_alone(self: EarlyExitEngine, images: NDArray[np.uint8], limits: Limits) -> Any:
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
    monkeypatch.setattr(EarlyExitEngine, "_look_first", look_if_alone)
    engine = engine_of(article, threads=2)
    before = engine.rows_per_run
    found = list(engine.summarize_early_exit(iter(batches), limits))
    assert engine.rows_per_run == before
    assert most == [10]
    for one, other in zip(found, wanted, strict=True):
        assert one is not None
        assert other is not None
        np.testing.assert_array_equal(one.mean, other.mean)


def test_what_has_nothing_to_wait_for_comes_back_at_once(article: ExportedModel, digits: NDArray[np.uint8]) -> None:
    endless = itertools.chain([None, digits[:5]], itertools.repeat(None))
    found = engine_of(article).summarize_early_exit(endless, lambda count, _: np.full(count, np.inf))
    assert [next(found) is None for _ in range(4)] == [True, False, True, True]
