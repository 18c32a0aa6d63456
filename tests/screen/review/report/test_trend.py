from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from screen.decide.score_counts import ScoreCounts
from screen.output.history import HISTORY_FOLDER
from screen.review.report import trend
from screen.review.report.gather import gather_findings
from screen.review.report.page import render_page
from screen.review.report.trend import read_trend
from tests.screen.output.test_history import night_of, write
from tests.screen.review.pages import Page


def test_a_trend_has_at_least_two_nights(tmp_path: Path) -> None:
    assert read_trend(tmp_path) is None
    write(tmp_path, 0, night_of(0))
    assert read_trend(tmp_path) is None
    write(tmp_path, 1, night_of(1, rows=50, flagged=5, bad=5))
    found = read_trend(tmp_path)
    assert found is not None
    assert [(night.rows, night.flagged, night.bad, night.rate) for night in found.nights] == [
        (100, 7, 2, 5 / 98),
        (50, 5, 5, 0.0),
    ]
    assert found.nights[0].quantiles == pytest.approx((1.4, 5.5, 9.55), rel=0.05)
    assert (found.score, found.nights[0].label) == ("ood_score", "2026-01-01 03:00")


def test_scores_are_compared_only_under_one_calibration(tmp_path: Path) -> None:
    nights = [
        replace(night_of(0), calibration="e" * 64),
        replace(night_of(1), score="entropy"),
        replace(night_of(2, rows=2), scores=ScoreCounts()),
        night_of(3),
    ]
    for day, night in enumerate(nights):
        write(tmp_path, day, night)
    found = read_trend(tmp_path)
    assert found is not None
    assert [len(night.quantiles) for night in found.nights] == [0, 0, 0, 3]
    assert found.nights[2].rate is None


def test_the_page_shows_the_latest_nights(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trend, "_MAX_NIGHTS", 3)
    shutil.copytree(drawn / "out", tmp_path / "out")
    for day in range(5):
        write(tmp_path / "out", day, replace(night_of(day), version="<b>0.1</b>"))
    (tmp_path / "out" / HISTORY_FOLDER / "_20260101T030000.000000Z.json").write_text("{")
    page = Page(render_page(gather_findings(str(tmp_path / "out"), top=0)))
    assert page.has("The 3 latest runs that scored rows; 1 earlier runs are not shown. 1 file of the history cannot")
    assert [one.text for one in page.all("time")][1:] == [f"2026-01-0{day} 03:00" for day in (5, 4, 3)] + [
        page.all("time")[-1].text
    ]
    assert page.has("<b>0.1</b>")
    assert len(page.all("svg", role="img")) >= 3
    assert not Page(render_page(gather_findings(str(drawn / "out"), top=0))).all("section", id="nights")
