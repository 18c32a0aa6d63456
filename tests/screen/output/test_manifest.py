from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from export.errors import OutputRefused
from screen.input.shards import ShardRef, find_shards
from screen.output.manifest import Manifest
from screen.output.manifest_file import MANIFEST_NAME, ManifestFile
from screen.output.writer import WrittenShard
from tests.conftest import write_shard

IDENTITY: dict[str, Any] = {"model": "m", "seed": 1}


@pytest.fixture
def shards(tmp_path: Path) -> list[ShardRef]:
    for name in ("a.parquet", "b.parquet"):
        write_shard(tmp_path / "in" / name, [b"x"])
    return find_shards(str(tmp_path / "in"))[0]


def finish(manifest: Manifest, shard: ShardRef, output: Path) -> None:
    (output / shard.name).write_text("result")
    manifest.finish_shard(WrittenShard(shard, output / shard.name, 6, "0" * 64, 1, 0, {"ok": 1}))


def test_a_finished_shard_is_done_for_the_next_run(tmp_path: Path, shards: list[ShardRef]) -> None:
    out = tmp_path / "out"
    manifest = Manifest(out, IDENTITY, force=None)
    manifest.start()
    finish(manifest, shards[1], out)
    again = Manifest(out, IDENTITY, force=None)
    assert [again.reason_to_score(shard) for shard in shards] == ["new", None]


def test_a_changed_input_a_lost_result_or_a_cut_result_is_not_done(tmp_path: Path, shards: list[ShardRef]) -> None:
    out = tmp_path / "out"
    manifest = Manifest(out, IDENTITY, force=None)
    manifest.start()
    finish(manifest, shards[0], out)
    (out / "a.parquet").write_text("cut")
    assert manifest.reason_to_score(shards[0]) == "with a result of the wrong size"
    (out / "a.parquet").unlink()
    assert manifest.reason_to_score(shards[0]) == "with a missing result"
    (out / "a.parquet").write_text("result")
    assert manifest.reason_to_score(shards[0]) is None
    write_shard(tmp_path / "in" / "a.parquet", [b"y"])
    assert manifest.reason_to_score(find_shards(str(tmp_path / "in"))[0][0]) == "changed since they were scored"


def test_force_does_all_again_or_only_what_has_bad_rows(tmp_path: Path, shards: list[ShardRef]) -> None:
    out = tmp_path / "out"
    manifest = Manifest(out, IDENTITY, force=None)
    manifest.start()
    finish(manifest, shards[0], out)
    rows = {"shard": ["b.parquet"], "row": [0], "id": ["0"], "status": ["decode_failed"], "error": ["no image"]}
    pq.write_table(pa.table(rows), out / "b.parquet")
    size, statuses = (out / "b.parquet").stat().st_size, {"decode_failed": 1, "ok": 1}
    manifest.finish_shard(WrittenShard(shards[1], out / "b.parquet", size, "0" * 64, 2, 1, statuses))
    reasons = {
        force: [Manifest(out, IDENTITY, force=force).reason_to_score(shard) for shard in shards]
        for force in (None, "all", "quarantined")
    }
    assert reasons == {None: [None, None], "all": ["forced"] * 2, "quarantined": [None, "with quarantined rows"]}


def test_nothing_is_claimed_of_a_shard_that_is_about_to_be_scored(tmp_path: Path, shards: list[ShardRef]) -> None:
    out = tmp_path / "out"
    manifest = Manifest(out, IDENTITY, force=None)
    manifest.start()
    for shard in shards:
        finish(manifest, shard, out)
    manifest.finish()
    Manifest(out, IDENTITY, force="all").start(shards[:1])
    again = Manifest(out, IDENTITY, force=None)
    assert [again.reason_to_score(shard) for shard in shards] == ["new", None]


def test_a_shard_whose_input_is_gone_has_vanished_and_one_that_is_not_asked_for_has_not(
    tmp_path: Path, shards: list[ShardRef]
) -> None:
    out = tmp_path / "out"
    manifest = Manifest(out, IDENTITY, force=None)
    manifest.start()
    for shard in shards:
        finish(manifest, shard, out)
    assert manifest.vanished(["a.parquet"], shards[0].root) == []
    shards[1].path.unlink()
    assert manifest.vanished(["a.parquet"], shards[0].root) == ["b.parquet"]


def test_the_manifest_says_whether_the_run_came_to_its_end(tmp_path: Path, shards: list[ShardRef]) -> None:
    out = tmp_path / "out"
    manifest = Manifest(out, IDENTITY, force=None)
    manifest.start()
    finish(manifest, shards[0], out)
    there = ManifestFile.read(out)
    assert there is not None
    assert (there.finished, list(there.entries)) == (False, ["a.parquet"])
    manifest.finish()
    there = ManifestFile.read(out)
    assert there is not None
    assert (there.finished, list(there.entries)) == (True, ["a.parquet"])


def test_a_torn_last_line_is_taken_off(tmp_path: Path, shards: list[ShardRef]) -> None:
    out = tmp_path / "out"
    manifest = Manifest(out, IDENTITY, force=None)
    manifest.start()
    finish(manifest, shards[0], out)
    whole = (out / MANIFEST_NAME).read_text()
    (out / MANIFEST_NAME).write_text(whole + '{"shard": "b.par')
    again = Manifest(out, IDENTITY, force=None)
    assert again.reason_to_score(shards[0]) is None
    again.start()
    assert (out / MANIFEST_NAME).read_text() == whole


def test_the_order_of_finishing_does_not_show_in_the_end(tmp_path: Path, shards: list[ShardRef]) -> None:
    texts = []
    for name, order in (("one", shards), ("two", shards[::-1])):
        manifest = Manifest(tmp_path / name, IDENTITY, force=None)
        manifest.start()
        for shard in order:
            finish(manifest, shard, tmp_path / name)
        manifest.finish()
        texts.append((tmp_path / name / MANIFEST_NAME).read_text())
    assert texts[0] == texts[1]


def test_another_configuration_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    Manifest(tmp_path, IDENTITY, force=None).start()
    with pytest.raises(OutputRefused, match="seed: 1 instead of 2"):
        Manifest(tmp_path, {**IDENTITY, "seed": 2}, force=None)
    Manifest(tmp_path, {**IDENTITY, "seed": 2}, force="all")


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    for content in (b"\xff\xfe\n", b"[]\n", b"[1]\n", b"{}\n{}\n", b"nonsense\n", b""):
        (tmp_path / MANIFEST_NAME).write_bytes(content)
        with pytest.raises(OutputRefused):
            Manifest(tmp_path, IDENTITY, force=None)


def test_files_of_another_origin_are_not_overwritten(tmp_path: Path, shards: list[ShardRef]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.parquet").write_text("precious")
    with pytest.raises(OutputRefused, match="was not written by oodscreen"):
        Manifest(out, IDENTITY, force=None).refuse_foreign(shards)
