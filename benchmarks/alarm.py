"""Simulate the drift alarm of users: calibrations, then nights whose rows are tested together.

    python -m benchmarks.alarm [--calibrations 1500] [--nights 200]

For each setting, thresholds are fitted on calibration sets of uniform scores, as `oodscreen calibrate` fits them.
Nights of in-distribution rows follow, then nights whose flag rate is a multiple of the rate before.
`screen.decide.drift` tests each night together with the nights before it. The results are written to
`benchmarks/results/alarm.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from screen.decide import drift
from screen.decide.drift import FlagCount, find_drift
from screen.decide.intervals import flag_interval
from screen.decide.row_sets import threshold_rank

RESULTS = Path(__file__).parent / "results" / "alarm.json"
_RATE = 0.02
"""Target rate of the calibrations."""

_RATIOS = (1.5, 2.0, 4.0)
"""Flag rates after the drift, as multiples of the rate before it."""

_WAIT = 60
"""Maximum number of nights until a drift is found."""


@dataclass(frozen=True)
class Setting:
    """Sizes of a deployment.

    Attributes:
        calibration_rows: rows in the calibration set.
        night_rows: mean number of readable rows of a night, which has a Poisson distribution.
        alarm_rows: `--alarm-rows`.
    """

    calibration_rows: int
    night_rows: int
    alarm_rows: int


SETTINGS = (
    Setting(1000, 50, 1000),
    Setting(1000, 400, 1000),
    Setting(1000, 5000, 1000),
    Setting(5000, 50, 1000),
    Setting(5000, 400, 1000),
    Setting(5000, 400, 4000),
    Setting(5000, 5000, 1000),
    Setting(20000, 400, 1000),
)


@dataclass(frozen=True)
class Outcome:
    """Alarms in the simulated deployments of a setting.

    Attributes:
        false_per_1000: number of false alarms in 1,000 nights, as the mean over calibrations.
        error: standard error of this mean.
        calibrations_with_alarm: share of the calibrations with at least one false alarm.
        binomial_per_1000: number of false alarms in 1,000 nights with an interval that ignores the size of the
            calibration set.
        nights_to_alarm: for each ratio of `_RATIOS`, the median number of nights until the alarm, at most `_WAIT`.
    """

    false_per_1000: float
    error: float
    calibrations_with_alarm: float
    binomial_per_1000: float
    nights_to_alarm: tuple[float, ...]


def draw_rates(rows: int, calibrations: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Probabilities that an in-distribution row is flagged, `[calibrations]`: 1 minus the fitted thresholds."""
    rank = threshold_rank(rows, _RATE)
    thresholds = [np.partition(random.random(rows), rows - rank)[rows - rank] for _ in range(calibrations)]
    return 1 - np.array(thresholds)


def find_alarms(setting: Setting, rows: NDArray[np.int64], flags: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each night of one deployment raises an alarm, `[nights]`; both arguments have the shape `[nights]`."""
    rank = threshold_rank(setting.calibration_rows, _RATE)
    nights = [FlagCount(int(many), int(flagged)) for many, flagged in zip(rows, flags, strict=True)]
    size, needed = setting.calibration_rows, setting.alarm_rows
    drifts = (find_drift(size, rank, _newest_first(nights, night), needed) for night in range(len(nights)))
    return np.array([one.is_alarm for one in drifts])


def _newest_first(nights: Sequence[FlagCount], night: int) -> Iterator[FlagCount]:
    return (nights[position] for position in range(night, -1, -1))


def simulate(setting: Setting, calibrations: int, nights: int, random: np.random.Generator) -> Outcome:
    """Simulate deployments with one setting, and count the alarms."""
    rates = draw_rates(setting.calibration_rows, calibrations, random)
    warm = -(-setting.alarm_rows // setting.night_rows) + 1
    false, binomial = np.zeros(calibrations), np.zeros(calibrations)
    waits = np.full((len(_RATIOS), calibrations), float(_WAIT))
    for number, rate in enumerate(rates):
        rows = random.poisson(setting.night_rows, nights + warm)
        flags = random.binomial(rows, rate)
        false[number] = find_alarms(setting, rows, flags)[warm:].mean()
        binomial[number] = _find_binomial_alarms(setting, rows, flags)[warm:].mean()
        for index, ratio in enumerate(_RATIOS if number < calibrations // 10 else ()):
            later = random.poisson(setting.night_rows, _WAIT)
            drifted = random.binomial(later, min(1.0, rate * ratio))
            alarms = find_alarms(setting, np.append(rows[:warm], later), np.append(flags[:warm], drifted))[warm:]
            waits[index, number] = alarms.argmax() + 1 if alarms.any() else _WAIT
    some = waits[:, : calibrations // 10]
    return Outcome(
        false_per_1000=round(1000 * false.mean(), 3),
        error=round(1000 * false.std() / calibrations**0.5, 3),
        calibrations_with_alarm=round(float((false > 0).mean()), 4),
        binomial_per_1000=round(1000 * binomial.mean(), 2),
        nights_to_alarm=tuple(float(np.median(one)) for one in some),
    )


def _find_binomial_alarms(setting: Setting, rows: NDArray[np.int64], flags: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Alarms as in `find_alarms`, but with the 99.9 % normal interval of a binomial number with the target rate."""
    all_rows, all_flags = np.append(0, rows.cumsum()), np.append(0, flags.cumsum())
    ends = np.arange(1, len(rows) + 1)
    starts = np.maximum(np.searchsorted(all_rows, all_rows[ends] - setting.alarm_rows, side="right") - 1, 0)
    total, flagged = all_rows[ends] - all_rows[starts], all_flags[ends] - all_flags[starts]
    outside: NDArray[np.bool_] = abs(flagged - total * _RATE) > 3.29 * (total * _RATE * (1 - _RATE)) ** 0.5
    return outside


def main() -> None:
    """Run the benchmark and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibrations", type=int, default=1500)
    parser.add_argument("--nights", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    vars(drift)["flag_interval"] = cache(flag_interval)  # each interval is computed once
    random = np.random.default_rng(chosen.seed)
    found = []
    for setting in SETTINGS:
        outcome = simulate(setting, chosen.calibrations, chosen.nights, random)
        found.append({**asdict(setting), **asdict(outcome)})
        print(json.dumps(found[-1]), flush=True)
    result = {
        "calibrations": chosen.calibrations,
        "nights": chosen.nights,
        "seed": chosen.seed,
        "rate": _RATE,
        "ratios": _RATIOS,
        "longest_wait": _WAIT,
        "settings": found,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
