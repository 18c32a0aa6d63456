"""Results with labels: relation of flags and scores to errors."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from rich.console import Console

from export.errors import InputRefused, OptionRefused
from screen.config import RunConfig
from screen.decide.detectors import HIGH_IS_SUSPICIOUS
from screen.review.evaluate.labelled import LabelledEvaluation, expected_calibration_error
from screen.review.evaluate.metrics import evaluate_results
from screen.review.evaluate.risk import GroupAccuracy, risk_coverage_area
from screen.review.evaluate.show import print_evaluation
from screen.run.runner import run_screening
from tests.conftest import Recorder, encode, read_results, write_shard

NAMES = ("nil", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
KINDS = ("number", "name", "text", "float")
NULL_ROWS = (3, 50)
ROWS = 120


@pytest.fixture(scope="module")
def results(article_onnx: Path, digits: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model with class names: digits, and an image that cannot be read. Every label is in four columns.

    The labels are the predictions of a first run, except those of every fourth row.
    """
    folder = tmp_path_factory.mktemp("labelled")
    proto = onnx.load(article_onnx)
    (entry,) = (entry for entry in proto.metadata_props if entry.key.endswith("class_names"))
    entry.value = json.dumps(NAMES)
    onnx.save(proto, folder / "named.onnx")
    shard = write_shard(folder / "in" / "a.parquet", [*(encode(image) for image in digits[:ROWS]), None])
    config = RunConfig(passes=5, device="cpu", flag_if="entropy > 0.1")
    run_screening(folder / "named.onnx", str(folder / "in"), folder / "first", config, Recorder())
    labels = read_results(folder / "first")["prediction"].to_pylist()
    labels = [label if row % 4 else (label + 1) % 10 for row, label in enumerate(labels[:ROWS])] + [5]
    present = [None if row in NULL_ROWS else label for row, label in enumerate(labels)]
    table = pq.read_table(shard)
    for kind, values in {
        "number": present,
        "name": [None if label is None else NAMES[label] for label in present],
        "text": [None if label is None else str(label) for label in present],
        "float": [float("nan") if label is None else float(label) for label in present],
        "none": pa.nulls(ROWS + 1, pa.int64()),
        "breed": ["poodle"] * (ROWS + 1),
    }.items():
        table = table.append_column(kind, pa.array(values))
    pq.write_table(table, shard)
    run_screening(
        folder / "named.onnx",
        str(folder / "in"),
        folder / "out",
        replace(config, keep=[*KINDS, "none", "breed"]),
        Recorder(),
    )
    return folder / "out"


@pytest.fixture(scope="module")
def found(results: Path) -> LabelledEvaluation:
    labelled = evaluate_results(str(results), [], label="number").labelled
    assert labelled is not None
    return labelled


def known_rows(results: Path) -> tuple[pa.Table, NDArray[np.bool_]]:
    """The scored rows with a label, and whether their predictions are right."""
    table = read_results(results)
    rows = np.setdiff1d(np.arange(ROWS), NULL_ROWS)
    table = table.take(pa.array(rows))
    return table, np.asarray(table["prediction"]) == np.asarray(table["number"])


def test_flagged_and_unflagged_rows_have_their_own_accuracy(results: Path, found: LabelledEvaluation) -> None:
    table, right = known_rows(results)
    flag = np.asarray(table["flag"])
    assert 0 < flag.sum() < len(flag)
    assert found.flagged == GroupAccuracy.of(right[flag])
    assert found.unflagged == GroupAccuracy.of(right[~flag])
    assert found.flagged.rows + found.unflagged.rows == found.rows == ROWS - len(NULL_ROWS)
    assert found.accuracy == pytest.approx(1 - (found.flagged.wrong + found.unflagged.wrong) / found.rows)


def test_rows_without_a_label_and_rows_without_a_prediction_are_counted_apart(found: LabelledEvaluation) -> None:
    assert (found.rows, found.unlabelled, found.unscored) == (ROWS - len(NULL_ROWS), len(NULL_ROWS), 1)


def test_every_score_of_the_results_has_a_risk_coverage_area(results: Path, found: LabelledEvaluation) -> None:
    table, right = known_rows(results)
    stored = [name for name in HIGH_IS_SUSPICIOUS if name in table.column_names]
    filled = [name for name in stored if table[name].null_count < len(table)]
    assert [risk.score for risk in found.risks] == filled
    for risk in found.risks:
        sign = 1 if HIGH_IS_SUSPICIOUS[risk.score] else -1
        assert risk.aurc == risk_coverage_area(sign * np.asarray(table[risk.score], np.float64), right)
        assert (risk.rows, risk.high_is_unusual) == (found.rows, sign == 1)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_may_be_numbers_names_text_or_floats(kind: str, results: Path, found: LabelledEvaluation) -> None:
    assert evaluate_results(str(results), [], label=kind).labelled == found


def test_names_need_the_record_of_the_run(results: Path, tmp_path: Path, found: LabelledEvaluation) -> None:
    shutil.copytree(results, tmp_path / "out")
    (tmp_path / "out" / "_run.json").unlink()
    assert evaluate_results(str(tmp_path / "out"), [], label="text").labelled == found
    with pytest.raises(OptionRefused, match="exactly one class of the model: ") as caught:
        evaluate_results(str(tmp_path / "out"), [], label="name")
    assert "contain no name for each class" in caught.value.wanted


def test_labels_that_cannot_be_compared_are_refused(results: Path) -> None:
    with pytest.raises(OptionRefused, match=re.escape("120 of 120 scored row(s)")) as caught:
        evaluate_results(str(results), [], label="breed")
    assert "'poodle'" in caught.value.found
    assert "class names: 'nil', 'one'" in caught.value.wanted
    with pytest.raises(InputRefused, match="None of the 120 scored row"):
        evaluate_results(str(results), [], label="none")


def test_results_of_other_versions_are_evaluated_with_the_scores_that_they_contain(
    results: Path, tmp_path: Path, found: LabelledEvaluation
) -> None:
    """A glob of two files, of which one lacks a score and has labels of another type."""
    table = pq.read_table(next(results.rglob("*.parquet")))
    number = table.column_names.index("number")
    other = table.drop_columns(["energy"]).set_column(number, "number", table["number"].cast(pa.float64()))
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(other, tmp_path / "b.parquet")
    labelled = evaluate_results(str(tmp_path / "*.parquet"), [str(tmp_path / "b.parquet")], label="number").labelled
    assert labelled is not None
    assert labelled.rows == 2 * found.rows
    assert {risk.score: risk.rows for risk in labelled.risks} == {
        risk.score: found.rows if risk.score == "energy" else 2 * found.rows for risk in found.risks
    }
    pq.write_table(table.set_column(number, "number", table["name"]), tmp_path / "b.parquet")
    with pytest.raises(OptionRefused, match="has different types in different shards"):
        evaluate_results(str(tmp_path / "*.parquet"), [], label="number")


def test_text_and_json_say_whether_flags_follow_errors(
    results: Path, found: LabelledEvaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = evaluate_results(str(results), [], label="number")
    print_evaluation(evaluation, Console(width=110))
    printed = capsys.readouterr().out
    assert "118 scored rows with a label; left out: 2 scored rows without a label, 1 rows that could not be scored" in (
        " ".join(printed.split())
    )
    wrong = found.flagged.wrong + found.unflagged.wrong
    assert f"{found.flagged.wrong} of {wrong} wrong predictions are in flagged rows." in printed
    for name, group in (("flagged", found.flagged), ("not flagged", found.unflagged)):
        assert re.search(rf"{name} +\S {group.rows} +\S {group.wrong} +\S {group.accuracy:.2%}", printed)
    for risk in found.risks:
        side = "high" if risk.high_is_unusual else "low"
        assert re.search(rf"{risk.score} +\S {side} +\S {risk.rows} +\S {risk.aurc:.3%} ", printed)
    read = json.loads(evaluation.to_json())["labelled"]
    assert read == json.loads(json.dumps(asdict(found)))
    assert {"accuracy", "nll", "ece", "error_left"} < set(read)


def test_a_run_without_flags_has_no_accuracy_of_flagged_rows(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The JSON has a null, not a NaN."""
    table = pq.read_table(next(results.rglob("*.parquet")))
    flag = table.column_names.index("flag")
    pq.write_table(table.set_column(flag, "flag", pa.array([False] * len(table))), tmp_path / "a.parquet")
    evaluation = evaluate_results(str(tmp_path / "a.parquet"), [], label="number")
    assert json.loads(evaluation.to_json(), parse_constant=pytest.fail)["labelled"]["flagged"]["accuracy"] is None
    print_evaluation(evaluation, Console(width=110))
    assert re.search(r"flagged +\S 0 +\S 0 +\S  ", capsys.readouterr().out)


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    """Half of the rows have confidence 1 and are correct, the other half 0.6 and are wrong."""
    confidence = np.repeat([1.0, 0.6], 50)
    assert expected_calibration_error(confidence, confidence == 1.0) == pytest.approx(0.3)
