"""The drift alarm over a window of runs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from screen.decide.drift import FlagCount, find_drift


def counts(*pairs: tuple[int, int]) -> list[FlagCount]:
    return [FlagCount(rows, flags) for rows, flags in pairs]


def test_drift_is_tested_from_a_number_of_rows_on() -> None:
    within, few, many = (find_drift(5000, 100, counts((1000, flags)), 1000) for flags in (20, 0, 60))
    assert (within.is_alarm, few.is_alarm, many.is_alarm) == (False, True, True)
    assert within.describe().startswith(
        "drift: none, within the prediction interval: 20 of 1000 readable rows flagged, "
    )
    assert many.describe().startswith("drift: ALARM, outside the prediction interval: 60 of 1000")
    unknown = find_drift(5000, 100, counts((999, 999)), 1000)
    assert (unknown.band, unknown.is_alarm) == (None, False)
    assert "at least 1000 readable rows needed" in unknown.describe()


def test_small_nights_are_judged_together_and_no_more_of_them_than_needed() -> None:
    def read() -> Iterator[FlagCount]:
        yield from counts((400, 20), (0, 0), (400, 20), (400, 20))
        raise AssertionError("a run that is not needed was read")

    together = find_drift(5000, 100, read(), 1000)
    assert (together.rows, together.flags, together.runs, together.is_alarm) == (1200, 60, 3, True)
    assert "60 of 1200 readable rows flagged in the last 3 runs" in together.describe()
    assert not find_drift(5000, 100, counts((400, 18)), 400).is_alarm


def test_a_run_without_rows_repeats_the_result_of_the_runs_before_it() -> None:
    again = find_drift(5000, 100, counts((0, 0), (1000, 60)), 1000)
    assert (again.is_alarm, again.is_new, again.runs) == (True, False, 1)
    assert again.describe().startswith("drift, from earlier runs: ALARM")
    assert find_drift(5000, 100, counts((1, 0), (1000, 60)), 1000).is_new


def test_at_most_one_night_in_a_thousand_raises_a_false_alarm() -> None:
    """Over calibrations of 500 rows with a target rate of 4 %, each with 20 nights of 300 rows, judged from 1000 on."""
    random = np.random.default_rng(0)
    alarms = nights = 0
    for limit in random.beta(20, 481, 500):  # the rate of a threshold with rank 20 among 500 scores
        flags = random.binomial(300, limit, 20)
        for night in range(4, 21):
            newest_first = [FlagCount(300, int(flags[one])) for one in range(night - 1, -1, -1)]
            alarms += find_drift(500, 20, newest_first, 1000).is_alarm
            nights += 1
    assert alarms / nights < 0.002
