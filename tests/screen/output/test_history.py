"""The history of an OUTPUT: one file a night, read back as a `History`."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from screen.decide.score_counts import ScoreCounts
from screen.output import history
from screen.output.history import HISTORY_FOLDER, Night, close_parts, latest_nights, night_name, read_history
from screen.partition import ShardPartition

START = datetime(2026, 1, 1, 3, tzinfo=UTC)


def night_of(day: int, rows: int = 100, flagged: int = 7, bad: int = 2) -> Night:
    """A night of some rows, `day` days after the first."""
    statuses = (("decode_failed", bad), ("ok", rows - bad))
    started = START + timedelta(days=day)
    return Night(
        started=started.isoformat(),
        finished=(started + timedelta(minutes=5)).isoformat(),
        version="0.1.0",
        configuration="c" * 64,
        calibration="d" * 64,
        shards=1,
        rows=rows,
        flagged=flagged,
        statuses=statuses,
        unreadable=0,
        score="ood_score",
        scores=ScoreCounts.of(np.linspace(1, 10, rows - bad)),
    )


def write(output: Path, day: int, night: Night, part: ShardPartition | None = None) -> str:
    name = night_name(START + timedelta(days=day), part)
    history.write_night(output, name, night, "" if part is None else part.name)
    return name


def files(output: Path) -> list[str]:
    return sorted(path.name for path in (output / HISTORY_FOLDER).iterdir())


def test_nights_are_read_back_as_they_were_written_the_oldest_first(tmp_path: Path) -> None:
    nights = [night_of(day, rows=100 + day) for day in range(3)]
    for day in (2, 0, 1):
        write(tmp_path, day, nights[day])
    assert read_history(tmp_path).nights == tuple(nights)
    assert list(latest_nights(tmp_path)) == nights[::-1]
    first = read_history(tmp_path).nights[0]
    assert (first.bad, first.readable, first.flag_rate) == (2, (98, 5), 5 / 98)
    levels = dict(first.quantiles)
    assert levels[0.5] == pytest.approx(5.5, rel=0.02)
    assert levels[0.05] < levels[0.95] < 10


def test_an_output_without_a_history_has_no_nights(tmp_path: Path) -> None:
    assert read_history(tmp_path / "missing").nights == ()
    close_parts(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", "[" * 5000, '{"format": 1}', '{"format": 9}', "\udcff"])
def test_a_damaged_file_hides_no_other_night(content: str, tmp_path: Path) -> None:
    for day in range(3):
        name = write(tmp_path, day, night_of(day))
    (tmp_path / HISTORY_FOLDER / name).write_text(content, errors="surrogateescape")
    found = read_history(tmp_path)
    assert (len(found.nights), found.damaged) == (2, (name,))
    assert len(list(latest_nights(tmp_path))) == 2


@pytest.mark.parametrize("field", ["rows", "flagged", "shards"])
def test_a_file_with_negative_counts_is_damaged(field: str, tmp_path: Path) -> None:
    changed: dict[str, Any] = {field: -5}
    write(tmp_path, 0, replace(night_of(0), **changed))
    assert len(read_history(tmp_path).damaged) == 1


def test_the_parts_of_a_job_array_become_one_night(tmp_path: Path) -> None:
    write(tmp_path, 0, night_of(0))
    for index in (1, 2, 3):
        write(tmp_path, index, night_of(index, rows=50), ShardPartition(index, 3))
    before = read_history(tmp_path).nights
    close_parts(tmp_path)
    assert files(tmp_path) == ["_20260101T030000.000000Z.json", "_20260102T030000.000000Z.json"]
    after = read_history(tmp_path).nights
    assert [night.rows for night in before] == [night.rows for night in after] == [100, 150]
    assert (after[1].flagged, after[1].bad, after[1].scores.total) == (21, 6, 144)
    assert (after[1].started, after[1].finished) == (night_of(1).started, night_of(3).finished)


def test_a_merge_that_is_killed_counts_no_row_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in (1, 2):
        write(tmp_path, index, night_of(index), ShardPartition(index, 2))
    with monkeypatch.context() as killed:
        killed.setattr(history, "_remove", lambda output, names: None)  # killed before the files are removed
        close_parts(tmp_path)
    assert len(files(tmp_path)) == 3
    assert [night.rows for night in read_history(tmp_path).nights] == [200]
    assert [night.rows for night in latest_nights(tmp_path)] == [200]
    close_parts(tmp_path)
    assert len(files(tmp_path)) == 1
    assert [night.rows for night in read_history(tmp_path).nights] == [200]


def test_only_the_newest_nights_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT_NIGHTS", 3)
    for day in range(5):
        write(tmp_path, day, night_of(day))
    assert [night.started for night in read_history(tmp_path).nights] == [night_of(day).started for day in (2, 3, 4)]


def test_quantiles_have_a_relative_error_of_one_percent_however_scores_are_added() -> None:
    scores = np.random.default_rng(0).lognormal(0, 3, 5000)
    scores[::3] *= -1
    whole = ScoreCounts.of(np.append(scores, [np.nan, np.inf]))
    assert whole == ScoreCounts.of(scores[:100]) + ScoreCounts.of(scores[100:])
    assert whole.total == 5000
    for level in (0.0, 0.05, 0.3, 0.5, 0.95, 1.0):
        exact = np.quantile(scores, level, method="lower")
        assert whole.quantile(level) == pytest.approx(exact, rel=0.0101)
    assert ScoreCounts().quantile(0.5) is None
    assert ScoreCounts.of(np.zeros(3)).quantile(0.5) == 0
