"""Calibrated flags on full MNIST and the sets of the benchmarks, with one network (the benchmark has three)."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.detection import measure_seed, train
from benchmarks.promises import calibrate, count_review_rates, measure_adaptive, run
from benchmarks.sets import REPORTED, make_sets

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def work(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detection")
    train(data, folder, seed=1)
    return folder


def test_what_is_no_digit_is_flagged(data: Path, work: Path) -> None:
    sets = {name: folder for name, folder in make_sets(data, work).items() if name in REPORTED}
    measured = measure_seed(data, work, sets, 1)
    for name in REPORTED:
        found, flagged = measured["scores"]["default"][name], measured["flagged"][name]
        assert found["fpr95"] <= (0.06 if name == "rotated" else 0.01), name
        assert flagged >= (0.85 if name == "rotated" else 0.97), name
        assert name == "rotated" or found["auroc"] >= 0.997, name


def test_the_promised_review_rate_holds_over_halvings(data: Path, work: Path) -> None:
    model = train(data, work, seed=1)
    calibration = calibrate(model, data, work, 0.02, 50)
    table = run(model, data, work / "scored", "--calibration", str(calibration))[1]
    for counted in count_review_rates(table, data):
        assert counted["inside"] >= 17, counted
        assert abs(counted["mean"] - counted["promised"]) <= 0.002, counted


def test_stopping_early_keeps_the_flags(data: Path, work: Path) -> None:
    for measured in measure_adaptive(train(data, work, seed=1), data, work):
        assert measured["fewer_passes"] >= 8, measured
        assert measured["lost"] <= 0.01 * measured["flags"], measured
        assert measured["added"] <= 0.01 * measured["flags"], measured
