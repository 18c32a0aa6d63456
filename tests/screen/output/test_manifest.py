from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from export.errors import OutputRefused
from screen.input.shards import ShardRef, find_shards
from screen.output.manifest import MANIFEST_NAME, Manifest
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
    manifest.finish_shard(WrittenShard(shard, output / shard.name, 1, 0, {"ok": 1}))


def test_a_finished_shard_is_done_for_the_next_run(tmp_path: Path, shards: list[ShardRef]) -> None:
    out = tmp_path / "out"
    manifest = Manifest(out, IDENTITY, force=False)
    manifest.start()
    finish(manifest, shards[1], out)
    again = Manifest(out, IDENTITY, force=False)
    assert [again.is_done(shard) for shard in shards] == [False, True]


def test_a_changed_input_a_lost_result_or_a_cut_result_is_not_done(tmp_path: Path, shards: list[ShardRef]) -> None:
    out = tmp_path / "out"
    manifest = Manifest(out, IDENTITY, force=False)
    manifest.start()
    finish(manifest, shards[0], out)
    (out / "a.parquet").write_text("cut")
    assert not manifest.is_done(shards[0])
    (out / "a.parquet").unlink()
    assert not manifest.is_done(shards[0])
    (out / "a.parquet").write_text("result")
    assert manifest.is_done(shards[0])
    write_shard(tmp_path / "in" / "a.parquet", [b"y"])
    assert not manifest.is_done(find_shards(str(tmp_path / "in"))[0][0])


def test_a_torn_last_line_is_taken_off(tmp_path: Path, shards: list[ShardRef]) -> None:
    out = tmp_path / "out"
    manifest = Manifest(out, IDENTITY, force=False)
    manifest.start()
    finish(manifest, shards[0], out)
    whole = (out / MANIFEST_NAME).read_text()
    (out / MANIFEST_NAME).write_text(whole + '{"shard": "b.par')
    again = Manifest(out, IDENTITY, force=False)
    assert again.is_done(shards[0])
    again.start()
    assert (out / MANIFEST_NAME).read_text() == whole


def test_the_order_of_finishing_does_not_show_in_the_end(tmp_path: Path, shards: list[ShardRef]) -> None:
    texts = []
    for name, order in (("one", shards), ("two", shards[::-1])):
        manifest = Manifest(tmp_path / name, IDENTITY, force=False)
        manifest.start()
        for shard in order:
            finish(manifest, shard, tmp_path / name)
        manifest.finish()
        texts.append((tmp_path / name / MANIFEST_NAME).read_text())
    assert texts[0] == texts[1]


def test_another_configuration_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    Manifest(tmp_path, IDENTITY, force=False).start()
    with pytest.raises(OutputRefused, match="seed: 1 there, 2 now"):
        Manifest(tmp_path, {**IDENTITY, "seed": 2}, force=False)
    Manifest(tmp_path, {**IDENTITY, "seed": 2}, force=True)


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    for content in (b"\xff\xfe\n", b"[]\n", b"[1]\n", b"{}\n{}\n", b"nonsense\n", b""):
        (tmp_path / MANIFEST_NAME).write_bytes(content)
        with pytest.raises(OutputRefused):
            Manifest(tmp_path, IDENTITY, force=False)


def test_files_of_another_origin_are_not_overwritten(tmp_path: Path, shards: list[ShardRef]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.parquet").write_text("precious")
    with pytest.raises(OutputRefused, match="no result of ours"):
        Manifest(out, IDENTITY, force=False).refuse_foreign(shards)
