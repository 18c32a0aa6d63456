"""The command `oodscreen queue`: selection, order, deduplication, and no lost or duplicate images after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from export.errors import OptionRefused
from screen.files.storage import UNLOCKED_PREFIX, FileContent
from screen.review.classes import name_classes
from screen.review.queue.config import QueueConfig
from screen.review.queue.file_targets import make_file_destination
from screen.review.queue.fill import fill_queue
from screen.review.queue.ledger import Ledger, LedgerEntry, input_digest, open_ledger
from screen.review.queue.summary import QueueReport
from screen.review.results import open_results
from tests.conftest import contents, oodscreen, write_shard
from tests.screen.review.conftest import Night, read_queue


def fill(night: Night, target: Path, to: str | None = None, project: str = "default", **options: Any) -> QueueReport:
    return fill_queue(
        str(night.results),
        QueueConfig(**options),
        lambda results, classes, dry_run: make_file_destination(
            str(target), to, project, classes, images=True, url=None
        ),
    )


def places(rows: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(row["shard"], row["row"]) for row in rows]


def test_flagged_rows_are_ordered_by_suspicion_and_unscored_rows_come_last(night: Night, tmp_path: Path) -> None:
    report = fill(night, tmp_path / "q.parquet")
    rows = read_queue(tmp_path / "q.parquet")
    scored = [row for row in rows if row["status"] == "ok"]
    twice = {("sub/b.parquet", 60), ("sub/b.parquet", 61), ("sub/b.parquet", 62)}
    expected = [place for place in places(night.flagged()) if place not in twice]
    assert places(scored) == expected
    assert [row["status"] for row in rows[len(scored) :]] == ["wrong_shape"]
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    assert report.order == "entropy"
    assert report.handed_on == len(rows)
    assert report.without_image == {"null_image": 1, "decode_failed": 1}
    assert report.exit_code == 0


def test_every_row_has_the_image_that_was_scored_and_its_digest(night: Night, tmp_path: Path) -> None:
    fill(night, tmp_path / "q.parquet", include_random="50%")
    for row in read_queue(tmp_path / "q.parquet"):
        there = pq.read_table(night.input / row["shard"]).to_pylist()[row["row"]]["image"]["bytes"]
        assert row["image"]["bytes"] == there
        assert row["key"] == hashlib.sha256(there).hexdigest()


def test_top_exports_the_first_rows_and_the_next_run_the_next_rows(night: Night, tmp_path: Path) -> None:
    fill(night, tmp_path / "whole.parquet", project="other")
    whole = places(read_queue(tmp_path / "whole.parquet"))
    assert len(whole) > 12
    found: list[tuple[str, int]] = []
    for index in range(3):
        assert fill(night, tmp_path / f"{index}.parquet", top=4).handed_on == 4
        found += places(read_queue(tmp_path / f"{index}.parquet"))
    assert found == whole[:12]


def test_per_class_exports_the_most_suspicious_rows_of_each_predicted_class(night: Night, tmp_path: Path) -> None:
    fill(night, tmp_path / "whole.parquet", project="other")
    expected: list[tuple[str, int]] = []
    counts: dict[Any, int] = {}
    for row in read_queue(tmp_path / "whole.parquet"):
        counts[row["prediction"]] = counts.get(row["prediction"], 0) + 1
        if counts[row["prediction"]] <= 2:
            expected.append((row["shard"], row["row"]))
    fill(night, tmp_path / "q.parquet", per_class=2)
    assert places(read_queue(tmp_path / "q.parquet")) == expected
    fill(night, tmp_path / "top.parquet", per_class=2, top=3, project="third")
    assert places(read_queue(tmp_path / "top.parquet")) == expected[:3]


def test_per_class_continues_after_images_exported_from_another_shard(night: Night, tmp_path: Path) -> None:
    """The ledger has the images under other rows, so they are recognized only after fetching their bytes."""
    fill(night, tmp_path / "first.parquet", per_class=1)
    first = read_queue(tmp_path / "first.parquet")
    recut(night)
    fill(night, tmp_path / "second.parquet", per_class=1)
    second = read_queue(tmp_path / "second.parquet")
    assert not {row["key"] for row in first} & {row["key"] for row in second}
    assert len({row["prediction"] for row in second}) == len(second) > 2


def test_a_reason_chooses_rows_that_name_it(night: Night, tmp_path: Path) -> None:
    report = fill(night, tmp_path / "q.parquet", reasons=("confidence",))
    rows = read_queue(tmp_path / "q.parquet")
    assert rows
    assert all("confidence" in row["flag_reason"] for row in rows)
    assert report.matching < report.flagged
    fill(night, tmp_path / "shape.parquet", reasons=("wrong_shape",))
    assert [row["status"] for row in read_queue(tmp_path / "shape.parquet")] == ["wrong_shape"]
    nothing = fill(night, tmp_path / "none.parquet", reasons=("energy",))
    assert not (tmp_path / "none.parquet").exists()
    assert "reasons: " in nothing.to_text()


def test_another_score_can_order(night: Night, tmp_path: Path) -> None:
    fill(night, tmp_path / "q.parquet", order_by="confidence")
    scored = [row for row in read_queue(tmp_path / "q.parquet") if row["status"] == "ok"]
    assert [row["confidence"] for row in scored] == sorted(row["confidence"] for row in scored)
    assert [row["suspicion"] for row in scored] == [-row["confidence"] for row in scored]


def test_random_rows_are_marked_and_were_not_flagged(night: Night, tmp_path: Path) -> None:
    report = fill(night, tmp_path / "q.parquet", include_random="100%")
    rows = read_queue(tmp_path / "q.parquet")
    audit = [row for row in rows if row["source"] == "audit"]
    assert len(audit) == report.audit
    assert not any(row["flag"] for row in audit)
    assert rows[-len(audit) :] == audit
    unflagged = {(row["shard"], row["row"]) for row in night.rows if not row["flag"]}
    assert set(places(audit)) <= unflagged
    assert len(audit) + report.same_image >= len(unflagged)
    assert places(audit) != sorted(places(audit))


def test_a_second_run_adds_nothing_and_reports_it(night: Night, tmp_path: Path) -> None:
    first = fill(night, tmp_path / "q.parquet", include_random="30%")
    before = (tmp_path / "q.parquet").read_bytes()
    again = fill(night, tmp_path / "q.parquet", include_random="30%")
    assert (again.handed_on, again.audit) == (0, 0)
    assert again.before == first.handed_on + first.audit + first.same_image
    assert "no new rows for" in again.to_text()
    assert (tmp_path / "q.parquet").read_bytes() == before
    assert fill(night, tmp_path / "other.parquet", project="other", include_random="30%").handed_on == first.handed_on


def recut(night: Night) -> None:
    """Write the same rows to shards with other names and sizes, and score them again."""
    tables = [pq.read_table(path) for path in sorted(night.input.rglob("*.parquet"))]
    shutil.rmtree(night.input)
    night.input.mkdir()
    whole = pa.concat_tables(tables)
    for index, start in enumerate(range(0, len(whole), 50)):
        pq.write_table(whole.slice(start, 50), night.input / f"cut-{index}.parquet")
    night.run()


def test_a_ledger_file_of_an_earlier_version_counts(night: Night, tmp_path: Path) -> None:
    """Its name has no underscore, which other readers of the folder need to skip the file."""
    first = fill(night, tmp_path / "q.parquet")
    files = list((night.results / "_queue.ledger").glob("*.pq"))
    others = [path.name for path in night.results.rglob("*") if path.is_file() and path.suffix != ".parquet"]
    assert [name for name in others if not name.startswith("_")] == []
    for file in files:
        file.rename(file.with_name(file.name.removeprefix("_")))
    assert fill(night, tmp_path / "r.parquet").before == first.handed_on + first.same_image > 10
    assert [path for path in (night.results / "_queue.ledger").iterdir() if not path.name.startswith("_")] == []


def test_known_images_are_not_read_again(night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This includes duplicates of other rows' images, and rows that were exported from other shards."""
    from screen.review.queue.fetch import Fetcher

    fill(night, tmp_path / "q.parquet")
    recut(night)
    fill(night, tmp_path / "again.parquet")
    fetched: list[Any] = []
    fetch = Fetcher.fetch

    def listen(self: Fetcher, places: Any) -> Any:
        fetched.extend(places)
        return fetch(self, places)

    monkeypatch.setattr(Fetcher, "fetch", listen)
    fill(night, tmp_path / "again.parquet")
    assert fetched == []


def test_splitting_the_rows_into_other_shards_exports_nothing_twice(night: Night, tmp_path: Path) -> None:
    """The audit sample is the same too, because the rows have ids."""
    first = fill(night, tmp_path / "q.parquet", include_random="40%")
    recut(night)
    again = fill(night, tmp_path / "again.parquet", include_random="40%")
    assert (again.handed_on, again.audit) == (0, 0)
    assert again.before >= 2 * (first.handed_on + first.audit)
    assert not again.shards, "exported rows need no shard"


def test_only_new_rows_of_the_next_night_are_added(night: Night, tmp_path: Path, digits: Any) -> None:
    from tests.conftest import encode

    first = fill(night, tmp_path / "one.parquet")
    write_shard(night.input / "c.parquet", [encode(image) for image in digits[:200]])  # 120 of them are known
    night.run()
    second = fill(night, tmp_path / "two.parquet")
    keys = [row["key"] for name in ("one", "two") for row in read_queue(tmp_path / f"{name}.parquet")]
    assert len(keys) == len(set(keys)) == first.handed_on + second.handed_on
    assert {row["shard"] for row in read_queue(tmp_path / "two.parquet")} == {"c.parquet"}


class Killed(BaseException):
    """Simulates SIGKILL: no code handles it."""


@pytest.mark.parametrize("to", ["parquet", "csv", "imagefolder", "label-studio-tasks"])
def test_a_kill_between_file_and_ledger_exports_nothing_twice(
    to: str, night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(ledger: Ledger, note: Path) -> None:
        raise Killed

    target = tmp_path / "q.json"
    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "confirm", die)
        with pytest.raises(Killed):
            fill(night, target, to)
    again = fill(night, tmp_path / "again.json", to)
    assert again.handed_on == 0
    assert "the images in that file count as exported" in again.to_text()
    assert not (tmp_path / "again.json").exists()
    assert "the images in that file count as exported" not in fill(night, tmp_path / "again.json", to).to_text()


@pytest.mark.parametrize("to", ["jsonl", "imagefolder"])
def test_a_kill_before_the_file_exists_loses_nothing(
    to: str, night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_pending = Ledger.add_pending

    def die(ledger: Ledger, *arguments: Any) -> Path:
        add_pending(ledger, *arguments)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "add_pending", die)
        with pytest.raises(Killed):
            fill(night, tmp_path / "q", to)
    assert not (tmp_path / "q").exists()
    again = fill(night, tmp_path / "q", to)
    assert "can be exported again" in again.to_text()
    assert again.handed_on > 10
    assert list(tmp_path.glob(".oodscreen-*")) == []


@pytest.mark.skipif(os.name != "posix", reason="Windows has no locks that the system releases")
@pytest.mark.parametrize("to", ["jsonl", "imagefolder"])
def test_the_next_export_removes_what_a_killed_one_left(to: str, night: Night, tmp_path: Path) -> None:
    (tmp_path / f"{UNLOCKED_PREFIX}0123").write_text("half a queue")
    (tmp_path / f"{UNLOCKED_PREFIX}4567").mkdir()
    fill(night, tmp_path / "q", to)
    assert list(tmp_path.glob(".oodscreen-*")) == []


@pytest.mark.parametrize("to", ["parquet", "csv", "imagefolder", "label-studio-tasks"])
def test_a_dry_run_prints_the_rows_that_are_then_exported_and_writes_nothing(
    to: str, night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(tmp_path)
    words = ("queue", night.results, "-o", tmp_path / "q", "--to", to, "--top", "25", "--include-random", "20%")
    assert oodscreen(*words, "--dry-run", "--json", monkeypatch=monkeypatch) == 0
    assert contents(tmp_path) == before
    printed = capsys.readouterr()
    planned = json.loads(printed.out)
    assert "dry run: nothing was written" in printed.err
    assert f"... and {planned['handed_on'] + planned['audit'] - 20} more row(s)" in printed.err
    assert oodscreen(*words, "--json", monkeypatch=monkeypatch) == 0
    exported = json.loads(capsys.readouterr().out)
    assert planned["dry_run"]
    assert {name: planned[name] for name in exported if name not in ("dry_run", "first_rows")} == {
        name: value for name, value in exported.items() if name not in ("dry_run", "first_rows")
    }
    if to == "parquet":
        rows = pq.read_table(tmp_path / "q").to_pylist()
        assert places(planned["first_rows"]) == places(rows)[:20]
        assert planned["first_rows"][0]["reason"] == rows[0]["flag_reason"]
    again = contents(tmp_path)
    assert oodscreen(*words[:3], tmp_path / "q2", *words[4:], "--dry-run", monkeypatch=monkeypatch) == 0
    assert f"exported earlier: {exported['handed_on'] + exported['audit']} row(s)" in capsys.readouterr().out
    assert oodscreen(*words, "--project", "other", "--dry-run", monkeypatch=monkeypatch) == 2
    assert "already exists" in capsys.readouterr().err
    assert contents(tmp_path) == again


def test_a_dry_run_leaves_the_ledger_of_a_killed_export(night: Night, tmp_path: Path) -> None:
    """Its images count as exported only if its file exists."""
    (tmp_path / "q.parquet").write_bytes(b"the file of the killed export")
    with open_ledger(night.results / "_queue.ledger", "default") as ledger:
        first = open_results(str(night.results))
        entries = [LedgerEntry(b"0" * 32, input_digest(first.entries[0]), row) for row in range(60)]
        ledger.add_pending(entries, tmp_path / "q.parquet", FileContent.of(tmp_path / "q.parquet"))
    before = contents(tmp_path)
    assert fill(night, tmp_path / "r.parquet", dry_run=True).before > 5
    (tmp_path / "q.parquet").write_bytes(b"another file")
    assert fill(night, tmp_path / "r.parquet", dry_run=True).before == 0
    (tmp_path / "q.parquet").write_bytes(b"the file of the killed export")
    assert contents(tmp_path) == before


def test_an_existing_target_is_not_replaced(night: Night, tmp_path: Path) -> None:
    (tmp_path / "q.parquet").write_text("earlier work")
    from export.errors import OutputRefused

    with pytest.raises(OutputRefused, match="already exists"):
        fill(night, tmp_path / "q.parquet")
    assert (tmp_path / "q.parquet").read_text() == "earlier work"
    assert fill(night, tmp_path / "other.parquet").handed_on > 10, "the refused queue is not in the ledger"


def test_a_changed_shard_exports_nothing_and_is_reported(night: Night, tmp_path: Path) -> None:
    table = pq.read_table(night.input / "a.parquet")
    pq.write_table(table.take(pa.array(list(reversed(range(len(table)))))), night.input / "a.parquet")
    report = fill(night, tmp_path / "q.parquet")
    assert report.shards == {"a.parquet": "changed since it was scored"}
    assert report.exit_code == 3
    assert {row["shard"] for row in read_queue(tmp_path / "q.parquet")} == {"sub/b.parquet"}
    assert "not exported: 'a.parquet' changed since it was scored" in report.to_text()


def test_rows_of_a_missing_shard_are_exported_when_it_is_back(night: Night, tmp_path: Path) -> None:
    (night.input / "a.parquet").rename(tmp_path / "a.parquet")
    report = fill(night, tmp_path / "q.parquet")
    assert "does not exist in" in report.shards["a.parquet"]
    assert report.exit_code == 3
    (tmp_path / "a.parquet").rename(night.input / "a.parquet")
    late = fill(night, tmp_path / "late.parquet")
    assert late.exit_code == 0
    assert {row["shard"] for row in read_queue(tmp_path / "late.parquet")} == {"a.parquet"}


def test_moved_shards_are_found_with_the_input_option(night: Night, tmp_path: Path) -> None:
    shutil.move(night.input, tmp_path / "elsewhere")
    os.utime(tmp_path / "elsewhere" / "a.parquet", (0, 0))  # copying changes the modification time
    assert fill(night, tmp_path / "q.parquet").exit_code == 3
    assert not (tmp_path / "q.parquet").exists()
    report = fill(night, tmp_path / "q.parquet", source=str(tmp_path / "elsewhere"))
    assert report.exit_code == 0
    assert report.handed_on > 10


def test_other_images_at_the_same_position_are_never_exported(night: Night, tmp_path: Path, digits: Any) -> None:
    """With --input, times are ignored; footers and row ids are compared."""
    from tests.conftest import encode

    write_shard(tmp_path / "else" / "a.parquet", [encode(image) for image in digits[200:260]], row_group_size=25)
    report = fill(night, tmp_path / "q.parquet", source=str(tmp_path / "else"))
    assert set(report.shards) == {"a.parquet", "sub/b.parquet"}
    assert not (tmp_path / "q.parquet").exists()


def test_a_copy_without_ids_is_identified_by_its_time(night: Night, tmp_path: Path, digits: Any) -> None:
    """Another shard can have the same size and footer, and generated ids are the same for every shard."""
    from screen.config import RunConfig
    from screen.run.runner import run_screening
    from tests.conftest import IMAGE_TYPE, Recorder, encode

    images = [{"bytes": encode(image), "path": None} for image in digits[:6]]
    (tmp_path / "bare").mkdir()
    pq.write_table(pa.table({"image": pa.array(images, IMAGE_TYPE)}), tmp_path / "bare" / "a.parquet")
    config = RunConfig(passes=2, device="cpu", flag_if="entropy >= 0")
    run_screening(night.model, str(tmp_path / "bare"), tmp_path / "bare-out", config, Recorder())
    shutil.move(tmp_path / "bare", tmp_path / "moved")
    bare = Night(night.model, tmp_path / "moved", tmp_path / "bare-out")
    time = (tmp_path / "moved" / "a.parquet").stat().st_mtime_ns
    os.utime(tmp_path / "moved" / "a.parquet", ns=(0, 0))
    report = fill(bare, tmp_path / "q.parquet", source=str(tmp_path / "moved"))
    assert "has a different modification time than the scored shard" in report.shards["a.parquet"]
    assert report.exit_code == 3
    assert not (tmp_path / "q.parquet").exists()
    os.utime(tmp_path / "moved" / "a.parquet", ns=(0, time))
    assert fill(bare, tmp_path / "q.parquet", source=str(tmp_path / "moved")).handed_on == 6


def test_a_shard_replaced_during_reading_is_left_out(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from screen.input.rows import read_chosen_rows as read

    def replace(shard: Any, *arguments: Any) -> Any:
        yield from read(shard, *arguments)
        if shard.name == "a.parquet":
            os.utime(shard.path)

    monkeypatch.setattr("screen.review.queue.fetch.read_chosen_rows", replace)
    report = fill(night, tmp_path / "q.parquet")
    assert report.shards == {"a.parquet": "changed while it was read"}
    assert {row["shard"] for row in read_queue(tmp_path / "q.parquet")} == {"sub/b.parquet"}


def test_results_without_flags_write_no_file(night: Night, tmp_path: Path) -> None:
    from screen.config import RunConfig
    from screen.run.runner import run_screening
    from tests.conftest import Recorder

    config = RunConfig(passes=2, device="cpu", flag_if="entropy > 99")
    run_screening(night.model, str(night.input / "a.parquet"), tmp_path / "calm", config, Recorder())
    calm = Night(night.model, night.input, tmp_path / "calm")
    report = fill(calm, tmp_path / "q.parquet")
    assert report.to_text() == f"0 of 60 rows are flagged\nno new rows for {tmp_path / 'q.parquet'}"
    assert report.exit_code == 0
    assert not (tmp_path / "q.parquet").exists()


def test_classes_have_the_names_that_the_run_recorded(night: Night) -> None:
    """`labels` without a model then uses the same names as `queue --model`."""
    record = night.results / "_run.json"
    values = json.loads(record.read_text())
    names = [f"digit {index}" for index in range(10)]
    record.write_text(json.dumps({**values, "class_names": names}))
    assert name_classes(open_results(str(night.results)), None)[0].names == tuple(names)
    record.write_text(json.dumps({**values, "class_names": names[:3]}))
    assert name_classes(open_results(str(night.results)), None)[0].names == tuple("0123456789")
    record.unlink()
    assert name_classes(open_results(str(night.results)), None)[0].names == tuple("0123456789")


def test_classes_without_names_are_numbers_with_the_model_and_without(night: Night) -> None:
    results = open_results(str(night.results))
    classes, contract = name_classes(results, None)
    assert contract is None
    assert classes.names == tuple("0123456789")
    assert name_classes(results, str(night.model))[0] == classes


def test_the_model_of_other_results_is_refused(night: Night, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(night.model)
    model.doc_string = "another"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(OptionRefused, match="the model of the results has the digest"):
        fill(night, tmp_path / "q.parquet", model=str(tmp_path / "other.onnx"))


def test_a_full_disk_leaves_neither_file_nor_ledger(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    for name, to in (
        ("table_files.pq.ParquetWriter", "parquet"),
        ("table_files.pyarrow.csv.CSVWriter", "csv"),
        ("file_targets.make_task", "label-studio-tasks"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(f"screen.review.queue.{name}", full)
            target = tmp_path / f"{name}.json"
            assert oodscreen("queue", night.results, "-o", target, "--to", to, monkeypatch=patched) == 1
        assert "No space left on device" in capsys.readouterr().err
        assert not target.exists()
        assert list(tmp_path.glob(".oodscreen-*")) == []
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert oodscreen("queue", night.results, "-o", tmp_path / "f", "--to", "imagefolder", monkeypatch=patched) == 1
    assert not (tmp_path / "f").exists()
    assert list(tmp_path.glob(".oodscreen-*")) == []
    assert fill(night, tmp_path / "q.parquet").handed_on > 10


def test_a_queue_locks_its_ledger(night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from screen.output.locks.hold import hold_output

    with hold_output(night.results / "_queue.ledger"), pytest.MonkeyPatch.context() as patched:
        assert oodscreen("queue", night.results, "-o", tmp_path / "q.parquet", monkeypatch=patched) == 75
    assert "at most one `oodscreen queue` with the same ledger" in capsys.readouterr().err


def test_results_that_a_run_writes_to_are_not_read(night: Night, tmp_path: Path) -> None:
    from screen.output.locks.hold import hold_output

    with hold_output(night.results), pytest.MonkeyPatch.context() as patched:
        assert oodscreen("queue", night.results, "-o", tmp_path / "q.parquet", monkeypatch=patched) == 75


def test_check_accepts_the_ledger(night: Night, tmp_path: Path) -> None:
    night.run()  # rewrites the paths in the copy's quarantine
    fill(night, tmp_path / "q.parquet")
    with pytest.MonkeyPatch.context() as patched:
        assert oodscreen("check", night.results, "--input", night.input, monkeypatch=patched) == 0
    night.run()
    assert fill(night, tmp_path / "again.parquet").handed_on == 0


def test_a_queue_in_results_or_input_is_refused(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link").symlink_to(night.results)
    for target, where in (
        (night.results / "q.parquet", "is in RESULTS"),
        (night.results / "deep" / "q.jsonl", "is in RESULTS"),
        (tmp_path / "link" / "q.parquet", "is in RESULTS"),
        (night.input / "q.parquet", "is in INPUT"),
    ):
        assert oodscreen("queue", night.results, "-o", target, monkeypatch=monkeypatch) == 2
        assert where in " ".join(capsys.readouterr().err.split())
        assert not target.exists()
    assert not (night.results / "_queue.ledger").exists()
    assert oodscreen("queue", night.results, "-o", night.input / "q.jsonl", monkeypatch=monkeypatch) == 0


REFUSED = {
    "nothing there": (["missing", "-o", "q.parquet"], "RESULTS missing does not exist"),
    "no results": (["{in}", "-o", "q.parquet"], "contains no _manifest.jsonl"),
    "no target": (["{out}"], "Neither --output nor"),
    "no format": (["{out}", "-o", "queue"], "has no extension that determines the format"),
    "unknown format": (["{out}", "-o", "q", "--to", "xlsx"], "--to is 'xlsx'"),
    "no images in csv": (["{out}", "-o", "q.csv", "--no-images"], "--no-images was given with"),
    "top": (["{out}", "-o", "q.parquet", "--top", "0"], "--top is 0"),
    "share": (["{out}", "-o", "q.parquet", "--include-random", "5"], "--include-random is '5'"),
    "too large a share": (["{out}", "-o", "q.parquet", "--include-random", "101%"], "--include-random is '101%'"),
    "reason": (["{out}", "-o", "q.parquet", "--reason", "boredom"], "--reason boredom is neither"),
    "order": (["{out}", "-o", "q.parquet", "--order-by", "shard"], "--order-by shard is not a score"),
    "no images": (["{out}", "-o", "q", "--to", "imagefolder", "--no-images"], "--no-images was given with"),
    "url in parquet": (
        ["{out}", "-o", "q.parquet", "--image-url", "http://x/{id}"],
        "has no effect in the format parquet",
    ),
    "url without a place": (
        ["{out}", "-o", "q.json", "--to", "label-studio-tasks", "--image-url", "http://x"],
        "--image-url",
    ),
    "url that reads attributes": (
        ["{out}", "-o", "q.json", "--to", "label-studio-tasks", "--image-url", "http://x/{id.__class__}"],
        "is not a valid template",
    ),
    "url with a conversion": (
        ["{out}", "-o", "q.json", "--to", "label-studio-tasks", "--image-url", "http://x/{row!z}"],
        "is not a valid template",
    ),
    "url with a format": (
        ["{out}", "-o", "q.json", "--to", "label-studio-tasks", "--image-url", "http://x/{row:d}"],
        "is not a valid template",
    ),
    "url with a width": (
        ["{out}", "-o", "q.json", "--to", "label-studio-tasks", "--image-url", "http://x/{row:>99999999}"],
        "is not a valid template",
    ),
    "tasks in xml": (["{out}", "-o", "q.XML", "--to", "label-studio-tasks"], "ends in .xml"),
    "no path": (
        ["{out}", "-o", "q.json", "--to", "label-studio-tasks", "--image-url", "http://x/{path}"],
        "contains {path}, but row",
    ),
    "no server": (["{out}", "--to", "label-studio"], "--url is missing"),
    "no address": (["{out}", "--to", "label-studio", "--url", "ftp://x"], "is not an address"),
    "server and file": (["{out}", "-o", "q.parquet", "--to", "label-studio"], "--output q.parquet was given with"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_options_are_refused_before_anything_is_written(
    case: str, night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, message = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LABEL_STUDIO_URL", raising=False)
    places = {"{in}": str(night.input), "{out}": str(night.results)}
    assert oodscreen("queue", *(places.get(word, word) for word in words), monkeypatch=monkeypatch) == 2
    assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}


def test_results_one_folder_deeper_are_named(night: Night, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        assert oodscreen("queue", night.results.parent, "-o", "q.parquet", monkeypatch=patched) == 2
    assert f"give one of {night.results}" in capsys.readouterr().err


def test_half_finished_results_are_refused(night: Night, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = night.results / "_manifest.jsonl"
    manifest.write_text("\n".join(manifest.read_text().splitlines()[:-1]) + "\n")
    with pytest.MonkeyPatch.context() as patched:
        assert oodscreen("queue", night.results, "-o", "q.parquet", monkeypatch=patched) == 2
    assert "did not finish" in capsys.readouterr().err


def test_a_result_shard_that_differs_from_the_manifest_is_refused(
    night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = night.results / "a.parquet"
    for damage in (lambda: path.write_bytes(path.read_bytes()[:500]), path.unlink):
        damage()
        with pytest.MonkeyPatch.context() as patched:
            assert oodscreen("queue", night.results, "-o", tmp_path / "q.parquet", monkeypatch=patched) == 2
        assert "cannot be used" in capsys.readouterr().err


def test_a_damaged_ledger_is_reported(night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(night, tmp_path / "q.parquet")
    part = next((night.results / "_queue.ledger").glob("*.pq"))
    part.write_bytes(b"nonsense")
    with pytest.MonkeyPatch.context() as patched:
        assert oodscreen("queue", night.results, "-o", tmp_path / "r.parquet", monkeypatch=patched) == 2
    assert "_queue.ledger" in capsys.readouterr().err


def test_the_command_prints_its_report_and_writes_it_as_json(
    night: Night, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words: list[str | Path] = [
        "queue",
        night.results,
        "-o",
        tmp_path / "q.jsonl",
        "--top",
        "5",
        "--include-random",
        "10%",
        "--json",
    ]
    assert oodscreen(*words, monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr()
    assert "exported to" in printed.err
    report = json.loads(printed.out)
    assert report["handed_on"] == 5
    assert report["audit"] == len(read_queue(tmp_path / "q.jsonl")) - 5


@pytest.mark.parametrize("to", ["parquet", "jsonl", "csv", "label-studio-tasks", "imagefolder"])
def test_a_file_size_limit_ends_with_one_message(to: str, night: Night, tmp_path: Path) -> None:
    """Simulates a full disk in a subprocess; the limit may affect the temporary file or the target."""
    words = ["queue", str(night.results), "-o", str(tmp_path / "q.json"), "--to", to]
    command = [str(Path(sys.executable).with_name("oodscreen")), *words]
    limited = ["sh", "-c", 'ulimit -f 8; exec "$@"', "sh", *command]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "could not be written: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}
    assert fill(night, tmp_path / "q.parquet").handed_on > 10
