from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from scipy import stats

from export.errors import CalibrationRefused, InputRefused, OptionRefused, OutputRefused
from export.graph.passes import stamp_metadata
from screen import Screener
from screen.columns import DISTANCES
from screen.config import RunConfig
from screen.decide.calibration import read_calibration
from screen.decide.config import CalibrationConfig
from screen.decide.request import CalibrationReport
from screen.decide.row_sets import threshold_rank
from screen.demo import read_images
from screen.run.calibration.calibrate import run_calibration
from screen.run.runner import run_screening
from screen.run.scoring import Executor, Job, open_here
from tests.conftest import Recorder, encode, read_results, write_shard
from tests.screen.engine.graphs import Graph, raw_values

PASSES = 6
RATE = 0.1


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, digits: NDArray[np.uint8]) -> Path:
    """Folders: 900 validation rows, 500 training rows, 300 test rows."""
    folder = tmp_path_factory.mktemp("calibrate")
    images = {"valid": read_images("valid")[0][:900], "train": read_images("train")[0][:500], "test": digits[:300]}
    for name, some in images.items():
        encoded = [encode(image) for image in some]
        for start in range(0, len(encoded), 350):
            write_shard(folder / name / f"{start:04d}.parquet", encoded[start : start + 350])
    return folder


Calibrate = Callable[..., CalibrationReport]


@pytest.fixture(scope="module")
def default_report(article_onnx: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> CalibrationReport:
    """The calibration without any option, made once for the tests that only need one."""
    output = tmp_path_factory.mktemp("default") / "c"
    config, asked = RunConfig(passes=PASSES, device="cpu"), CalibrationConfig(review_rate=RATE)
    return run_calibration(article_onnx, str(shards / "valid"), output, config, asked, Recorder())


@pytest.fixture
def calibrate(article_onnx: Path, shards: Path, tmp_path: Path, default_report: CalibrationReport) -> Calibrate:
    def run(source: Path | None = None, *, model: Path = article_onnx, config: Any = None, **wanted: Any) -> Any:
        if (source, model, config, wanted) == (None, article_onnx, None, {}) and not (tmp_path / "c").exists():
            shutil.copy(default_report.output, tmp_path / "c")
            return replace(default_report, output=tmp_path / "c")
        asked = CalibrationConfig(**{"review_rate": RATE, **wanted})
        config = RunConfig(passes=PASSES, device="cpu") if config is None else config
        return run_calibration(model, str(source or shards / "valid"), tmp_path / "c", config, asked, Recorder())

    return run


def test_a_calibration_uses_every_row_in_one_set(calibrate: Calibrate, shards: Path) -> None:
    alone = calibrate()
    assert (alone.reference_rows, alone.calibration.fit_rows, len(alone.calibration.calibration_scores)) == (
        300,
        200,
        400,
    )
    both = calibrate(reference=str(shards / "train"))
    made = both.calibration
    assert (both.reference_rows, made.fit_rows, len(made.calibration_scores)) == (500, 300, 600)
    assert "500 in the reference set, 300 in the fitting set, 600 in the calibration set" in both.to_text()
    assert "[12, 12, 64], in 3 x 3 spatial cells" in both.to_text()


def test_a_calibration_does_not_depend_on_shards_and_batches(
    calibrate: Calibrate, shards: Path, tmp_path: Path
) -> None:
    first = calibrate(reference=str(shards / "train"))
    kept = first.output.read_bytes()
    encoded = [encode(image) for image in read_images("valid")[0][:900]][::-1]
    for start in range(0, 900, 77):
        write_shard(tmp_path / "other" / f"{start:04d}.parquet", encoded[start : start + 77])
    config = RunConfig(passes=PASSES, device="cpu", batch_size=130, threads=1)
    second = calibrate(tmp_path / "other", reference=str(shards / "train"), config=config)
    assert second.output.read_bytes() == kept


def test_a_run_takes_passes_seed_and_masks_from_the_calibration(
    calibrate: Calibrate, article_onnx: Path, shards: Path, tmp_path: Path
) -> None:
    report = calibrate(config=RunConfig(passes=PASSES, seed=4, device="cpu"))
    config = RunConfig(calibration=str(report.output), device="cpu")
    summary = run_screening(article_onnx, str(shards / "test"), tmp_path / "out", config, Recorder())
    table = read_results(tmp_path / "out")
    assert set(table["passes"].to_pylist()) == {PASSES}
    expected = Screener(article_onnx, passes=PASSES, seed=4, device="cpu").score(read_images("test")[0][:300]).summary
    np.testing.assert_array_equal(np.array(table["mean"].to_pylist()), expected.mean.astype(np.float32))
    score, p_value = np.array(table["ood_score"]), np.array(table["p_value"])
    calibration = read_calibration(report.output)
    np.testing.assert_array_equal(calibration.p_values(score), p_value)
    assert table["flag"].to_pylist() == (p_value <= RATE).tolist() == (score > calibration.threshold).tolist()
    assert 0 < summary.flagged < 300
    assert summary.rule == "p_value <= 0.1"
    reasons = [reason for reason in table["flag_reason"].to_pylist() if reason]
    assert all(reason.startswith("p_value ") and "; most unusual: " in reason for reason in reasons)


def test_a_calibration_that_is_replaced_while_a_run_opens_is_not_used(
    calibrate: Calibrate, article_onnx: Path, shards: Path, tmp_path: Path
) -> None:
    """A run reads the calibration once, so that the calibration named in the results is the one that was used."""
    report = calibrate()
    config = RunConfig(calibration=str(report.output), device="cpu")

    @contextmanager
    def open_late(job: Job, *others: Any) -> Iterator[Executor]:
        report.output.write_bytes(b"another")
        with open_here(job, *others) as executor:
            yield executor

    summary = run_screening(
        article_onnx, str(shards / "test"), tmp_path / "out", config, Recorder(), open_executor=open_late
    )
    assert summary.rows == 300
    assert read_results(tmp_path / "out")["p_value"].null_count == 0


def test_noise_is_flagged_and_has_a_large_distance(
    calibrate: Calibrate, article_onnx: Path, digits: NDArray[np.uint8]
) -> None:
    screener = Screener(article_onnx, calibration=calibrate().output, device="cpu")
    noise = np.random.default_rng(0).integers(0, 256, (100, 28, 28, 1), dtype=np.uint8)
    far, near = screener.score(noise), screener.score(digits[:300])
    assert far.flag.all()
    assert far.scores["contrast_distance"].min() > near.scores["contrast_distance"].max()
    for name in DISTANCES:
        assert np.median(far.scores[name]) > np.quantile(near.scores[name], 0.95)


def test_a_rule_and_a_calibration_flag_either_one(calibrate: Calibrate, article_onnx: Path, digits: Any) -> None:
    calibration = calibrate().output
    both = Screener(article_onnx, calibration=calibration, flag_if="entropy > 0.8 or skewness > 100", device="cpu")
    alone = Screener(article_onnx, calibration=calibration, device="cpu")
    rows = both.score(digits[:200])
    expected = alone.score(digits[:200]).flag | (rows.scores["entropy"] > 0.8)
    np.testing.assert_array_equal(rows.flag, expected)
    named = [" ".join(reason.condition for reason in reasons) for reasons in rows.reasons]
    assert any("entropy >" in text and "p_value" in text for text in named)
    with pytest.raises(OptionRefused, match="null without a calibration"):
        Screener(article_onnx, flag_if="p_value < 0.1", device="cpu")


def test_scores_are_the_same_bits_in_every_batch(
    calibrate: Calibrate, article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    calibration = str(calibrate().output)
    write_shard(tmp_path / "test" / "a.parquet", [encode(image) for image in digits[:90]])
    tables = []
    for batch_size, threads in ((1, 1), (64, 2), (2048, 3)):
        config = RunConfig(calibration=calibration, device="cpu", batch_size=batch_size, threads=threads)
        run_screening(article_onnx, str(tmp_path / "test"), tmp_path / f"out-{batch_size}", config, Recorder())
        tables.append(read_results(tmp_path / f"out-{batch_size}"))
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"passes": 7}, "another --passes: 6 in the calibration, 7 in this run"),
        ({"seed": 1}, "--seed"),
        ({"masks": "per-row"}, "--masks"),
    ],
)
def test_a_calibration_of_other_passes_is_refused(
    calibrate: Calibrate, article_onnx: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(CalibrationRefused, match=message) as refused:
        Screener(article_onnx, calibration=calibrate().output, device="cpu", **options)
    assert "oodscreen calibrate" in refused.value.next_step


def test_a_calibration_of_another_model_is_refused(calibrate: Calibrate, article_onnx: Path, tmp_path: Path) -> None:
    model = onnx.load(article_onnx)
    model.graph.doc_string = "another file"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(CalibrationRefused, match="is of another model"):
        Screener(tmp_path / "other.onnx", calibration=calibrate().output, device="cpu")


def test_a_truncated_calibration_is_refused(calibrate: Calibrate, article_onnx: Path) -> None:
    path = calibrate().output
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CalibrationRefused, match="damaged"):
        Screener(article_onnx, calibration=path, device="cpu")


def test_rows_of_the_wrong_shape_are_refused(calibrate: Calibrate, tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "a.parquet", [encode(np.zeros((5, 5, 1), np.uint8))] * 1000)
    with pytest.raises(InputRefused, match="wrong_shape: 5 x 5 pixels, but the model takes 28 x 28") as refused:
        calibrate(tmp_path / "in", config=RunConfig(passes=PASSES, device="cpu", go_on=True))
    assert "in the image size of the model" in refused.value.next_step


def test_a_calibration_replaces_a_calibration_and_nothing_else(
    calibrate: Calibrate, tmp_path: Path, shards: Path
) -> None:
    (tmp_path / "c").write_text("something else")
    with pytest.raises(OutputRefused, match="exists and is not a calibration"):
        calibrate()
    assert (tmp_path / "c").read_text() == "something else"
    (tmp_path / "c").unlink()
    first = calibrate().calibration.digest
    assert calibrate(review_rate=0.2).calibration.digest != first


def test_a_calibration_of_another_version_is_replaced(calibrate: Calibrate, tmp_path: Path) -> None:
    with open(tmp_path / "c", "wb") as file:
        np.savez(file, header=np.frombuffer(json.dumps({"format": 1}).encode(), np.uint8))
    with pytest.raises(CalibrationRefused, match="has format 1"):
        read_calibration(tmp_path / "c")
    assert read_calibration(calibrate().output).review_rate == RATE


def test_another_archive_is_not_replaced(calibrate: Calibrate, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "c", "w") as file:  # as a .keras file
        file.writestr("config.json", "{}")
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(OutputRefused, match="exists and is not a calibration"):
        calibrate(detectors=("entropy",))
    assert (tmp_path / "c").read_bytes() == before


def test_shards_that_cannot_be_read_are_named(article_onnx: Path, shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards / "valid", tmp_path / "in")
    (tmp_path / "in" / "zz.parquet").write_bytes(b"PAR1")
    recorder = Recorder()
    config, wanted = RunConfig(passes=5, device="cpu"), CalibrationConfig(RATE, detectors=("entropy",))
    run_calibration(article_onnx, str(tmp_path / "in"), tmp_path / "other", config, wanted, recorder)
    assert any("left out, because the shard cannot be read: zz.parquet" in note for note in recorder.notes)


def test_rows_that_are_all_equal_are_refused(calibrate: Calibrate, shards: Path, tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "a.parquet", [encode(np.zeros((28, 28, 1), np.uint8))] * 900)
    with pytest.raises(InputRefused, match="contain 1 distinct readable rows"):
        calibrate(tmp_path / "in", reference=str(shards / "train"))
    with pytest.raises(InputRefused, match="The reference set has 0 distinct rows, selected from 900 readable rows"):
        calibrate(tmp_path / "in")


@pytest.mark.hostile(
    "In-distribution rows with equal images",
    "`calibrate` uses each image once, and prints the number of copies",
)
def test_copies_of_rows_change_no_promise(calibrate: Calibrate, shards: Path, tmp_path: Path) -> None:
    """Equal images have equal scores: with copies in the calibration set its scores would be fewer than they seem."""
    images = [encode(image) for image in read_images("valid")[0][:900]]
    write_shard(tmp_path / "in" / "a.parquet", images + images[:200] * 3)
    wanted = {"reference": str(shards / "train")}
    alone, copied = calibrate(**wanted), calibrate(tmp_path / "in", **wanted)
    np.testing.assert_array_equal(copied.calibration.calibration_scores, alone.calibration.calibration_scores)
    assert (copied.calibration.threshold, copied.calibration.interval) == (
        alone.calibration.threshold,
        alone.calibration.interval,
    )
    assert (alone.copies, copied.copies, copied.rows) == (0, 600, 1500)
    assert "600 copies of other rows" in copied.to_text()
    assert "of distinct images" in copied.to_text()
    assert json.loads(copied.to_json())["copies"] == 600


def test_many_copies_are_noted(article_onnx: Path, tmp_path: Path) -> None:
    images = [encode(image) for image in read_images("valid")[0][:300]]
    notes = []
    for count in (10, 40):
        write_shard(tmp_path / "in" / "a.parquet", images + images[:count])
        recorder = Recorder()
        config, wanted = RunConfig(passes=2, device="cpu"), CalibrationConfig(RATE, detectors=("entropy",))
        run_calibration(article_onnx, str(tmp_path / "in"), tmp_path / "c", config, wanted, recorder)
        notes.append([note for note in recorder.notes if "exact copies of other rows" in note])
    assert [len(some) for some in notes] == [0, 1]
    assert notes[1][0].startswith("40 of 340 rows")


def test_in_a_stream_with_recurring_frames_the_review_rate_is_that_of_distinct_images(
    calibrate: Calibrate, article_onnx: Path, tmp_path: Path, digits: NDArray[np.uint8]
) -> None:
    """A flagged frame that recurs is flagged each time, so the rate of the stream is higher."""
    calibrated = calibrate()
    frames = [encode(image) for image in digits[:300]]
    config = RunConfig(passes=PASSES, device="cpu", calibration=str(calibrated.output))
    write_shard(tmp_path / "in" / "a.parquet", frames)
    run_screening(article_onnx, str(tmp_path / "in"), tmp_path / "out", config, Recorder())
    flags = read_results(tmp_path / "out")["flag"].to_pylist()
    low, high = calibrated.calibration.interval
    assert low - 0.05 < np.mean(flags) < high + 0.05
    stuck = frames[flags.index(True)]
    write_shard(tmp_path / "stuck" / "a.parquet", frames + [stuck] * 300)
    run_screening(article_onnx, str(tmp_path / "stuck"), tmp_path / "out2", config, Recorder())
    again = read_results(tmp_path / "out2")["flag"].to_pylist()
    assert again[:300] == flags
    assert all(again[300:])


@pytest.mark.hostile(
    "In-distribution images that are reference images, compressed again or changed by one grey level",
    "`calibrate` leaves these images out and prints the ids of the first ones; if more than 1 % of the rows are copies "
    "of this kind, `calibrate` ends with an error",
)
@pytest.mark.parametrize("separate", [False, True])
def test_near_copies_of_reference_rows_are_left_out_and_refused_above_one_in_a_hundred(
    calibrate: Calibrate, shards: Path, tmp_path: Path, digits: NDArray[np.uint8], *, separate: bool
) -> None:
    """A compressed copy of a reference row has a distance of almost 0, and would lower the threshold."""
    reference = read_images("train")[0][:500]
    own = read_images("valid")[0][:900]
    brighter = np.clip((reference if separate else own).astype(int) + 1, 0, 255).astype(np.uint8)
    wanted = {"reference": str(shards / "train")} if separate else {}

    def calibrate_with(count: int) -> CalibrationReport:
        write_shard(tmp_path / "in" / "a.parquet", [encode(image) for image in (*own, *brighter[:count])])
        return calibrate(tmp_path / "in", **wanted)

    report = calibrate_with(9)
    assert report.near_copies == 9 if separate else 0 < report.near_copies < 9
    assert f"{report.near_copies} near-copies of reference images" in report.to_text()
    with pytest.raises(InputRefused, match=r"At least \d+ of \d+ in-distribution rows are near-copies") as refused:
        calibrate_with(200)
    assert ": a-" in str(refused.value)


def test_fewer_rows_than_the_review_rate_needs_are_refused(calibrate: Calibrate, shards: Path) -> None:
    with pytest.raises(InputRefused, match="contain 900 rows") as refused:
        calibrate(review_rate=0.001)
    assert "at least 2246 readable rows" in refused.value.wanted


def test_the_minimum_number_of_rows_is_enough(calibrate: Calibrate, tmp_path: Path, digits: Any) -> None:
    encoded = [encode(image) for image in digits[:150]]
    write_shard(tmp_path / "in" / "a.parquet", encoded[:149])
    with pytest.raises(InputRefused, match="contain 149 rows") as refused:
        calibrate(tmp_path / "in", review_rate=0.2)
    assert "at least 150 readable rows" in refused.value.wanted
    write_shard(tmp_path / "in" / "a.parquet", encoded)
    report = calibrate(tmp_path / "in", review_rate=0.2)
    assert report.calibration.fit_rows >= 30


def test_200_rows_are_enough_and_their_wide_interval_is_told(
    calibrate: Calibrate, shards: Path, tmp_path: Path, digits: Any
) -> None:
    write_shard(tmp_path / "in" / "a.parquet", [encode(image) for image in digits[:200]])
    report = calibrate(tmp_path / "in", review_rate=0.02, reference=str(shards / "train"))
    assert report.rows == 200
    low, high = report.calibration.interval
    assert low < 0.005
    assert high > 0.035
    assert f"95 % confidence interval of the true rate: {low:.2%} to {high:.2%}" in report.to_text()


def test_rows_that_are_also_in_the_reference_shards_are_refused(
    calibrate: Calibrate, shards: Path, tmp_path: Path
) -> None:
    encoded = [encode(image) for image in np.concatenate([read_images("valid")[0][:800], read_images("train")[0][:3]])]
    write_shard(tmp_path / "in" / "a.parquet", encoded)
    with pytest.raises(InputRefused, match="3 of 803 in-distribution rows are also in the reference shards"):
        calibrate(tmp_path / "in", reference=str(shards / "train"))


def test_rows_that_cannot_be_read_are_counted_and_left_out(calibrate: Calibrate, tmp_path: Path, digits: Any) -> None:
    write_shard(tmp_path / "in" / "a.parquet", [*(encode(image) for image in digits[:600]), None, b"x", None])
    report = calibrate(tmp_path / "in")
    assert report.statuses == {"decode_failed": 1, "null_image": 2}
    assert "not scored     3 of 603 (decode_failed 1, null_image 2)" in report.to_text()
    assert report.reference_rows + report.calibration.fit_rows + len(report.calibration.calibration_scores) == 600


def test_detectors_and_distance_can_be_chosen(calibrate: Calibrate, article_onnx: Path, digits: Any) -> None:
    report = calibrate(detectors=("confidence", "energy"))
    assert report.calibration.combined_score.names == ("confidence", "energy")
    assert report.calibration.distances == ()
    scores = Screener(article_onnx, calibration=report.output, device="cpu").score(digits[:5]).scores
    assert not {*DISTANCES, "feature_distance"} & set(scores)
    assert "ood_score" in scores
    report = calibrate(distance="euclidean", features=("layout", "penultimate"))
    assert report.calibration.combined_score.names == ("entropy", "layout_distance", "penultimate_distance")
    assert {distance.metric for distance in report.calibration.distances} == {"euclidean"}
    with pytest.raises(OptionRefused, match="replaced by layout_distance, contrast_distance, penultimate_distance"):
        calibrate(detectors=("feature_distance",))
    for wanted in ({"detectors": ("largest_label_entropy",)}, {"detectors": ("nonsense",)}, {"distance": "none"}):
        with pytest.raises(OptionRefused):
            calibrate(**wanted)
    with pytest.raises(InputRefused, match="contain 900 rows"):
        calibrate(review_rate=1e-4)
    for rate in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(OptionRefused, match="--review-rate"):
            calibrate(review_rate=rate)


def save(model: Any, path: Path) -> Path:
    stamp_metadata(model.proto, model.contract)
    onnx.save(model.proto, path)
    return path


def small_images(path: Path) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (600, 4, 4, 3), dtype=np.uint8)
    return write_shard(path, [encode(image) for image in images])


def test_a_model_with_one_layer_is_compared_by_its_image(calibrate: Calibrate, tmp_path: Path) -> None:
    g = Graph()
    model = save(g.finish(g.dense(g.site(g.flat(), 48), 48, 3), 3), tmp_path / "m.onnx")
    report = calibrate(small_images(tmp_path / "in" / "a.parquet"), model=model)
    assert report.calibration.combined_score.names == ("entropy", "layout_distance", "contrast_distance")
    assert [group for group, _ in report.calibration.features] == ["layout, contrast"]
    made = report.calibration
    assert report.reference_rows + made.fit_rows + len(made.calibration_scores) == 600


def test_constant_features_are_left_out_and_the_reason_is_reported(calibrate: Calibrate, tmp_path: Path) -> None:
    """The input of the last layer is 0 for every image."""
    g = Graph()
    dead = g.op("Mul", g.op("Relu", g.dense(g.site(g.flat(), 48), 48, 48)), g.const(np.zeros(1, np.float32)))
    model = save(g.finish(g.dense(dead, 48, 3), 3), tmp_path / "m.onnx")
    report = calibrate(small_images(tmp_path / "in" / "a.parquet"), model=model)
    assert report.calibration.combined_score.names == ("entropy", "layout_distance", "contrast_distance")
    assert [distance.name for distance in report.calibration.distances] == ["layout_distance", "contrast_distance"]


def test_a_regression_is_flagged_by_its_calibration(calibrate: Calibrate, tmp_path: Path) -> None:
    g = Graph(kind="regression")
    model = save(g.finish(g.dense(g.site(g.op("Relu", g.dense(g.flat(), 48, 20)), 20), 20, 2), 2), tmp_path / "m.onnx")
    report = calibrate(small_images(tmp_path / "in" / "a.parquet"), model=model)
    assert report.calibration.combined_score.names == ("largest_std", *DISTANCES)
    screener = Screener(model, calibration=report.output, device="cpu")
    assert screener.score(np.zeros((3, 4, 4, 3), np.uint8)).flag.dtype == np.bool_


def test_a_single_logit_is_calibrated_as_a_sigmoid_of_it(calibrate: Calibrate, tmp_path: Path) -> None:
    source, scores = small_images(tmp_path / "in" / "a.parquet"), []
    for kind in ("sigmoid", "logits"):
        g = Graph(kind=kind)
        hidden = g.op("Relu", g.dense(g.flat(), 48, 20))
        model = save(g.finish(g.dense(g.site(hidden, 20), 20, 1), 1), tmp_path / f"{kind}.onnx")
        calibration = calibrate(source, model=model).calibration
        assert calibration.combined_score.names == ("entropy", *DISTANCES)
        scores.append(calibration.calibration_scores)
    np.testing.assert_array_equal(scores[0], scores[1])


def test_rows_whose_outputs_are_no_probabilities_are_counted_and_left_out(calibrate: Calibrate, tmp_path: Path) -> None:
    """Without rows that can be scored, the error names the status."""
    model = save(raw_values("softmax"), tmp_path / "m.onnx")
    source = small_images(tmp_path / "in" / "a.parquet")
    with pytest.raises(InputRefused, match=r"0 readable rows \(first row that was not used: not_probabilities: "):
        calibrate(source, model=model, detectors=("entropy",))


def test_early_exit_is_measured_on_the_calibration_set(
    calibrate: Calibrate, article_onnx: Path, shards: Path, tmp_path: Path
) -> None:
    report = calibrate(config=RunConfig(passes=100, device="cpu", adaptive=True))
    assert report.stopping is not None
    assert abs(report.stopping.flagged - report.stopping.flagged_by_all) < 0.01
    assert report.stopping.mean_passes < 60
    assert "--adaptive" in report.to_text()
    tables = []
    for adaptive in (False, True):
        config = RunConfig(calibration=str(report.output), device="cpu", adaptive=adaptive)
        run_screening(article_onnx, str(shards / "test"), tmp_path / f"out-{adaptive}", config, Recorder())
        tables.append(read_results(tmp_path / f"out-{adaptive}"))
    passes = np.array(tables[1]["passes"])
    assert set(tables[0]["passes"].to_pylist()) == {100}
    assert passes.mean() < 60
    assert sum(one != other for one, other in zip(tables[0]["flag"], tables[1]["flag"], strict=True)) <= 2
    for name in DISTANCES:
        assert tables[0][name].equals(tables[1][name])
    with pytest.raises(OptionRefused, match="the calibration combines energy"):
        calibrate(config=RunConfig(adaptive=True, device="cpu"), detectors=("energy",))


def test_the_target_review_rate_is_kept(calibrate: Calibrate, article_onnx: Path, tmp_path: Path) -> None:
    """One random split of 4,000 digits; benchmarks/promises.py repeats it many times."""
    images = np.concatenate([read_images("valid")[0], read_images("test")[0]])
    images = images[np.random.default_rng(0).permutation(len(images))]
    write_shard(tmp_path / "in" / "a.parquet", [encode(image) for image in images[:2000]])
    report = calibrate(tmp_path / "in", review_rate=0.05)
    screener = Screener(article_onnx, calibration=report.output, device="cpu")
    flagged = int(screener.score(images[2000:]).flag.sum())
    rows = len(report.calibration.calibration_scores)
    rank = threshold_rank(rows, 0.05)
    low, high = stats.betabinom.ppf([0.001, 0.999], 2000, rank, rows + 1 - rank)
    assert low <= flagged <= high
    assert replace(report.calibration, review_rate=0.5).interval[0] > high / 2000


def test_a_calibration_may_be_in_a_store(
    calibrate: Calibrate, article_onnx: Path, shards: Path, tmp_path: Path
) -> None:
    calibrate()
    fsspec.filesystem("memory").pipe_file("/calibrations/c", (tmp_path / "c").read_bytes())
    for name, path in (("local", str(tmp_path / "c")), ("store", "memory://calibrations/c")):
        config = RunConfig(calibration=path, device="cpu")
        run_screening(article_onnx, str(shards / "test"), tmp_path / name, config, Recorder())
    local, store = (pq.read_table(tmp_path / name / "0000.parquet") for name in ("local", "store"))
    assert store.equals(local)
    assert store["p_value"].null_count == 0
