"""Screening with one pass: with one mask for all rows, or without dropout (`--masks none`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from export.errors import CalibrationRefused, OptionRefused
from export.graph.passes import stamp_metadata
from screen import Screener
from screen.columns import DISTANCES
from screen.config import RunConfig
from screen.decide.config import CalibrationConfig
from screen.decide.detectors import COMPARES_PASSES
from screen.decide.request import CalibrationReport
from screen.inspection import inspect_model
from screen.review.evaluate.metrics import evaluate_results
from screen.review.ranking import choose_score
from screen.review.report.gather import gather_findings
from screen.review.report.page import render_page
from screen.review.results import open_results
from screen.run.calibration.calibrate import run_calibration
from screen.run.runner import run_screening
from tests.conftest import Recorder, encode, write_shard
from tests.screen.engine.graphs import Graph

WITHOUT = RunConfig(passes=1, masks="none", device="cpu")


def write_model(path: Path, kind: str = "softmax") -> Path:
    """A small convolution-free network with two sites."""
    g = Graph(kind=kind)
    hidden = g.op("Relu", g.dense(g.site(g.flat(), 48), 48, 20))
    model = g.finish(g.dense(g.site(hidden, 20), 20, 3), 3)
    stamp_metadata(model.proto, model.contract)
    onnx.save(model.proto, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier, in-distribution shards, other shards and a calibration without dropout."""
    folder = tmp_path_factory.mktemp("one-pass")
    write_model(folder / "m.onnx")
    rng = np.random.default_rng(4)
    for name, low, high, rows in (("known", 0, 200, 500), ("other", 100, 256, 60)):
        images = rng.integers(low, high, (rows, 4, 4, 3), dtype=np.uint8)
        write_shard(folder / name / "a.parquet", [encode(image) for image in images])
    calibrate(folder / "m.onnx", folder, WITHOUT)
    return folder


def calibrate(model: Path, folder: Path, config: RunConfig, **wanted: object) -> CalibrationReport:
    asked = CalibrationConfig(review_rate=0.1, **wanted)  # type: ignore[arg-type]
    return run_calibration(model, str(folder / "known"), model.with_name("c"), config, asked, Recorder())


def screen(folder: Path, source: str, output: str, config: RunConfig) -> str:
    run_screening(folder / "m.onnx", str(folder / source), folder / output, config, Recorder())
    return str(folder / output)


def test_a_calibration_sets_the_masks_and_the_pass_of_a_run(folder: Path) -> None:
    screener = Screener(folder / "m.onnx", calibration=folder / "c", device="cpu")
    assert (screener.policy.settings.passes, screener.policy.settings.masks) == (1, "none")
    with pytest.raises(CalibrationRefused, match="masks"):
        Screener(folder / "m.onnx", calibration=folder / "c", masks="shared", device="cpu")
    with pytest.raises(OptionRefused, match="the number of passes is 30") as refused:
        Screener(folder / "m.onnx", calibration=folder / "c", passes=30, device="cpu")
    assert "which the calibration sets" in refused.value.next_step
    report = calibrate(folder / "m.onnx", folder, WITHOUT)
    assert "1 pass without dropout" in report.to_text()
    assert report.calibration.combined_score.names == ("entropy", *DISTANCES)


def test_scores_that_compare_passes_are_left_out_of_an_evaluation(folder: Path) -> None:
    config = RunConfig(calibration=str(folder / "c"), device="cpu")
    known, other = (screen(folder, name, f"{name}-results", config) for name in ("known", "other"))
    found = evaluate_results(known, [other])
    names = {one.score for one in found.sets[0].separations}
    assert names.isdisjoint(COMPARES_PASSES)
    assert {"entropy", "ood_score", "contrast_distance"} <= names
    assert any("one pass" in note for note in found.notes)


def test_the_report_says_that_the_images_had_one_pass_and_compares_no_passes(folder: Path) -> None:
    """`± 0.00` would read as agreement of many passes."""
    calibrated = screen(folder, "other", "reported", RunConfig(calibration=str(folder / "c"), device="cpu"))
    one_mask = screen(folder, "other", "one-mask", RunConfig(passes=1, device="cpu"))
    for results, words in ((calibrated, "one pass without dropout"), (one_mask, "1 dropout pass per image")):
        findings = gather_findings(results, top=3)
        assert findings.histograms
        assert findings.top_rows
        page = render_page(findings)
        assert words in page
        assert "Bars show the probability in the single pass." in page
        assert not [text for text in ("± ", "one standard deviation", *COMPARES_PASSES) if text in page]


def test_a_score_that_compares_passes_orders_no_queue(folder: Path) -> None:
    results = open_results(screen(folder, "other", "ordered", RunConfig(passes=1, masks="none", device="cpu")))
    for name in COMPARES_PASSES:
        with pytest.raises(OptionRefused, match=f"--order-by {name} compares passes") as refused:
            choose_score(results, name)
        assert not [one for one in COMPARES_PASSES if one in refused.value.wanted]
    assert choose_score(results, "confidence") == "confidence"


def test_early_exit_has_the_flags_of_the_one_pass(folder: Path) -> None:
    images = np.random.default_rng(5).integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
    usual, early = (
        Screener(folder / "m.onnx", calibration=folder / "c", adaptive=adaptive, device="cpu").score(images).flag
        for adaptive in (False, True)
    )
    assert usual.any()
    np.testing.assert_array_equal(early, usual)


@pytest.mark.parametrize("masks", ["none", "shared", "per-row"])
def test_a_regression_with_one_pass_is_calibrated_by_distances_alone(masks: str, folder: Path, tmp_path: Path) -> None:
    """Its score of uncertainty compares passes."""
    model = write_model(tmp_path / "m.onnx", "regression")
    config = RunConfig(passes=1, masks=masks, device="cpu")  # type: ignore[arg-type]
    assert calibrate(model, folder, config).calibration.combined_score.names == DISTANCES
    with pytest.raises(OptionRefused, match="always 0 with one pass"):
        calibrate(model, folder, config, detectors=("largest_std",))


@pytest.mark.parametrize(
    ("kind", "rule", "advice"),
    [
        ("softmax", "prediction_std > 0.1", "'entropy > 0.5'"),
        ("sigmoid", "largest_std > 0.1", "'largest_label_entropy > 0.5'"),
        ("regression", "largest_std > 0.1", "--calibration"),
        ("regression", None, "--calibration"),
    ],
)
def test_a_refused_rule_leads_to_one_that_works(kind: str, rule: str | None, advice: str, tmp_path: Path) -> None:
    """A regression has no score for a rule with one pass, and several labels have no `entropy`."""
    model = write_model(tmp_path / "m.onnx", kind)
    with pytest.raises(OptionRefused) as refused:
        Screener(model, passes=1, masks="none", flag_if=rule, device="cpu")
    assert advice in refused.value.next_step
    if advice.startswith("'"):
        Screener(model, passes=1, masks="none", flag_if=advice.strip("'"), device="cpu")


def test_inspect_counts_one_pass_as_one(folder: Path) -> None:
    text = inspect_model(folder / "m.onnx", WITHOUT).to_text()
    assert "1 pass takes 1.0" in text
    assert "1 passes" not in text
