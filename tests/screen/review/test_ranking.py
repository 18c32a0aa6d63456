from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pytest

from export.errors import OptionRefused
from export.graph.passes import stamp_metadata
from screen.config import RunConfig
from screen.decide.detectors import HIGH_IS_SUSPICIOUS
from screen.review.ranking import (
    check_per_class,
    check_reasons,
    choose_score,
    draw_audit,
    is_high_suspicious,
    main_reason,
    rank_flagged,
    reason_names,
)
from screen.review.report.gather import gather_findings
from screen.review.results import open_results
from screen.run.runner import run_screening
from tests.conftest import Recorder, encode, read_results, write_shard
from tests.screen.engine.graphs import Graph
from tests.screen.review.conftest import Night


def test_the_main_reason_is_the_most_unusual_detector_or_the_compared_columns() -> None:
    assert main_reason(["p_value <= 0.02", "most unusual: feature_distance"]) == "feature_distance"
    assert main_reason(["entropy > 0.5", "confidence < 0.6"]) == "entropy and confidence"
    assert main_reason(["decode_failed"]) == "decode_failed"
    assert main_reason(["not (entropy < 0.1)"]) == "entropy"
    assert main_reason(None) == ""


def test_reason_names_are_only_columns_and_statuses() -> None:
    assert reason_names(["p_value <= 0.02", "most unusual: entropy"]) == ("p_value", "entropy")
    assert reason_names(["wrong_shape"]) == ("wrong_shape",)
    assert reason_names(None) == ()
    check_reasons(("entropy", "wrong_shape"))
    for wrong in ("ok", "unusual", ""):
        with pytest.raises(OptionRefused, match="neither a score nor a status"):
            check_reasons((wrong,))


def test_rows_are_ordered_by_the_first_score_of_the_rule(night: Night) -> None:
    results = open_results(str(night.results))
    assert choose_score(results, None) == "entropy"
    assert choose_score(results, "kurtosis") == "kurtosis"
    assert set(HIGH_IS_SUSPICIOUS) >= {"ood_score", "p_value", "entropy", "feature_distance"}


def test_ordering_by_a_score_without_values_is_refused(night: Night) -> None:
    """These results have no calibration, and their model is a single-label classifier."""
    results = open_results(str(night.results))
    for name in ("ood_score", "p_value", "largest_label_entropy"):
        with pytest.raises(OptionRefused, match=f"--order-by {name} is null in every row of out") as refused:
            choose_score(results, name)
        there = refused.value.wanted.removeprefix("a score that is not null in these results: ").split(", ")
        assert {"entropy", "confidence", "kurtosis", "largest_std"} <= set(there) < set(HIGH_IS_SUSPICIOUS)
        assert not {"ood_score", "p_value", "largest_label_entropy"} & set(there)


@pytest.mark.parametrize(
    ("rule", "score", "high"),
    [
        ("kurtosis > 1", "kurtosis", True),
        ("1 < kurtosis", "kurtosis", True),
        ("kurtosis < 1", "kurtosis", False),
        ("entropy <= 0.1 and confidence > 0.9", "entropy", False),
        ("mutual_information >= expected_entropy", "expected_entropy", False),
        ("entropy < 0.1 or entropy > 1", "entropy", True),
        ("not (entropy < 0.1)", "entropy", True),
        ("kurtosis == 1", "kurtosis", False),
        ("prediction == 3", "entropy", True),
    ],
)
def test_the_side_of_a_score_that_the_rule_flags_is_suspicious(night: Night, rule: str, score: str, high: bool) -> None:
    """If the rule flags both sides or neither, the score's unusual side is suspicious."""
    results = open_results(str(night.results))
    assert is_high_suspicious(replace(results, identity={**results.identity, "flag_if": rule}), score) is high


def test_the_order_of_queue_and_report_is_that_of_the_rule(night: Night, tmp_path: Path) -> None:
    config = RunConfig(passes=5, device="cpu", flag_if="kurtosis > -1", max_bad_rows="100%")
    run_screening(night.model, str(night.input), tmp_path / "high", config, Recorder())
    results = open_results(str(tmp_path / "high"))
    rows = [row for row in read_results(results.folder).to_pylist() if row["flag"] and row["status"] == "ok"]
    assert len(rows) > 10
    expected = [(row["shard"], row["row"]) for row in sorted(rows, key=lambda row: -row["kurtosis"])]
    ranked = rank_flagged(results, choose_score(results, None), ())
    names = [entry.shard for entry in results.entries]
    found = [(names[shard], row) for shard, row in zip(ranked.shard.tolist(), ranked.row.tolist(), strict=True)]
    assert found[: len(rows)] == expected
    findings = gather_findings(str(results.folder), top=len(rows), look_alikes=0)
    assert (findings.order, findings.high) == ("kurtosis", True)
    assert [(top_row.shard, top_row.row) for top_row in findings.top_rows] == expected


@pytest.mark.parametrize("kind", ["regression", "sigmoid"])
def test_per_class_is_refused_without_predicted_classes(kind: str, night: Night, tmp_path: Path) -> None:
    graph = Graph(kind=kind)
    model = graph.finish(graph.dense(graph.site(graph.flat(), 48), 48, 3), 3)
    stamp_metadata(model.proto, model.contract)
    onnx.save(model.proto, tmp_path / "m.onnx")
    images = np.random.default_rng(1).integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)
    write_shard(tmp_path / "rgb" / "a.parquet", [encode(image) for image in images])
    config = RunConfig(passes=4, device="cpu", flag_if="largest_std >= 0")
    run_screening(tmp_path / "m.onnx", str(tmp_path / "rgb"), tmp_path / "none", config, Recorder())
    with pytest.raises(OptionRefused, match="predicts no class"):
        check_per_class(open_results(str(tmp_path / "none")))
    check_per_class(open_results(str(night.results)))


def test_the_audit_sample_depends_on_the_seed_and_has_about_the_given_share(night: Night) -> None:
    results = open_results(str(night.results))
    unflagged = results.rows - results.flagged
    drawn = [draw_audit(results, 0.5, seed) for seed in range(20)]
    counts = [len(one) for one in drawn]
    assert abs(np.mean(counts) / unflagged - 0.5) < 0.06
    assert len(set(counts)) > 3
    again = draw_audit(results, 0.5, 0)
    assert again.row.tolist() == drawn[0].row.tolist()
    assert len(draw_audit(results, 1.0, 3)) == unflagged
    assert len(draw_audit(results, 0.0, 3)) == 0


def test_a_larger_audit_sample_contains_the_smaller_one(night: Night) -> None:
    results = open_results(str(night.results))
    few, many = (draw_audit(results, share, 5) for share in (0.2, 0.6))
    pairs = [set(zip(one.shard.tolist(), one.row.tolist(), strict=True)) for one in (few, many)]
    assert pairs[0] < pairs[1]


def test_rows_are_found_across_row_groups(night: Night) -> None:
    results = open_results(str(night.results))
    places = np.array([0, 3, 59], np.int64)
    found = results.take(results.entries[0], places, ["row", "id"])
    assert found["row"].to_pylist() == [0, 3, 59]
    assert found["id"].to_pylist() == ["a-0", "a-3", "a-59"]
    assert isinstance(found, pa.Table)
