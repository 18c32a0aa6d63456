from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from export.errors import OptionRefused
from screen.config import RunConfig
from screen.review.report.gather import gather_findings
from screen.review.results import open_results
from screen.run.runner import run_screening
from tests.conftest import Recorder, oodscreen
from tests.screen.review.conftest import RULE, Night, read_queue

NAMES = tuple(f"digit {number}" for number in range(10))


def run(night: Night, **options: Any) -> int:
    config = RunConfig(passes=5, device="cpu", flag_if=RULE, keep=["label"], max_bad_rows="100%", **options)
    return len(run_screening(night.model, str(night.input), night.results, config, Recorder()).shards)


def names(night: Night) -> tuple[str, ...]:
    return open_results(str(night.results)).class_names


def test_a_later_run_may_name_the_classes_and_scores_nothing_again(night: Night) -> None:
    files = {path: path.read_bytes() for path in night.results.rglob("*.parquet")}
    assert run(night, class_names=NAMES) == 0
    assert names(night) == NAMES
    assert files == {path: path.read_bytes() for path in night.results.rglob("*.parquet")}
    assert run(night) == 0
    assert run(night, force="all") == 2
    assert names(night) == NAMES  # a run without --classes keeps the recorded names
    assert run(night, class_names=NAMES[::-1]) == 0
    assert names(night) == NAMES[::-1]  # the last given names hold


def test_a_wrong_number_of_names_is_refused_by_each_command(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OptionRefused, match=r"has 2 name\(s\), and the model has 10 classes"):
        run(night, class_names=("a", "b"))
    for command in ("report", "queue"):
        output = tmp_path / f"{command}.jsonl"
        assert oodscreen(command, night.results, "-o", output, "--classes", "a,b", monkeypatch=monkeypatch) == 2
        assert "has 2 name(s), and the model has 10 classes" in capsys.readouterr().err
        assert not output.exists()


def test_a_report_and_a_queue_have_the_given_names(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {group.name for group in gather_findings(str(night.results), class_names=NAMES).counts.classes}
    assert shown <= set(NAMES)
    assert shown
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    given: tuple[tuple[str | Path, ...], ...] = (
        (",".join(NAMES),),
        (tmp_path / "names.txt",),
        (",".join(NAMES), "--model", night.model),  # the names of the model are replaced, too
    )
    for number, more in enumerate(given):
        queue = tmp_path / f"{number}.json"
        words = ("queue", night.results, "-o", queue, "--to", "label-studio-tasks", "--classes", *more)
        assert oodscreen(*words, "--project", queue.stem, monkeypatch=monkeypatch) == 0
        predicted = {choice for task in json.loads(queue.read_text()) for one in task.get("predictions", ())
                     for result in one["result"] for choice in result["value"].get("choices", ())}  # fmt: skip
        assert predicted <= set(NAMES)
        assert predicted
    assert read_queue(queue)
    assert not names(night)  # neither command changes the results
