"""Runs in parts, as in a job array: the parts share one OUTPUT, and their results equal those of a whole run."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from numpy.typing import NDArray

from export.errors import ExitCode, OptionRefused, OutputLocked, OutputRefused
from screen.config import RunConfig
from screen.files.paths import as_path
from screen.output.check import check_results
from screen.output.history import HISTORY_FOLDER, read_history
from screen.output.locks.hold import LOCK_NAME, hold_output, refuse_if_held
from screen.output.manifest_file import MANIFEST_NAME, ManifestFile
from screen.output.parts import close_partitions
from screen.output.quarantine import QUARANTINE_NAME
from screen.output.record import RECORD_NAME
from screen.partition import ShardPartition
from screen.review.results import open_results
from screen.run.runner import run_screening
from screen.run.summary import RunSummary
from tests.conftest import Recorder, contents, encode, read_results, write_shard


def run(
    model: str | Path,
    source: str | Path,
    output: str | Path,
    part: str | None = None,
    listener: Recorder | None = None,
    **options: Any,
) -> RunSummary:
    config = RunConfig(**{"passes": 2, "device": "cpu", "part": part, **options})
    return run_screening(model, str(source), output, config, listener or Recorder())


@pytest.fixture
def source(digits: NDArray[np.uint8], tmp_path: Path) -> Path:
    """Seven shards, one of which has unreadable rows, and a file that is not Parquet."""
    encoded: list[bytes | None] = [encode(image) for image in digits[:40]]
    for index, rows in enumerate((3, 9, 1, 0, 7, 12, 5)):
        write_shard(tmp_path / "in" / f"{index}.parquet", [*encoded[:rows], *([None, b"x"] if index == 4 else [])])
    (tmp_path / "in" / "5b.parquet").write_bytes(b"PAR1 no footer")
    return tmp_path / "in"


@pytest.fixture
def whole(article_onnx: Path, source: Path, tmp_path: Path) -> dict[str, bytes]:
    run(article_onnx, source, tmp_path / "whole")
    return contents(tmp_path / "whole")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no names that are not UTF-8")
def test_a_part_with_names_that_are_not_utf8_adds_nothing_to_a_closed_run(
    article_onnx: Path, source: Path, tmp_path: Path
) -> None:
    for index in range(8):
        (source / os.fsdecode(b"%d\xe9.parquet" % index)).write_bytes(b"no Parquet")
    output = tmp_path / "out"
    run(article_onnx, source, output, "1/2")
    for part in ("2/2", "1/2", "2/2"):
        run(article_onnx, source, output, part)
        assert check_results(output, str(source)).problems == ()


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/0", "a/b", "1/2/3", "-1/3"])
def test_an_invalid_part_is_refused(text: str) -> None:
    with pytest.raises(OptionRefused, match="--part is"):
        RunConfig(part=text)


@pytest.mark.parametrize("count", [1, 3, 8, 20])
def test_every_shard_belongs_to_one_part_and_shares_are_even_on_average(count: int) -> None:
    names = [f"{index:05d}.parquet" for index in range(100 * count)] + ["\udcff.parquet"]
    parts = [ShardPartition(index, count) for index in range(1, count + 1)]
    owners = [[part for part in parts if part.contains(name)] for name in names]
    assert {len(one) for one in owners} == {1}
    shares = [sum(part in one for one in owners) for part in parts]
    assert min(shares) > 60
    assert max(shares) < 140


@pytest.mark.parametrize("count", [1, 3, 11])
def test_parts_in_any_order_give_the_results_of_a_whole_run(
    article_onnx: Path, source: Path, tmp_path: Path, whole: dict[str, bytes], count: int
) -> None:
    """Eleven parts are more than there are shards."""
    summaries = [run(article_onnx, source, tmp_path / "out", f"{index}/{count}") for index in range(count, 0, -1)]
    assert contents(tmp_path / "out") == whole
    assert [len(summary.open_parts) for summary in summaries] == list(range(count - 1, -1, -1))
    assert sum(summary.rows for summary in summaries) == 39
    assert {summary.exit_code for summary in summaries} >= {ExitCode.UNREADABLE_INPUT}
    assert check_results(tmp_path / "out", str(source)).problems == ()


def test_the_last_part_records_the_class_names_and_the_counts_of_all_parts(
    article_onnx: Path, source: Path, tmp_path: Path
) -> None:
    names = tuple("abcdefghij")
    for index in (1, 2, 3):
        assert not (tmp_path / "out" / RECORD_NAME).exists()
        run(article_onnx, source, tmp_path / "out", f"{index}/3", class_names=names)
    results = open_results(str(tmp_path / "out"))
    assert results.class_names == names
    assert results.record is not None
    assert (results.record.shards, results.record.rows) == (7, 39)
    written = (tmp_path / "out" / RECORD_NAME).read_bytes()
    for index in (1, 2, 3):
        run(article_onnx, source, tmp_path / "out", f"{index}/3")
    assert (tmp_path / "out" / RECORD_NAME).read_bytes() == written
    for index in (1, 2, 3):
        run(article_onnx, source, tmp_path / "out", f"{index}/3", class_names=names[::-1])
    assert open_results(str(tmp_path / "out")).class_names == names[::-1]


def test_check_says_which_parts_are_missing(article_onnx: Path, source: Path, tmp_path: Path) -> None:
    for index in (1, 4):
        run(article_onnx, source, tmp_path / "out", f"{index}/4")
    report = check_results(tmp_path / "out")
    assert report.problems == ("unfinished part(s): 2/4, 3/4; run them",)
    assert report.open_parts == ("2/4", "3/4")
    assert "run the unfinished parts: --part 2/4, --part 3/4; then check again" in report.to_text()
    assert "remove the files" not in report.to_text()
    assert not (tmp_path / "out" / RECORD_NAME).exists()
    there = ManifestFile.read(tmp_path / "out")
    assert there is not None
    assert sorted(there.entries) == ["0.parquet", "1.parquet"]


class Killed(Exception):
    pass


def die(finished: int) -> None:
    raise Killed


@pytest.mark.parametrize("dies", [1, 2, 3])
def test_any_part_may_be_killed_and_run_again(
    article_onnx: Path, source: Path, tmp_path: Path, whole: dict[str, bytes], dies: int
) -> None:
    for index in (1, 2, 3):
        if index == dies:
            with pytest.raises(Killed):
                run(article_onnx, source, tmp_path / "out", f"{index}/3", listener=Recorder(die))
            (tmp_path / "out" / f".oodscreen-{index}-of-3-0123").write_text("half a shard")
        else:
            run(article_onnx, source, tmp_path / "out", f"{index}/3")
    assert MANIFEST_NAME not in contents(tmp_path / "out")
    again = run(article_onnx, source, tmp_path / "out", f"{dies}/3")
    assert (again.open_parts, len(again.earlier)) == ((), 1)
    assert contents(tmp_path / "out") == whole


def test_a_part_keeps_the_staging_files_of_other_parts(article_onnx: Path, source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".oodscreen-12-of-13-0123").write_text("half a shard")
    run(article_onnx, source, tmp_path / "out", "2/13")
    assert (tmp_path / "out" / ".oodscreen-12-of-13-0123").exists()


def test_a_part_with_another_configuration_than_the_other_parts_is_refused(
    article_onnx: Path, source: Path, tmp_path: Path
) -> None:
    run(article_onnx, source, tmp_path / "out", "1/2")
    before = contents(tmp_path / "out")
    with pytest.raises(OutputRefused, match=r"_manifest.1-of-2.jsonl .*passes: 2 instead of 3"):
        run(article_onnx, source, tmp_path / "out", "2/2", passes=3)
    with pytest.raises(OutputRefused, match="was started with 2 parts, but --part is 2/3"):
        run(article_onnx, source, tmp_path / "out", "2/3")
    assert contents(tmp_path / "out") == before


def test_parts_that_are_forced_replace_another_configuration_when_all_are_done(
    article_onnx: Path, source: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    run(article_onnx, source, tmp_path / "out", passes=3)
    run(article_onnx, source, tmp_path / "out", "1/2", force="all")
    with pytest.raises(OutputRefused, match="passes: 2 instead of 3"):
        run(article_onnx, source, tmp_path / "out", "2/2", passes=3)
    run(article_onnx, source, tmp_path / "out", "2/2", force="all")
    assert contents(tmp_path / "out") == whole


def test_parts_of_another_configuration_that_are_forced_wait_for_each_other(
    article_onnx: Path, source: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    run(article_onnx, source, out, "1/2", passes=3)
    first = run(article_onnx, source, out, "2/2", force="all")
    assert [str(part) for part in first.open_parts] == ["1/2"]
    with pytest.raises(OutputRefused, match="another configuration than part 1/2"):
        run(article_onnx, source, out, "1/2")
    assert run(article_onnx, source, out, "1/2", force="all").open_parts == ()
    assert contents(out) == whole


def test_a_whole_run_scores_the_missing_shards_and_merges_the_parts(
    article_onnx: Path, source: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    run(article_onnx, source, tmp_path / "out", "2/3")
    summary = run(article_onnx, source, tmp_path / "out")
    assert summary.skipped == ["4.parquet", "6.parquet"]
    assert contents(tmp_path / "out") == whole


def test_later_parts_score_only_new_shards_whichever_part_scored_the_others(
    article_onnx: Path, source: Path, tmp_path: Path, digits: NDArray[np.uint8]
) -> None:
    """Another number of parts assigns the shards to other parts."""
    encoded = [encode(image) for image in digits[:9]]
    for index in (1, 2):
        run(article_onnx, source, tmp_path / "out", f"{index}/2")
    write_shard(source / "00.parquet", encoded[:2])
    write_shard(source / "6.parquet", encoded[:8])
    summaries = [run(article_onnx, source, tmp_path / "out", f"{index}/3") for index in (1, 2, 3)]
    assert sorted(name for one in summaries for name in one.reasons) == ["00.parquet", "6.parquet"]
    assert summaries[-1].open_parts == ()
    run(article_onnx, source, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_part_that_finds_nothing_to_do_leaves_a_closed_output_closed(
    article_onnx: Path, source: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    for part in ("1/2", "2/2"):
        run(article_onnx, source, out, part)
    again = run(article_onnx, source, out, "2/2")
    assert (again.rows, again.open_parts) == (0, ())
    assert check_results(out, str(source)).problems == ()
    run(article_onnx, source, out, "1/2")
    assert contents(out) == whole


def test_a_part_that_found_nothing_to_do_still_waits_for_one_that_does(
    article_onnx: Path, source: Path, tmp_path: Path, digits: NDArray[np.uint8]
) -> None:
    out = tmp_path / "out"
    for part in ("1/2", "2/2"):
        run(article_onnx, source, out, part)
    new = next(f"n{index}.parquet" for index in range(99) if ShardPartition(2, 2).contains(f"n{index}.parquet"))
    write_shard(source / new, [encode(digits[0])])
    run(article_onnx, source, out, "1/2")
    assert run(article_onnx, source, out, "2/2").open_parts == ()
    assert new in contents(out)
    assert check_results(out, str(source)).problems == ()


def test_a_killed_part_with_force_scores_only_the_remaining_shards_again(
    article_onnx: Path, source: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    run(article_onnx, source, out)
    own = [f"{index}.parquet" for index in range(7) if ShardPartition(2, 2).contains(f"{index}.parquet")]
    with pytest.raises(Killed):
        run(article_onnx, source, out, "2/2", listener=Recorder(die), force="all")
    with pytest.raises(Killed):
        run(article_onnx, source, out, "2/2", listener=Recorder(die))
    assert list(run(article_onnx, source, out, "2/2").reasons) == own[2:]
    assert check_results(out, str(source)).problems == ()
    run(article_onnx, source, out, "1/2")
    assert contents(out) == whole


def test_a_vanished_shard_is_reported_by_its_own_part(article_onnx: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for part in ("1/2", "2/2"):
        run(article_onnx, source, out, part)
    (source / "3.parquet").unlink()
    vanished = {
        str(part): run(article_onnx, source, out, str(part)).vanished
        for part in (ShardPartition(1, 2), ShardPartition(2, 2))
    }
    assert vanished == {
        str(part): ["3.parquet"] * part.contains("3.parquet") for part in (ShardPartition(1, 2), ShardPartition(2, 2))
    }


def test_a_forced_job_array_is_merged_although_a_part_was_killed_before(
    article_onnx: Path, source: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    run(article_onnx, source, out, "2/2")
    with pytest.raises(Killed):
        run(article_onnx, source, out, "1/2", listener=Recorder(die))
    for part in ("1/2", "2/2"):
        run(article_onnx, source, out, part, force="all")
    assert check_results(out, str(source)).problems == ()
    run(article_onnx, source, out, "1/2")
    assert contents(out) == whole


def test_a_shard_added_while_parts_run_does_not_move_other_shards(
    article_onnx: Path, source: Path, tmp_path: Path, digits: NDArray[np.uint8]
) -> None:
    """The original shards have results; new shards that no part has seen are scored by the next run."""
    run(article_onnx, source, tmp_path / "out", "1/3")
    for index in range(9):
        write_shard(source / f"00{index}.parquet", [encode(digits[index])])
    for part in ("2/3", "3/3"):
        run(article_onnx, source, tmp_path / "out", part)
    assert {f"{index}.parquet" for index in range(7)} <= contents(tmp_path / "out").keys()
    run(article_onnx, source, tmp_path / "out")
    run(article_onnx, source, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_parts_run_at_the_same_time_but_not_with_a_whole_run(
    article_onnx: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("screen.output.locks.hold._PROBE_SECONDS", 0.1)
    out = tmp_path / "out"
    with hold_output(out, ShardPartition(1, 2)):
        run(article_onnx, source, out, "2/2")
        with pytest.raises(OutputLocked, match=r"Part 1/2 of .* is in use by process"):
            run(article_onnx, source, out, "1/2")
        with pytest.raises(OutputLocked, match="Part 1/2 of"):
            run(article_onnx, source, out)
        with pytest.raises(OutputLocked, match="Part 1/2 of"):
            refuse_if_held(out)
    with hold_output(out), pytest.raises(OutputLocked, match="out is in use by"):
        run(article_onnx, source, out, "1/2")


def test_parts_that_cannot_be_merged_now_can_be_merged_later(
    article_onnx: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]
) -> None:
    monkeypatch.setattr("screen.output.locks.hold._PROBE_SECONDS", 0.01)
    monkeypatch.setattr("screen.output.parts._WAIT_SECONDS", 0.01)
    out = tmp_path / "out"
    run(article_onnx, source, out, "1/2")
    with hold_output(out, ShardPartition(1, 2)), pytest.raises(OutputLocked, match="Part 1/2"):
        run(article_onnx, source, out, "2/2")
    assert check_results(out).problems == (
        "all parts are finished, but their manifests are not merged; repeat the `oodscreen run` of any part",
    )
    assert close_partitions(out) == ()
    assert contents(out) == whole


def test_kept_columns_of_a_part_are_compared_with_the_first_shard_of_all(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from export.errors import InputRefused

    (tmp_path / "in").mkdir()
    for name, values in (("a", pa.array([1], pa.int64())), ("b", pa.array([1], pa.int32())), ("d", pa.array(["x"]))):
        pq.write_table(pa.table({"image": [encode(digits[0])], "number": values}), tmp_path / "in" / f"{name}.parquet")
    text = ShardPartition.parse(next(f"{k}/2" for k in (1, 2) if ShardPartition.parse(f"{k}/2").contains("d.parquet")))
    with pytest.raises(InputRefused, match=r"has the type int64 in a\.parquet, but string in d\.parquet"):
        run(article_onnx, tmp_path / "in", tmp_path / "out", str(text), keep=["number"])
    (tmp_path / "in" / "d.parquet").unlink()
    for part in ("1/2", "2/2"):
        run(article_onnx, tmp_path / "in", tmp_path / "out", part, keep=["number"])
    assert read_results(tmp_path / "out")["number"].to_pylist() == [1, 1]


def test_the_part_is_reported_in_text_and_json(article_onnx: Path, source: Path, tmp_path: Path) -> None:
    first = run(article_onnx, source, tmp_path / "out", "1/2")
    assert "part 1/2 is finished; 1 unfinished part(s): 2/2" in first.to_text()
    values = json.loads(first.to_json())
    assert (values["part"], values["open_parts"]) == ("1/2", ["2/2"])
    assert (
        "part 2/2 is finished; all parts are finished, and their manifests are merged"
        in run(article_onnx, source, tmp_path / "out", "2/2").to_text()
    )


@pytest.fixture
def memory() -> Iterator[Any]:
    store = fsspec.filesystem("memory")
    yield store
    store.store.clear()
    store.pseudo_dirs[:] = [""]


def test_parts_in_a_store_give_the_results_of_a_whole_run(
    article_onnx: Path, source: Path, memory: Any, whole: dict[str, bytes]
) -> None:
    with pytest.raises(Killed):
        run(article_onnx, source, "memory://out", "2/2", listener=Recorder(die))
    run(article_onnx, source, "memory://out", "1/2")
    there = ManifestFile.read(as_path("memory://out"))
    assert there is not None
    assert [str(part) for part in there.missing] == ["2/2"]
    with (
        hold_output(as_path("memory://out"), ShardPartition(1, 2)),
        pytest.raises(OutputLocked, match="Part 1/2"),
    ):
        run(article_onnx, source, "memory://out")
    assert len(run(article_onnx, source, "memory://out", "2/2").earlier) == 1
    left_out = (RECORD_NAME, LOCK_NAME, HISTORY_FOLDER)
    names = [name for name in memory.find("/out") if not name.removeprefix("/out/").startswith(left_out)]
    found = {name.removeprefix("/out/"): memory.cat(name) for name in names}
    entries = ManifestFile.require(as_path("memory://out")).entries.values()
    assert [night.rows for night in read_history(as_path("memory://out")).nights] == [sum(one.rows for one in entries)]
    assert found.keys() == whole.keys()
    for name in found.keys() - {QUARANTINE_NAME}:
        assert found[name] == whole[name], name
