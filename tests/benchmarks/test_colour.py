"""The measurements of the colour benchmark for scores with known results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.colour import (
    RATES,
    Columns,
    measure_score,
    measure_shift,
    renew_review_rates,
    score_rows,
    split_accuracy,
    write_peer_inputs,
)
from benchmarks.colour_networks import LastLayer, build_vgg
from benchmarks.colour_sets import CHOOSING_NAMES, CONTROL, REPORTED, SHIFTS, SIZE, SYNTHETIC, shift_name, slug
from benchmarks.combinations import COMBINATIONS
from screen.decide.detectors import HIGH_IS_UNUSUAL, CombinedScore, Detector
from screen.demo import write_shards

OTHERS = [*(name for names in REPORTED.values() for name in names), *CONTROL, *CHOOSING_NAMES]
SHIFTED = [shift_name(kind, strength) for kind in SHIFTS for strength in range(1, 6)]


@pytest.fixture
def values() -> dict[str, Any]:
    """Scores 0 to 1 of in-distribution rows; all others above, except the control, which is alike on both sides."""
    scores = {name: np.linspace(2, 3, 100) for name in OTHERS}
    known = np.linspace(0, 1, 1000)
    return {**scores, **dict.fromkeys(CONTROL, np.linspace(0.5, 2, 100)), "held": known, "test": known[::2]}


def test_a_score_that_separates_all_sets_is_seen_to_do_so(values: Mapping[str, Any]) -> None:
    found = measure_score(values, np.arange(1000))
    for name in OTHERS[: -len(CHOOSING_NAMES)]:
        if name not in CONTROL:
            assert found["sets"][name] == {"auroc": 1.0, "fpr95": 0.0, "flagged": [1.0, 1.0]}
    assert found["review"] == pytest.approx(RATES, abs=0.003)
    assert found["choosing"]["auroc"] == 1
    assert set(found["choosing"]["by_set"]) == set(CHOOSING_NAMES)


def test_the_control_is_compared_with_rows_that_were_changed_alike(values: Mapping[str, Any]) -> None:
    found = measure_score(values, np.arange(1000))["sets"]
    assert found["control near"]["auroc"] == pytest.approx(0.5)
    assert found["control in-distribution"]["auroc"] > 0.7


def test_choosing_sets_are_compared_with_calibration_rows_alone(values: dict[str, Any]) -> None:
    first = measure_score(values, np.arange(500, 1000))["choosing"]
    values["test"] = np.full(500, 9.0)
    values["held"] = np.where(np.arange(1000) < 500, 9.0, values["held"])
    assert measure_score(values, np.arange(500, 1000))["choosing"] == first


def test_flags_that_follow_errors_leave_only_right_predictions() -> None:
    right = np.array([True, True, True, False])
    assert split_accuracy(~right, right) == {"share": 0.25, "flagged": 0.0, "others": 1.0}
    assert split_accuracy(np.zeros(4, bool), right) == {"share": 0.0, "flagged": None, "others": 0.75}
    assert split_accuracy(np.ones(4, bool), right) == {"share": 1.0, "flagged": 0.75, "others": None}


def test_shifted_rows_are_judged_by_the_threshold_of_the_calibration_rows() -> None:
    rows = np.arange(100.0)
    columns: dict[str, Columns] = {
        name: {"prediction": rows % 2, "label": rows * 0} for name in ("held", "test", *SHIFTED)
    }
    entropy = {**dict.fromkeys(SHIFTED, rows % 2 + 0.0), "held": rows / 100, "test": rows / 200}
    reverse = {**dict.fromkeys(SHIFTED, rows * 0.0), "held": rows / 100, "test": rows / 200}
    found = measure_shift(columns, {"entropy": entropy, "ood_score": reverse}, np.arange(100))
    assert found["none"]["flags"]["entropy"] == [{"share": 0.0, "flagged": None, "others": 0.5}]
    assert set(found) == {"none", *SHIFTS}
    for kind in SHIFTS:
        assert found[kind]["accuracy"] == [0.5] * 5
        assert found[kind]["flags"]["entropy"] == [{"share": 0.5, "flagged": 0.0, "others": 1.0}] * 5
        assert found[kind]["areas"]["entropy"] == found[kind]["areas"]["errors last"]
        assert found[kind]["areas"]["ood_score"] == pytest.approx(0.5)


def test_every_combination_is_of_the_surprisals_of_the_calibration() -> None:
    rng = np.random.default_rng(0)
    names = ("entropy", "confidence", "layout_distance")
    columns: dict[str, dict[str, Any]] = {
        one: {name: rng.normal(size=50) for name in (*names, "ood_score")} for one in ("held", "test", *SYNTHETIC)
    }
    fitting = np.arange(20)
    combined = CombinedScore(tuple(Detector.fit(name, columns["held"][name][fitting]) for name in names))
    scores = score_rows(columns, combined, fitting)
    surprisals = combined.surprisals(columns["test"])
    assert scores["Euclidean norm"]["test"] == pytest.approx(combined.score(columns["test"]))
    assert scores["entropy, confidence"]["test"] == pytest.approx(np.hypot(surprisals[:, 0], surprisals[:, 1]))
    assert scores["entropy + layout_distance"]["test"] == pytest.approx(surprisals[:, 0] + surprisals[:, 2])
    assert scores["maximum"]["test"] == pytest.approx(surprisals.max(axis=1))
    assert scores["confidence"]["test"] == pytest.approx(-columns["test"]["confidence"])
    pairs = {"entropy, confidence", "entropy, layout_distance", "confidence, layout_distance"}
    expected = {*names, "ood_score", *pairs, "entropy + layout_distance", *COMBINATIONS, "logistic regression"}
    assert set(scores) == expected


def test_peers_get_the_last_layer_and_the_features_and_logits_of_every_set(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    names = ("held", "test", *(name for group in REPORTED.values() for name in group))
    sets = {name: tmp_path / "sets" / slug(name) for name in names}
    for folder in (*sets.values(), tmp_path / "reference"):
        write_shards(folder, images, np.array([4, 5, 6]), folder.name)
    build_vgg().save(tmp_path / "vgg.keras")
    write_peer_inputs(LastLayer.read(tmp_path / "vgg.keras", 1.0), sets, tmp_path / "reference", tmp_path / "peers")
    files = {path.stem: np.load(path) for path in (tmp_path / "peers").iterdir()}
    assert set(files) == {"weights", "reference", *map(slug, names)}
    weight, bias = files["weights"]["weight"], files["weights"]["bias"]
    assert files["reference"]["labels"].tolist() == [4, 5, 6]
    for name in ("reference", *map(slug, names)):
        expected = files[name]["features"] @ weight.T + bias
        assert files[name]["logits"] == pytest.approx(expected, abs=1e-5)


def test_review_rates_are_counted_again_from_the_results_of_the_same_run_alone(tmp_path: Path) -> None:
    rng, sets, flag = np.random.default_rng(0), {}, np.arange(150) < 3
    for name in ("held", "test"):
        sets[name] = tmp_path / "sets" / name
        write_shards(sets[name], rng.integers(0, 256, (150, SIZE, SIZE, 3), dtype=np.uint8), np.zeros(150, int), name)
        columns = {score: rng.exponential(size=150) for score in (*HIGH_IS_UNUSUAL, "ood_score")}
        folder = tmp_path / "net" / "results" / name
        folder.mkdir(parents=True)
        pq.write_table(pa.table({**columns, "flag": flag, "prediction": flag, "label": flag}), folder / "a.parquet")
    network: dict[str, Any] = {"flagged": {"test": 0.02}, "review_rates": [], "accuracy": 0.5}
    result = {"networks": {"net": network}, "rows": 150}
    renew_review_rates(result, sets, tmp_path)
    assert [one["promised"] for one in network["review_rates"]] == [0.01, 0.02, 0.05]
    assert (network["accuracy"], result["rows"]) == (0.5, 150)
    network["flagged"]["test"] = 0.03
    with pytest.raises(SystemExit, match=r"2\.00% flags, the recorded result has 3\.00%"):
        renew_review_rates(result, sets, tmp_path)
