from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from screen.review.results import _select, open_results
from tests.conftest import oodscreen
from tests.screen.review.conftest import Night, read_queue
from tests.screen.review.runs import to_format_1, to_format_2


@pytest.mark.parametrize(
    ("reason", "single"),
    [
        ("entropy 0.7 > 0.5", ("entropy > 0.5",)),
        ("0.5 < entropy 7e-05", ("0.5 < entropy",)),
        ("energy -3.2 > -4; entropy 1 >= 0.5", ("energy > -4", "entropy >= 0.5")),
        ("mutual_information 0.3 > expected_entropy 0.2", ("mutual_information > expected_entropy",)),
        ("p_value 0.0015 <= 0.02; most unusual: entropy 1.2", ("p_value <= 0.02", "most unusual: entropy")),
        ("not entropy < 0.5", ("not entropy < 0.5",)),
        ("decode_failed", ("decode_failed",)),
    ],
)
def test_format_1_has_its_reasons_in_the_sentence_alone(reason: str, single: tuple[str, ...]) -> None:
    batch = pa.record_batch({"flag_reason": pa.array([reason, None], pa.string())})
    assert _select(batch, ["flag_reasons"])["flag_reasons"].to_pylist() == [list(single), None]


@pytest.mark.parametrize(("change", "lacking"), [(to_format_1, "flag_reasons"), (to_format_2, "layout_distance")])
def test_results_of_older_formats_are_read_as_those_of_today(
    change: Callable[[Path], None],
    lacking: str,
    night: Night,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every command that reads results gives the same answers for results of any format."""
    night.run()  # the quarantine table names the folder of the copy
    columns = ["row", "flag_reasons"]
    today = open_results(str(night.results))
    reasons = [table.to_pylist() for entry in today.entries for table in today.batches(entry, columns)]
    some = [today.take(entry, [0, 7, 59], columns).to_pylist() for entry in today.entries]

    def answers(name: str) -> tuple[str, list[dict[str, object]], dict[str, object]]:
        queue = tmp_path / f"{name}.jsonl"
        command = ("queue", night.results, "-o", queue, "--ledger", tmp_path / f"{name}-ledger")
        assert oodscreen(*command, "--reason", "confidence", "--top", "9", monkeypatch=monkeypatch) == 0
        assert oodscreen("check", night.results, "--input", night.input, monkeypatch=monkeypatch) == 0
        page = tmp_path / f"{name}.html"
        assert oodscreen("report", night.results, "-o", page, monkeypatch=monkeypatch) == 0
        known = tmp_path / "labels.jsonl"
        rows = read_queue(queue)
        known.write_text("".join(json.dumps(row | {"label": "3"}) + "\n" for row in rows))
        labelled = tmp_path / f"{name}-labels.parquet"
        assert oodscreen("labels", known, night.results, "-o", labelled, monkeypatch=monkeypatch) == 0
        metrics = tmp_path / f"{name}.json"
        evaluated = ("evaluate", night.results, night.results, "--json", metrics)
        assert oodscreen(*evaluated, monkeypatch=monkeypatch) == 0
        written = pq.read_table(labelled).drop_columns(["model_version"]).to_pylist()
        return page.read_text(), written, json.loads(metrics.read_text())

    now = answers("now")
    change(night.results)
    assert lacking not in pq.read_schema(night.results / "a.parquet").names
    earlier = open_results(str(night.results))
    assert [table.to_pylist() for entry in earlier.entries for table in earlier.batches(entry, columns)] == reasons
    assert [earlier.take(entry, [0, 7, 59], columns).to_pylist() for entry in earlier.entries] == some
    then = answers("then")
    assert then[1:] == now[1:]
    assert "confidence &lt; 0.6" in now[0]
    assert "confidence &lt; 0.6" in then[0]
