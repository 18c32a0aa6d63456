"""The history of real runs: one night for each run that scored rows, also after a kill, in parts and on an upgrade."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from export.errors import ExitCode
from screen.config import ForceChoice, RunConfig
from screen.decide.drift import FlagCount
from screen.decide.score_counts import ScoreCounts
from screen.output import history
from screen.output.check import check_results
from screen.output.history import HISTORY_FOLDER, Night, read_history
from screen.output.manifest_file import MANIFEST_NAME
from screen.output.record import RECORD_NAME
from screen.run.night import RunNight
from screen.run.runner import run_screening
from screen.run.summary import RunSummary
from screen.version import own_version
from tests.conftest import Recorder, contents, read_results
from tests.screen.output.test_history import night_of, write


def run(model: Path, source: Path, output: Path, listener: Recorder | None = None, **options: Any) -> RunSummary:
    config = RunConfig(passes=2, device="cpu", **{"batch_size": 50, **options})
    return run_screening(model, str(source), output, config, listener or Recorder())


def counts(output: Path) -> list[tuple[int, int, int, ScoreCounts]]:
    """What the nights of an OUTPUT count."""
    return [(one.shards, one.rows, one.flagged, one.scores) for one in read_history(output).nights]


def stop_after(shards: int) -> Recorder:
    """A listener with which a run is interrupted after a number of shards, and writes nothing afterwards."""

    def stop(finished: int) -> None:
        if finished == shards:
            raise KeyboardInterrupt

    return Recorder(stop)


@pytest.fixture
def shards(digit_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digit_shards, tmp_path / "in"))


def test_each_run_that_scores_rows_is_a_night_of_its_rows(article_onnx: Path, shards: Path, tmp_path: Path) -> None:
    shutil.move(shards / "a.parquet", tmp_path / "later.parquet")
    run(article_onnx, shards, tmp_path / "out")
    assert run(article_onnx, shards, tmp_path / "out").rows == 0
    shutil.move(tmp_path / "later.parquet", shards / "a.parquet")
    run(article_onnx, shards, tmp_path / "out")
    first, second = read_history(tmp_path / "out").nights
    table = pq.read_table(tmp_path / "out" / "a.parquet")
    assert (first.rows, second.rows, second.shards) == (180, 120, 1)
    assert second.flagged == sum(table["flag"].to_pylist())
    assert (second.score, second.scores) == ("entropy", ScoreCounts.of(table["entropy"].to_numpy()))
    assert second.bad == 0
    assert len(list((tmp_path / "out" / HISTORY_FOLDER).iterdir())) == 2, "a night without new shards writes no file"


def test_a_killed_and_restarted_run_is_one_night(article_onnx: Path, shards: Path, tmp_path: Path) -> None:
    run(article_onnx, shards, tmp_path / "whole")
    for shard in (1, 2, 3):
        with pytest.raises(KeyboardInterrupt):
            run(article_onnx, shards, tmp_path / "out", stop_after(1))
        assert read_history(tmp_path / "out").nights == (), shard
    run(article_onnx, shards, tmp_path / "out")
    assert counts(tmp_path / "out") == counts(tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert len(list((tmp_path / "out" / HISTORY_FOLDER).iterdir())) == 1


@pytest.mark.parametrize("where", ["before the night is written", "after it", "after the manifest is finished"])
def test_a_kill_at_the_end_of_a_run_changes_no_night(
    where: str, article_onnx: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(article_onnx, shards, tmp_path / "whole")

    def kill(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        if where == "before the night is written":
            killed.setattr("screen.run.night.write_night", kill)
        elif where == "after it":
            killed.setattr("screen.run.runner.Manifest.finish", kill)
        else:
            killed.setattr(RunNight, "close", kill)
        with pytest.raises(KeyboardInterrupt):
            run(article_onnx, shards, tmp_path / "out")
    assert run(article_onnx, shards, tmp_path / "out").rows == 0
    assert run(article_onnx, shards, tmp_path / "out").rows == 0
    assert counts(tmp_path / "out") == counts(tmp_path / "whole")
    assert len(list((tmp_path / "out" / HISTORY_FOLDER).iterdir())) == 1


def test_the_parts_of_a_job_array_are_one_night_also_if_one_was_killed(
    article_onnx: Path, shards: Path, tmp_path: Path
) -> None:
    run(article_onnx, shards, tmp_path / "whole")
    out = tmp_path / "out"
    run(article_onnx, shards, out, part="1/2")
    assert [one.rows for one in read_history(out).nights] == [len(read_results(out))]
    with pytest.raises(KeyboardInterrupt):
        run(article_onnx, shards, out, stop_after(1), part="2/2")
    run(article_onnx, shards, out, part="2/2")
    assert counts(out) == counts(tmp_path / "whole")
    assert len(list((out / HISTORY_FOLDER).iterdir())) == 1


def test_a_whole_run_continues_the_night_of_a_killed_part(article_onnx: Path, shards: Path, tmp_path: Path) -> None:
    run(article_onnx, shards, tmp_path / "whole")
    out = tmp_path / "out"
    run(article_onnx, shards, out, part="1/2")
    with pytest.raises(KeyboardInterrupt):
        run(article_onnx, shards, out, stop_after(1), part="2/2")
    run(article_onnx, shards, out)
    found = read_history(out).nights
    assert sum(one.rows for one in found) == 300
    assert sum(one.flagged for one in found) == read_history(tmp_path / "whole").nights[0].flagged
    assert not list((out / HISTORY_FOLDER).glob("_open*"))


def test_the_version_is_recorded_and_an_upgrade_alone_scores_nothing(
    article_onnx: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    out = tmp_path / "out"
    request.addfinalizer(own_version.cache_clear)
    for version in ("8.1", "9.0"):
        monkeypatch.setattr("screen.version.version", lambda _, version=version: version)
        own_version.cache_clear()
        summary = run(article_onnx, shards, out)
        assert len(summary.shards) == (4 if version == "8.1" else 0)
        closing = json.loads((out / MANIFEST_NAME).read_text().splitlines()[-1])
        assert closing["version"] == version
    assert pq.read_schema(out / "a.parquet").metadata[b"oodscreen.version"] == b"8.1"
    assert json.loads((out / RECORD_NAME).read_text())["version"] == "8.1"
    assert [one.version for one in read_history(out).nights] == ["8.1"]
    assert check_results(out, str(shards)).problems == ()


def test_the_alarm_judges_small_nights_together_and_an_empty_night_repeats_the_result(
    article_onnx: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a policy that expects 2 % of the rows to be flagged by a calibration of 5000 rows."""
    from screen.decide.drift import find_drift
    from screen.decide.policy import DecisionPolicy

    seen: list[list[FlagCount]] = []

    def judge(policy: DecisionPolicy, found: Iterator[FlagCount], needed: int) -> Any:
        seen.append(list(found))
        return find_drift(5000, 100, [FlagCount(one.rows, one.rows // 10) for one in seen[-1]], needed)

    monkeypatch.setattr(DecisionPolicy, "find_drift", judge)
    late = {name: tmp_path / f"{name}.later" for name in ("a.parquet", "c.parquet")}
    for name, path in late.items():
        shutil.move(shards / name, path)

    def run_with_alarm(force: ForceChoice | None = None) -> RunSummary:
        config = RunConfig(passes=2, device="cpu", force=force)
        for name, value in {"alarm": True, "alarm_rows": 280}.items():  # refused without a calibration, which is slow
            object.__setattr__(config, name, value)
        return run_screening(article_onnx, str(shards), tmp_path / "out", config, Recorder())

    summaries = [run_with_alarm()]
    shutil.move(late["a.parquet"], shards / "a.parquet")
    summaries += [run_with_alarm() for _ in range(2)]
    assert [summary.exit_code for summary in summaries] == [ExitCode.DONE, ExitCode.DRIFT, ExitCode.DONE]
    drifts = [summary.drift for summary in summaries]
    assert [(one.rows, one.runs, one.is_alarm) for one in drifts if one] == [
        (179, 1, False),
        (299, 2, True),
        (299, 2, True),
    ]
    assert [[one.rows for one in found] for found in seen] == [[179], [120, 179], [0, 120, 179]]
    run_with_alarm(force="all")
    assert [one.rows for one in seen[-1]] == [299], "the runs before a run that scored all rows again are left out"


def test_the_alarm_looks_back_to_another_calibration_or_to_a_run_that_scored_all_rows_again(tmp_path: Path) -> None:
    """Scores of another calibration are other scores, and a run with --force scored the rows of the nights before."""

    def rows_judged(output: Path) -> list[int]:
        opened = RunNight(output, None, configuration="c", calibration="d" * 64, score="ood_score")
        return [count.rows for count in opened.flag_counts()]

    nights = [night_of(day, rows=100 + day) for day in range(4)]
    for day, one in enumerate((nights[0], replace(nights[1], calibration="e" * 64), *nights[2:])):
        write(tmp_path / "calibrated", day, one)
    assert rows_judged(tmp_path / "calibrated") == [0, 101, 100]
    for day, one in enumerate((nights[0], replace(nights[1], rescored=True), nights[2])):
        write(tmp_path / "forced", day, one)
    assert rows_judged(tmp_path / "forced") == [0, 100, 99]


def test_a_damaged_history_stops_no_run(article_onnx: Path, shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out" / HISTORY_FOLDER
    folder.mkdir(parents=True)
    (folder / "_open.json").write_text('{"started": 3}')
    (folder / "_20260101T000000.000000Z.json").write_text("{")
    run(article_onnx, shards, tmp_path / "out")
    assert [one.rows for one in read_history(tmp_path / "out").nights] == [300]
    assert check_results(tmp_path / "out").problems == ()
    assert any("_20260101T000000.000000Z.json" in note for note in check_results(tmp_path / "out").notes)


def test_the_newest_nights_alone_are_kept(
    article_onnx: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "KEPT_NIGHTS", 2)
    for seed in range(3):
        run(article_onnx, shards / "c.parquet", tmp_path / "out", seed=seed, force="all")
    assert len(read_history(tmp_path / "out").nights) == 2


def test_every_field_of_a_night_is_in_its_file(article_onnx: Path, shards: Path, tmp_path: Path) -> None:
    run(article_onnx, shards / "c.parquet", tmp_path / "out")
    (path,) = (tmp_path / "out" / HISTORY_FOLDER).iterdir()
    values = json.loads(path.read_text())
    assert values.keys() == set(Night.__dataclass_fields__) | {"format", "quantiles"}
    assert dict(values["quantiles"]).keys() == set(history.QUANTILES)
