from __future__ import annotations

import json
import shutil
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from export.errors import InputRefused, OptionRefused
from screen.columns import result_schema
from screen.config import RunConfig
from screen.review.evaluate.metrics import Evaluation, evaluate_results, separate
from screen.review.evaluate.show import plot_evaluation, print_evaluation
from screen.run.runner import run_screening
from tests.conftest import Recorder, encode, write_shard


def test_a_score_that_separates_two_sets_has_perfect_metrics() -> None:
    for high, sign in ((True, 1), (False, -1)):
        found = separate(sign * np.arange(100.0), sign * np.arange(200.0, 250.0), "s", high_is_unusual=high)
        assert (found.auroc, found.aupr, found.fpr95) == (1.0, 1.0, 0.0)


def test_a_constant_score_separates_nothing() -> None:
    found = separate(np.zeros(100), np.zeros(300), "s", high_is_unusual=True)
    assert (found.auroc, found.aupr, found.fpr95) == (0.5, 0.75, 1.0)


def test_fpr95_is_the_share_of_the_set_accepted_when_95_percent_of_in_distribution_rows_are() -> None:
    """Computed by hand: 95 of the scores 0 to 99 are at most 94, and 2 of 4 in the set are."""
    found = separate(np.arange(100.0), np.array([1.0, 94.0, 94.5, 200.0]), "s", high_is_unusual=True)
    assert found.fpr95 == 0.5


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    known, other = rng.integers(0, 9, 40), rng.integers(3, 12, 30)
    pairs = other[:, None] - known[None]
    expected = np.mean(pairs > 0) + np.mean(pairs == 0) / 2
    assert separate(known, other, "s", high_is_unusual=True).auroc == pytest.approx(expected)


@pytest.fixture(scope="module")
def results(article_onnx: Path, digits: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of digits and of noise, each with an unreadable row."""
    folder = tmp_path_factory.mktemp("evaluate")
    noise = np.random.default_rng(0).integers(0, 256, (60, 28, 28, 1), dtype=np.uint8)
    for name, images in (("digits", digits[:120]), ("noise", noise)):
        write_shard(folder / "in" / name / "a.parquet", [*(encode(image) for image in images), None])
        config = RunConfig(passes=10, keep=["label"], device="cpu")
        run_screening(article_onnx, str(folder / "in" / name), folder / name, config, Recorder())
    return folder


@pytest.fixture(scope="module")
def labelled(results: Path) -> Path:
    """The digits' results, with labels that agree with all predictions except ten."""
    table = pq.read_table(results / "digits")
    labels = table["prediction"].fill_null(0).to_numpy().copy().astype(np.int64)
    labels[:10] = (labels[:10] + 1) % 10
    table = table.set_column(table.column_names.index("label"), "label", pa.array(labels))
    (results / "labelled").mkdir()
    pq.write_table(table, results / "labelled" / "a.parquet")
    return results / "labelled"


def test_results_are_compared_score_by_score(results: Path, labelled: Path) -> None:
    evaluation = evaluate_results(str(labelled), [str(results / "noise")], label="label")
    assert (evaluation.rows, evaluation.scored) == (121, 120)
    (noise,) = evaluation.sets
    assert (noise.rows, noise.scored) == (61, 60)
    scores = {one.score: one for one in noise.separations}
    assert {"entropy", "confidence", "skewness", "energy", "largest_std"} <= set(scores)
    assert not {"ood_score", "feature_distance", "largest_label_entropy"} & set(scores)
    known, other = (pq.read_table(folder)["entropy"].drop_null().to_numpy() for folder in (labelled, results / "noise"))
    assert scores["entropy"] == separate(known, other, "entropy", high_is_unusual=True)
    assert evaluation.labelled is not None
    assert evaluation.labelled.accuracy == pytest.approx(110 / 120)
    assert all(errors[0] == pytest.approx(10 / 120) for errors in evaluation.labelled.error_left.values())
    mean = np.stack(pq.read_table(labelled)["mean"].drop_null().to_pylist())
    label = pq.read_table(labelled)["label"].to_numpy()[:120]
    assert evaluation.labelled.nll == pytest.approx(-np.mean(np.log(mean[np.arange(120), label])), rel=1e-4)


def test_an_evaluation_is_shown_as_a_table_as_json_and_as_a_plot(
    results: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = evaluate_results(str(labelled), [str(results / "noise")], label="label")
    print_evaluation(evaluation, Console(width=120))
    printed = capsys.readouterr().out
    assert "FPR at 95 % TPR" in printed
    assert "error rate of the unreviewed rows, by the reviewed share of all rows" in printed
    read = json.loads(evaluation.to_json())
    assert set(read) == {field.name for field in fields(Evaluation)} | {"shares_reviewed"}
    for ending in ("svg", "png"):
        plot_evaluation(evaluation, tmp_path / f"plot.{ending}")
        assert (tmp_path / f"plot.{ending}").stat().st_size > 5000
    with pytest.raises(OptionRefused, match="cannot be written"):
        plot_evaluation(evaluation, tmp_path / "plot.nonsense")


def test_only_the_shards_of_a_runs_manifest_are_evaluated(results: Path, labelled: Path, tmp_path: Path) -> None:
    """Other Parquet files in the folder are ignored, and an unfinished run is refused."""
    shutil.copytree(results / "noise", tmp_path / "noise")
    shutil.copy(labelled / "a.parquet", tmp_path / "noise" / "beside.parquet")
    assert evaluate_results(str(tmp_path / "noise"), []).rows == 61
    manifest = tmp_path / "noise" / "_manifest.jsonl"
    manifest.write_text("\n".join(manifest.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(InputRefused, match="did not finish"):
        evaluate_results(str(tmp_path / "noise"), [])


def with_settings(table: pa.Table, path: Path, **changed: object) -> str:
    """The file of a table of results, as if a run with other settings had written it; gives its path."""
    identity = json.loads(table.schema.metadata[b"oodscreen"]) | changed
    pq.write_table(table.replace_schema_metadata({"oodscreen": json.dumps(identity)}), path)
    return str(path)


def test_scores_of_two_calibrations_are_left_out_by_name_and_two_models_are_refused(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known, noise = (pq.read_table(results / name / "a.parquet") for name in ("digits", "noise"))
    place = known.column_names.index("ood_score")
    field = known.schema.field("ood_score")
    known, noise = (one.set_column(place, field, one["entropy"].cast(pa.float64())) for one in (known, noise))
    first = with_settings(known, tmp_path / "known.parquet", calibration="a" * 64)
    same = with_settings(noise, tmp_path / "same.parquet", calibration="a" * 64)
    other = with_settings(noise, tmp_path / "other.parquet", calibration="b" * 64, passes=20)
    evaluation = evaluate_results(first, [same, other])
    names = [{one.score for one in found.separations} for found in evaluation.sets]
    assert names[0] - names[1] == {"ood_score"}
    assert evaluation.sets[0].separations[:3] == evaluation.sets[1].separations[:3]
    calibrations, passes = evaluation.notes
    assert f"{other} were scored with different calibrations (aaaaaaaaaaaa, bbbbbbbbbbbb): ood_score" in calibrations
    assert "differ in the number of passes (10, 20)" in passes
    print_evaluation(evaluation, Console(width=120))
    assert capsys.readouterr().out.count("note: ") == 2
    assert evaluate_results(first, [same]).notes == ()
    foreign = with_settings(noise, tmp_path / "foreign.parquet", model="c" * 64)
    with pytest.raises(InputRefused, match="produced by different models"):
        evaluate_results(first, [same, foreign])
    with pytest.raises(InputRefused, match="produced by different models"):
        evaluate_results(str(tmp_path / "*.parquet"), [])
    (tmp_path / "foreign.parquet").unlink()
    assert "ood_score" not in {
        one.score for one in evaluate_results(str(tmp_path / "*.parquet"), [same]).sets[0].separations
    }
    pq.write_table(noise.replace_schema_metadata({"oodscreen": "{"}), tmp_path / "broken.parquet")
    with pytest.raises(InputRefused, match="is not a result shard"):
        evaluate_results(first, [str(tmp_path / "broken.parquet")])


def test_what_cannot_be_compared_is_refused(
    results: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputRefused, match="not a result shard"):
        evaluate_results(str(results / "in" / "digits"), [])
    with pytest.raises(InputRefused, match="does not exist or matches no file"):
        evaluate_results(str(labelled), ["missing"])
    with pytest.raises(OptionRefused, match="no column 'truth'"):
        evaluate_results(str(labelled), [], label="truth")
    with pytest.raises(
        OptionRefused,
        match=r"In --label-column label, 110 of 120 scored row.* not name exactly one class of the model: 10, 11",
    ):
        evaluate_results(str(results / "digits"), [], label="label")
    empty = pa.Table.from_pylist([], schema=result_schema(pa.schema([])))
    pq.write_table(empty, tmp_path / "empty.parquet")
    with pytest.raises(InputRefused, match="could be scored"):
        evaluate_results(str(tmp_path / "empty.parquet"), [])
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(OptionRefused, match="scikit-learn is not installed"):
        evaluate_results(str(labelled), [])
