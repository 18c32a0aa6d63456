"""An interrupted pack that is started again ends like an uninterrupted pack, or with an error that names the reason."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from export.errors import InputChanged, InputRefused, OutputLocked, OutputRefused, ReadFailed, Terminated
from screen.files import storage
from screen.pack import image_file, reading
from screen.pack.destination import hold_shards
from screen.run.stopping import StopRequest
from tests.screen.pack.packs import pack, rows_of, shard_files, write_files

FILES = {f"{'ab'[number % 2]}/{number:02}.png": bytes([number]) * 9 for number in range(11)}
SHARDS = [f"images-{number:06d}.parquet" for number in range(4)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_files(tmp_path / "in", FILES)


class StopAfter(StopRequest):
    """Stops a pack after some files."""

    def __init__(self, files: int) -> None:
        super().__init__()
        self._files = files

    def check(self) -> None:
        self._files -= 1
        if self._files < 0:
            self.record(signal.SIGTERM)
        super().check()


def test_an_interrupted_pack_continues_after_its_finished_shards(source: Path, tmp_path: Path) -> None:
    whole = pack(source, tmp_path / "whole", shard_rows=3)
    for files in (1, 3, 5, 9, 10, 11):
        shards = tmp_path / f"out-{files}"
        if files < 11:
            with pytest.raises(Terminated):
                pack(source, shards, StopAfter(files), shard_rows=3)
            assert set(shard_files(shards)) == set(SHARDS[: files // 3])
        summary = pack(source, shards, shard_rows=3)
        assert shard_files(shards) == shard_files(tmp_path / "whole")
        assert summary.skipped == (files // 3 if files < 11 else 0)
        assert summary.lasting_json() == whole.lasting_json()
        if summary.skipped:
            assert f"skipped, finished earlier and unchanged: {summary.skipped} shard(s)" in summary.to_text()


def test_a_finished_pack_reads_no_image_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(source, tmp_path / "out", shard_rows=3)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")}
    monkeypatch.setattr(reading, "read_image", None)
    assert pack(source, tmp_path / "out", shard_rows=3).skipped == 4
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")} == before


def test_a_shard_that_was_deleted_is_written_again(source: Path, tmp_path: Path) -> None:
    pack(source, tmp_path / "out", shard_rows=3)
    before = shard_files(tmp_path / "out")
    (tmp_path / "out" / SHARDS[1]).unlink()
    assert pack(source, tmp_path / "out", shard_rows=3).skipped == 3
    assert shard_files(tmp_path / "out") == before


def test_the_summary_exists_only_if_the_shards_are_complete(source: Path, tmp_path: Path) -> None:
    pack(source, tmp_path / "out", shard_rows=3)
    assert (tmp_path / "out" / ".pack" / "summary.json").exists()
    (tmp_path / "out" / SHARDS[1]).unlink()
    with pytest.raises(Terminated):
        pack(source, tmp_path / "out", StopAfter(4), shard_rows=3)
    assert not (tmp_path / "out" / ".pack" / "summary.json").exists()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (
            lambda source: write_files(source, {"a/000.png": b"new"}),
            "row 1 of the shard is 'a/02.png', and SOURCE now has 'a/000",
        ),
        (
            lambda source: (source / "a" / "04.png").unlink(),
            "row 2 of the shard is 'a/04.png', and SOURCE now has 'a/06.png'",
        ),
        (lambda source: (source / "b" / "03.png").write_bytes(b"9" * 9), "the modification time of a file has changed"),
        (lambda source: (source / "b" / "09.png").unlink(), "the shard has 2 rows, and SOURCE has only 1 file(s) left"),
        (
            lambda source: [(source / "b" / f"0{n}.png").unlink() for n in (7, 9)],
            "SOURCE has no files left for this shard",
        ),
    ],
    ids=["added", "removed", "changed", "shorter", "a shard shorter"],
)
def test_a_changed_source_is_refused(source: Path, tmp_path: Path, change: Any, found: str) -> None:
    pack(source, tmp_path / "out", shard_rows=3)
    before = shard_files(tmp_path / "out")
    change(source)
    with pytest.raises(InputRefused) as refused:
        pack(source, tmp_path / "out", shard_rows=3)
    assert refused.value.found.startswith("SOURCE has changed since images-00000")
    assert found in refused.value.found
    assert shard_files(tmp_path / "out") == before


def test_other_options_are_refused(source: Path, tmp_path: Path) -> None:
    pack(source, tmp_path / "out", shard_rows=3)
    with pytest.raises(OutputRefused, match="was packed with --shard-rows 3; this pack has --shard-rows 4"):
        pack(source, tmp_path / "out", shard_rows=4)
    (tmp_path / "list.csv").write_text("path\na/00.png\n")
    with pytest.raises(OutputRefused, match=r"source folder of images; this pack has .*source list of paths"):
        pack(tmp_path / "list.csv", tmp_path / "out", shard_rows=3, image_root=str(source))


@pytest.mark.parametrize("name", ["mine.parquet", "notes.txt", "images-1.parquet", "images-000000.parquet", "_lock"])
def test_files_that_no_pack_wrote_are_refused(source: Path, tmp_path: Path, name: str) -> None:
    write_files(tmp_path / "out", {name: b"mine"})
    with pytest.raises(OutputRefused) as refused:
        pack(source, tmp_path / "out")
    assert name in refused.value.found
    assert shard_files(tmp_path / "out").get(name, b"mine") == b"mine"


def test_shards_that_are_a_file_are_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    with pytest.raises(OutputRefused, match="is not a folder"):
        pack(source, tmp_path / "out")


def test_a_second_pack_is_locked_out(source: Path, tmp_path: Path) -> None:
    with hold_shards(tmp_path / "out"), pytest.raises(OutputLocked, match="is in use by process") as refused:
        pack(source, tmp_path / "out")
    assert "at most one pack" in refused.value.wanted


def test_a_stale_staging_file_is_removed(source: Path, tmp_path: Path) -> None:
    write_files(tmp_path / "out", {f"{storage.STAGING_PREFIX}0": b"half a shard"})
    pack(source, tmp_path / "out")
    assert set(shard_files(tmp_path / "out")) == {SHARDS[0], ".pack/summary.json"}


@pytest.mark.parametrize("change", ["grows", "vanishes", "keeps its size"])
def test_a_file_that_changes_while_it_is_packed_ends_the_pack(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    real = image_file._read

    def meddle(file: image_file.ImageFile, place: Path) -> tuple[bytes, int | str]:
        if file.name == "b/03.png":
            place.unlink() if change == "vanishes" else place.write_bytes(b"x" * (90 if change == "grows" else 9))
        return real(file, place)

    monkeypatch.setattr(image_file, "_read", meddle)
    with pytest.raises(InputChanged, match=r"b/03\.png changed or was removed"):
        pack(source, tmp_path / "out", shard_rows=3)
    assert set(shard_files(tmp_path / "out")) == set(SHARDS[:2])


def test_a_failing_disk_ends_the_pack(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows after the failure would be rows without images."""

    def fail(file: image_file.ImageFile, place: Path) -> tuple[bytes, int]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(image_file, "_read", fail)
    with pytest.raises(ReadFailed, match=r"a/00\.png could not be read: Input/output error"):
        pack(source, tmp_path / "out")
    assert shard_files(tmp_path / "out") == {}


def test_a_file_that_is_too_large_is_not_read(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_file, "MOST_BYTES", 9)
    with open(source / "b" / "99.png", "wb") as file:
        file.truncate(10)
    summary = pack(source, tmp_path / "out")
    assert [row["image"] is None for row in rows_of(tmp_path / "out")] == [False] * 11 + [True]
    assert "b/99.png (the file has 10 bytes, more than the limit of 9)" in summary.to_text()


@pytest.fixture
def store() -> Iterator[Any]:
    memory = fsspec.filesystem("memory")
    yield memory
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def test_a_store_is_packed_as_a_folder_is(source: Path, tmp_path: Path, store: Any) -> None:
    (source / "list.csv").write_text(
        "path\nb/03.png\n../x.png\nmemory://in/a/00.png\nmemory://in/a/00.png/../../x\nmemory://x.png\nno\n"
    )
    store.put(str(source), "/in", recursive=True)
    pack("memory://in", "memory://out", shard_rows=3)
    store.get("/out", str(tmp_path / "out"), recursive=True)
    assert [(row["id"], row["image"]["bytes"]) for row in rows_of(tmp_path / "out")] == sorted(FILES.items())
    store.rm("/out/images-000001.parquet")
    assert pack("memory://in", "memory://out", shard_rows=3).skipped == 3
    store.pipe("/in/a/00.png", b"changed")
    with pytest.raises(InputRefused, match="SOURCE has changed since images-000000"):
        pack("memory://in", "memory://out", shard_rows=3)
    store.pipe("/x.png", b"outside")
    summary = pack("memory://in/list.csv", "memory://listed")
    assert summary.to_text().count("the path leads out of memory://in") == 3
    store.get("/listed", str(tmp_path / "listed"), recursive=True)
    images = [row["image"] and row["image"]["bytes"] for row in rows_of(tmp_path / "listed")]
    assert images == [FILES["b/03.png"], None, b"changed", None, None, None]


def test_links_to_shards_are_not_shards(source: Path, tmp_path: Path) -> None:
    pack(source, tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / SHARDS[0]).symlink_to(tmp_path / "out" / SHARDS[0])
    with pytest.raises(OutputRefused, match="did not write: images-000000"):
        pack(source, tmp_path / "other")


def test_a_large_folder_is_read_in_the_order_of_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from screen.pack.sources import walk

    monkeypatch.setattr(walk, "_NAMES", 4)
    names = [f"{number}.png" for number in range(30)] + ["Z.png", "ü.png", "a/1.png", "a.png"]
    pack(write_files(tmp_path / "in", dict.fromkeys(names, b"1")), tmp_path / "out")
    found = [row["id"] for row in rows_of(tmp_path / "out")]
    top = sorted({name.split("/")[0] for name in names}, key=os.fsencode)
    assert [name.split("/")[0] for name in found] == top
