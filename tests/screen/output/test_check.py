"""`oodscreen check` finds every kind of defect in results, and none in complete results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from export.errors import InputRefused, OutputLocked
from screen.config import RunConfig
from screen.files.storage import FileContent
from screen.output.check import CheckReport, check_results
from screen.output.locks.hold import hold_output, refuse_if_held
from screen.output.manifest_file import MANIFEST_NAME
from screen.output.quarantine import QUARANTINE_NAME
from screen.run.runner import run_screening
from tests.conftest import Recorder, write_shard


@pytest.fixture(scope="module")
def whole(article_onnx: Path, digit_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `in` (good rows, unreadable rows and a shard without a footer) and the results `out`."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(digit_shards, folder / "in")
    write_shard(folder / "in" / "bad.parquet", [None, b"no image", encode_first(digit_shards)])
    (folder / "in" / "torn.parquet").write_bytes(b"PAR1 and no more")
    config = RunConfig(passes=3, keep=["label"], device="cpu")
    run_screening(article_onnx, str(folder / "in"), folder / "out", config, Recorder())
    return folder


def encode_first(shards: Path) -> bytes:
    data = pq.read_table(shards / "c.parquet")["image"][0].as_py()["bytes"]
    assert isinstance(data, bytes)
    return data


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage; modification times are kept, because they are in an input's fingerprint."""
    return Path(shutil.copytree(whole, tmp_path / "place", copy_function=shutil.copy2))


def check(folder: Path) -> CheckReport:
    return check_results(folder / "out", str(folder / "in"))


def test_whole_results_are_found_whole(folder: Path) -> None:
    report = check(folder)
    assert report.problems == ()
    assert (report.shards, report.rows, report.bad) == (5, 303, 2)
    assert ["torn.parquet" in note for note in report.notes] == [True]
    assert check_results(folder / "out").problems == ()
    assert json.loads(report.to_json())["rows"] == 303


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a result and its size and digest in the manifest, so that only the rows are wrong."""
    pq.write_table(change(pq.read_table(path)), path)
    content = FileContent.of(path)
    manifest = path.parent / MANIFEST_NAME
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    for line in lines:
        if line.get("shard") == path.name:
            line.update(size=content.size, sha256=content.sha256)
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))


def put(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(index), values)


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def unfinish(folder: Path) -> None:
    manifest = folder / "out" / MANIFEST_NAME
    manifest.write_text("".join(manifest.read_text().splitlines(keepends=True)[:-1]))


def change_header(folder: Path) -> None:
    manifest = folder / "out" / MANIFEST_NAME
    manifest.write_text(manifest.read_text().replace('"seed": 0', '"seed": 1', 1))


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "a result that is gone": (lambda folder: (folder / "out" / "a.parquet").unlink(), "'a.parquet': missing, or not"),
    "a result that is cut": (
        lambda folder: (folder / "out" / "a.parquet").write_bytes((folder / "out" / "a.parquet").read_bytes()[:-9]),
        "'a.parquet': cannot be read",
    ),
    "a changed byte": (lambda folder: flip_a_byte(folder / "out" / "a.parquet"), "SHA-256 differ"),
    "a lost row": (
        lambda folder: rewrite(folder / "out" / "a.parquet", lambda t: t.slice(0, 119)),
        "119 rows, wanted 120",
    ),
    "a doubled row": (
        lambda folder: rewrite(folder / "out" / "a.parquet", lambda t: pa.concat_tables([t, t.slice(119)])),
        "rows are not the shard's rows in input order",
    ),
    "rows in another order": (
        lambda folder: rewrite(folder / "out" / "a.parquet", lambda t: t.take(list(range(119, -1, -1)))),
        "rows are not the shard's rows in input order",
    ),
    "rows of another shard": (
        lambda folder: rewrite(folder / "out" / "c.parquet", lambda t: put(t, "shard", pa.array(["x.parquet"]))),
        "rows are not the shard's rows in input order",
    ),
    "a flag that was taken off": (
        lambda folder: rewrite(folder / "out" / "bad.parquet", lambda t: put(t, "flag", pa.array([False, True, True]))),
        "is not flagged",
    ),
    "a flag that was put on": (
        lambda folder: rewrite(folder / "out" / "a.parquet", lambda t: put(t, "flag", pa.array([True] * 120))),
        "120 rows flagged",
    ),
    "a score that no pass gave": (
        lambda folder: rewrite(
            folder / "out" / "bad.parquet", lambda t: put(t, "entropy", pa.array([0.1] * 3, pa.float32()))
        ),
        "an unreadable row has scores",
    ),
    "an unknown status": (
        lambda folder: rewrite(
            folder / "out" / "bad.parquet",
            lambda t: put(t, "status", pc.replace_substring(t["status"], "null_image", "odd").combine_chunks()),
        ),
        "unknown statuses: ['odd']",
    ),
    "a missing column": (
        lambda folder: rewrite(folder / "out" / "a.parquet", lambda t: t.drop_columns(["entropy"])),
        "wanted shard, row, id, label,",
    ),
    "a column of another type": (
        lambda folder: rewrite(folder / "out" / "a.parquet", lambda t: t.cast(widened(t.schema))),
        "column entropy is of type double, wanted float",
    ),
    "the metadata of another run": (
        lambda folder: rewrite(
            folder / "out" / "a.parquet", lambda t: t.replace_schema_metadata({b"oodscreen": b'{"seed": 9}'})
        ),
        "written with a configuration other than that of the manifest",
    ),
    "no metadata": (
        lambda folder: rewrite(folder / "out" / "a.parquet", lambda t: t.replace_schema_metadata({})),
        "written with a configuration other than that of the manifest",
    ),
    "a changed configuration": (change_header, "the configuration does not match its fingerprint"),
    "a stale staging file": (
        lambda folder: (folder / "out" / "sub" / ".oodscreen-0123").write_text("half"),
        "sub/.oodscreen-0123: stale staging file",
    ),
    "a file that no run wrote": (
        lambda folder: shutil.copy(folder / "in" / "a.parquet", folder / "out" / "z.parquet"),
        "'z.parquet': a Parquet file that the manifest does not list",
    ),
    "a run that did not end": (unfinish, "the last run did not finish"),
    "no quarantine": (lambda folder: (folder / "out" / QUARANTINE_NAME).unlink(), f"{QUARANTINE_NAME}: cannot be"),
    "a row missing in quarantine": (
        lambda folder: pq.write_table(
            pq.read_table(folder / "out" / QUARANTINE_NAME).slice(0, 2), folder / "out" / QUARANTINE_NAME
        ),
        "does not list exactly the rows that could not be scored",
    ),
    "a shard missing in quarantine": (
        lambda folder: pq.write_table(
            pq.read_table(folder / "out" / QUARANTINE_NAME).slice(1), folder / "out" / QUARANTINE_NAME
        ),
        "does not list the unreadable shard(s) 'torn.parquet'",
    ),
    "a new input shard": (
        lambda folder: shutil.copy2(folder / "in" / "a.parquet", folder / "in" / "n.parquet"),
        "'n.parquet': in INPUT, but without a result",
    ),
    "an input shard that changed": (
        lambda folder: write_shard(folder / "in" / "a.parquet", [None]),
        "'a.parquet': changed since it was scored",
    ),
}


def widened(schema: pa.Schema) -> pa.Schema:
    index = schema.get_field_index("entropy")
    return schema.set(index, schema.field(index).with_type(pa.float64()))


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found_and_named(name: str, folder: Path) -> None:
    break_it, expected = WRONG[name]
    break_it(folder)
    problems = check(folder).problems
    assert any(expected in problem for problem in problems), problems


def test_a_shard_that_vanished_from_input_is_a_note(folder: Path) -> None:
    (folder / "in" / "a.parquet").unlink()
    report = check(folder)
    assert report.problems == ()
    assert "'a.parquet': has a result, but is not in INPUT" in report.notes


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match=r"contains no _manifest\.jsonl"):
        check_results(tmp_path)


def test_results_are_not_checked_while_a_run_writes_them(folder: Path) -> None:
    refuse_if_held(folder / "out")
    with hold_output(folder / "out"), pytest.raises(OutputLocked, match="in use by process") as locked:
        refuse_if_held(folder / "out")
    assert locked.value.next_step == "wait until that run ends, then repeat this command"
    refuse_if_held(folder / "out")
