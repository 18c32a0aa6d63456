from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from export.errors import CalibrationRefused
from screen.decide.calibration import Binding, Calibration, read_calibration
from screen.decide.detectors import CombinedScore, Detector
from screen.decide.row_sets import min_calibration_rows, rate_interval, split_rows, threshold_rank
from screen.engine.device.provider import Device
from screen.engine.distance import DistanceMeter, Metric, fit_distance
from screen.settings.passes import PassSettings

BINDING = Binding("a" * 64, "m/1", PassSettings())
RATES = st.floats(1e-3, 0.5)


def make_calibration(rows: int = 500, review_rate: float = 0.02, seed: int = 0) -> Calibration:
    rng = np.random.default_rng(seed)
    combined_score = CombinedScore((Detector.fit("entropy", rng.random(300)),))
    calibration_scores = np.sort(combined_score.score({"entropy": rng.random(rows)}))
    vectors = rng.random((20, 12), np.float32)
    metrics: dict[str, Metric] = {"layout_distance": "cosine", "contrast_distance": "euclidean"}
    distances = tuple(
        fit_distance(name, vectors, slice(3, 11), Device("cpu", 1), metric) for name, metric in metrics.items()
    )
    self_test = (("uniform noise", 1.0), ("inverted", 0.25))
    return Calibration(
        BINDING, review_rate, combined_score, calibration_scores, distances, (("layout", "pooled"),), 300, self_test
    )


def test_a_p_value_is_one_plus_the_rank_over_n_plus_one() -> None:
    calibration = replace(make_calibration(), calibration_scores=np.array([1.0, 2.0, 3.0, 4.0]))
    assert calibration.p_values(np.array([0.0, 2.5, 5.0])).tolist() == [1.0, 0.6, 0.2]


def test_on_ties_a_p_value_counts_the_tied_rows() -> None:
    calibration = replace(make_calibration(), calibration_scores=np.array([1.0, 2.0, 2.0, 2.0]))
    assert calibration.p_values(np.array([2.0])).tolist() == [0.8]


@given(st.integers(1, 3000), RATES)
def test_the_rows_flagged_are_those_above_the_kth_highest(rows: int, rate: float) -> None:
    calibration_scores = np.arange(rows, dtype=np.float64)
    calibration = replace(make_calibration(), calibration_scores=calibration_scores, review_rate=rate)
    ranks = threshold_rank(rows, rate)
    assert (ranks + 1) / (rows + 1) > rate
    asked = np.arange(-1, rows, dtype=np.float64) + 0.5
    flagged = calibration.p_values(asked) <= rate
    assert flagged.sum() == ranks
    if ranks:
        np.testing.assert_array_equal(flagged, asked > calibration.threshold)
        assert ranks / (rows + 1) <= rate


@given(RATES)
def test_the_least_rows_are_just_enough(rate: float) -> None:
    rows = min_calibration_rows(rate)
    assert threshold_rank(rows, rate) == 1
    assert rows == 0 or threshold_rank(rows - 1, rate) == 0


@pytest.mark.parametrize(("rows", "rate"), [(49, 0.02), (500, 0.02), (5000, 0.01), (100_000, 0.05), (19, 0.5)])
def test_the_interval_is_that_of_the_beta_distribution(rows: int, rate: float) -> None:
    ranks = threshold_rank(rows, rate)
    expected = stats.beta.ppf([0.025, 0.975], ranks, rows + 1 - ranks)
    np.testing.assert_allclose(rate_interval(rows, rate), expected, rtol=1e-6)


def test_the_promised_rate_holds_on_rows_that_were_not_seen() -> None:
    """Over many calibrations the interval contains the rate about 95 times in 100, and the mean is the target rate."""
    rng = np.random.default_rng(3)
    rows, rate, rounds = 400, 0.05, 400
    combined_score = CombinedScore((Detector.fit("entropy", rng.exponential(size=200)),))
    rates = []
    for _ in range(rounds):
        calibration_scores = np.sort(combined_score.score({"entropy": rng.exponential(size=rows)}))
        calibration = replace(
            make_calibration(), combined_score=combined_score, calibration_scores=calibration_scores, review_rate=rate
        )
        fresh = combined_score.score({"entropy": rng.exponential(size=4000)})
        rates.append(np.mean(calibration.p_values(fresh) <= rate))
    ranks = threshold_rank(rows, rate)
    low, high = stats.betabinom.ppf([0.025, 0.975], 4000, ranks, rows + 1 - ranks) / 4000
    inside = np.mean([(low <= one <= high) for one in rates])
    assert stats.binom.ppf(0.001, rounds, 0.95) / rounds <= inside
    assert np.mean(rates) == pytest.approx(ranks / (rows + 1), abs=0.002)


@given(st.lists(st.integers(0, 50), max_size=100), st.floats(0.05, 0.9))
def test_parts_are_disjoint_whole_and_never_part_equal_images(digests: list[int], share: float) -> None:
    rows = np.array(digests, np.uint64)
    parts = split_rows(rows, (share, 1 - share))
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(rows)))
    assert not set(rows[parts[0]].tolist()) & set(rows[parts[1]].tolist())


def test_parts_do_not_depend_on_the_order_of_the_rows() -> None:
    rows = np.random.default_rng(0).integers(0, 2**63, 1000, np.uint64)
    one = [set(rows[part].tolist()) for part in split_rows(rows, (0.25, 0.25, 0.5))]
    other = [set(rows[::-1][part].tolist()) for part in split_rows(rows[::-1], (0.25, 0.25, 0.5))]
    assert one == other
    assert [len(part) for part in one] == [250, 250, 500]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_calibration_reads_back_as_it_was_written(tmp_path: Path, count: int) -> None:
    calibration = make_calibration()
    calibration = replace(calibration, distances=calibration.distances[:count])
    digest = calibration.save(tmp_path / "c.calibration")
    read = read_calibration(tmp_path / "c.calibration")
    assert read.digest == digest
    assert read.binding == calibration.binding
    assert (read.review_rate, read.features, read.fit_rows) == (0.02, (("layout", "pooled"),), 300)
    asked = np.linspace(0, 3, 50)
    score = read.score({"entropy": asked})
    np.testing.assert_array_equal(score, calibration.score({"entropy": asked}))
    np.testing.assert_array_equal(read.p_values(score), calibration.p_values(score))
    assert read.self_test == calibration.self_test
    assert len(read.distances) == count
    asked_features = np.random.default_rng(1).random((30, 12), np.float32)
    one, other = (
        DistanceMeter(some.distances, Device("cpu", 1)).measure(asked_features) for some in (read, calibration)
    )
    for distance in calibration.distances:
        np.testing.assert_array_equal(getattr(one, distance.name), getattr(other, distance.name))


def test_the_same_calibration_is_written_to_the_same_bytes(tmp_path: Path) -> None:
    make_calibration().save(tmp_path / "a")
    make_calibration().save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "c.calibration"
    make_calibration().save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CalibrationRefused, match="is not a calibration, or the file is damaged"):
        read_calibration(path)


def test_a_changed_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.calibration"
    make_calibration(rows=5000).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CalibrationRefused, match="damaged"):
        read_calibration(path)


def test_a_pickle_is_refused_unopened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    path = tmp_path / "c.calibration"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CalibrationRefused):
        read_calibration(path)
    np.savez(tmp_path / "d.npz", header=np.array([Trap()], object))
    with pytest.raises(CalibrationRefused):
        read_calibration(tmp_path / "d.npz")
    assert not (tmp_path / "sprung").exists()


def test_another_format_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", header=np.frombuffer(b'{"format": 99}', np.uint8))
    with pytest.raises(CalibrationRefused, match="has format 99"):
        read_calibration(tmp_path / "c.npz")
    with pytest.raises(CalibrationRefused, match="cannot be read"):
        read_calibration(tmp_path / "missing")


def test_versions_without_masks_none_refuse_a_calibration_without_dropout(tmp_path: Path) -> None:
    """They read format 2 alone, and would draw random masks."""
    calibration = make_calibration()
    for settings, wanted in ((PassSettings(), 2), (PassSettings(passes=1, masks="none"), 3)):
        replace(calibration, binding=replace(BINDING, settings=settings)).save(tmp_path / "c")
        with np.load(tmp_path / "c") as file:
            assert json.loads(file["header"].tobytes())["format"] == wanted
        assert read_calibration(tmp_path / "c").binding.settings == settings


@pytest.mark.parametrize("settings", [PassSettings(masks="per-pixel"), PassSettings(precision="float8")])
def test_a_calibration_with_unknown_masks_or_an_unknown_precision_is_refused(
    settings: PassSettings, tmp_path: Path
) -> None:
    replace(make_calibration(), binding=replace(BINDING, settings=settings)).save(tmp_path / "c")
    with pytest.raises(CalibrationRefused, match=r"per-pixel|float8"):
        read_calibration(tmp_path / "c")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            replace(BINDING, model="b" * 64),
            "is of another model: aaaaaaaaaaaaaaaa in the calibration, bbbbbbbbbbbbbbbb in this run",
        ),
        (
            replace(BINDING, settings=PassSettings(passes=50)),
            "another --passes: 100 in the calibration, 50 in this run",
        ),
        (replace(BINDING, settings=PassSettings(seed=1)), "another --seed"),
        (replace(BINDING, settings=PassSettings(masks="per-row")), "another --masks"),
        (replace(BINDING, mask_algorithm="m/2"), "another version of the mask algorithm"),
    ],
)
def test_a_calibration_of_anything_else_is_refused(other: Binding, message: str) -> None:
    with pytest.raises(CalibrationRefused, match=message):
        make_calibration().check(other)


ENTROPY = Detector.fit("entropy", np.random.default_rng(0).random(300))


@pytest.mark.parametrize(
    "change",
    [
        {"review_rate": 0.0},
        {"review_rate": 5.0},
        {"calibration_scores": np.array([])},
        {"calibration_scores": np.array([3.0, 1.0, 2.0] * 40)},
        {"calibration_scores": np.full(500, np.nan)},
        {"calibration_scores": np.array([1.0, 2.0, np.inf] * 40)},
        {"distances": ()},
        {"combined_score": CombinedScore(())},
        {"combined_score": CombinedScore((replace(ENTROPY, slope=0.0),))},
        {"combined_score": CombinedScore((replace(ENTROPY, slope=np.nan),))},
        {"combined_score": CombinedScore((replace(ENTROPY, name="shoe size"),))},
        {"combined_score": CombinedScore((replace(ENTROPY, knots=ENTROPY.knots[::-1]),))},
        {"combined_score": CombinedScore((replace(ENTROPY, knots=ENTROPY.knots[1:]),))},
        {"combined_score": CombinedScore((replace(ENTROPY, surprisals=ENTROPY.surprisals * np.nan),))},
        {"self_test": (("noise", 7.0),)},
        {"self_test": (("\x1b[2J", 0.7),)},
        {"features": (("layout", "\x07"),)},
    ],
)
@pytest.mark.hostile(
    "A calibration with scores that are not finite or not sorted, a rate of 0, or arrays that do not fit each other",
    "the calibration is refused, and the error names the value",
)
def test_a_calibration_with_impossible_values_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    detectors = tuple(Detector.fit(name, rng.random(300)) for name in ("entropy", "layout_distance"))
    whole = replace(make_calibration(), combined_score=CombinedScore(detectors))
    replace(whole, **change).save(tmp_path / "c")
    with pytest.raises(CalibrationRefused, match="is not a calibration, or the file is damaged"):
        read_calibration(tmp_path / "c")


@pytest.mark.parametrize("change", [{"neighbours": 0}, {"neighbours": 10**9}, {"columns": (0, 5)}, {"columns": (3, 1)}])
def test_a_distance_with_impossible_values_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    whole = make_calibration()
    replace(whole, distances=tuple(replace(one, **change) for one in whole.distances)).save(tmp_path / "c")
    with pytest.raises(CalibrationRefused, match="is not a calibration, or the file is damaged"):
        read_calibration(tmp_path / "c")


@pytest.mark.hostile(
    "A calibration of a few MB whose arrays take a few GB after decompression",
    "the calibration is refused before memory is allocated",
)
def test_a_compressed_calibration_is_refused(tmp_path: Path) -> None:
    make_calibration().save(tmp_path / "c")
    with np.load(tmp_path / "c") as file:
        arrays = dict(file)
    np.savez_compressed(tmp_path / "bomb.npz", **arrays, more=np.zeros(2**22))
    with pytest.raises(CalibrationRefused, match=r"arrays of \d+ bytes in a file of \d+ bytes"):
        read_calibration(tmp_path / "bomb.npz")
