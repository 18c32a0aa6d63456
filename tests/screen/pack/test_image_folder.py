"""Pack a folder of images: a row for every file, in a fixed order, and no file from outside the folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from export.errors import InputRefused, OutputRefused
from screen.pack import progress
from tests.conftest import oodscreen
from tests.screen.pack.packs import pack, rows_of, write_files


def test_a_row_has_the_bytes_the_class_folder_and_the_path_of_its_file(tmp_path: Path) -> None:
    files = {"dog/b c.png": b"1", "cat/10.JPG": b"\xff\xd8", "cat/9.jpeg": b"3", "ü %20/é.webp": b"4", "top.bmp": b"5"}
    pack(write_files(tmp_path / "in", files), tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert [row["id"] for row in rows] == ["cat/10.JPG", "cat/9.jpeg", "dog/b c.png", "top.bmp", "ü %20/é.webp"]
    assert [row["label"] for row in rows] == ["cat", "cat", "dog", None, "ü %20"]
    assert all(row["image"] == {"bytes": files[row["id"]], "path": row["id"]} for row in rows)


@pytest.mark.parametrize(("label_from", "labels"), [("first", ["train"]), ("last", ["cat"]), ("none", [None])])
def test_the_label_is_the_folder_that_was_chosen(tmp_path: Path, label_from: str, labels: list[str | None]) -> None:
    summary = pack(write_files(tmp_path / "in", {"train/cat/1.png": b"1"}), tmp_path / "out", label_from=label_from)
    assert [row["label"] for row in rows_of(tmp_path / "out")] == labels
    assert ("--label-from last" in summary.to_text()) == (label_from == "first")


def test_files_that_are_no_images_are_counted_and_named(tmp_path: Path) -> None:
    names = ["a/1.png", "a/.DS_Store", ".git/1.png", "a/notes.txt", "labels.csv", "plain"]
    summary = pack(write_files(tmp_path / "in", dict.fromkeys(names, b"1")), tmp_path / "out")
    assert summary.rows == 1
    assert summary.exit_code == 0
    text = summary.to_text()
    assert "3 file(s) without the ending of an image (no ending 1, .csv 1, .txt 1): " in text
    assert all(name in text for name in ("a/notes.txt", "labels.csv", "plain"))
    assert "2 name(s) that start with a dot: .git, a/.DS_Store" in text


def test_empty_broken_and_unreadable_files_have_rows(tmp_path: Path) -> None:
    """A run gives each of them its status; only files that cannot be read set the exit code of the pack."""
    source = write_files(tmp_path / "in", {"a/empty.png": b"", "a/text.png": b"no image", "outside.png": b"secret"})
    (tmp_path / "secret.png").write_bytes(b"secret")
    (source / "a" / "link.png").symlink_to("../outside.png")
    assert pack(source, tmp_path / "first").exit_code == 0
    (source / "a" / "evil.png").symlink_to("../../secret.png")
    (source / "a" / "lost.png").symlink_to("nowhere")
    (source / "a" / "loop.png").symlink_to("loop.png")
    (source / "up").symlink_to("..")
    os.mkfifo(source / "a" / "pipe.png")
    summary = pack(source, tmp_path / "out")
    images = {row["id"]: row["image"] and row["image"]["bytes"] for row in rows_of(tmp_path / "out")}
    assert images == {
        "a/empty.png": b"",
        "a/evil.png": None,
        "a/link.png": b"secret",
        "a/loop.png": None,
        "a/lost.png": None,
        "a/pipe.png": None,
        "a/text.png": b"no image",
        "outside.png": b"secret",
    }
    assert summary.exit_code == 3
    assert "rows without an image: 4: a/evil.png (a link to a file outside SOURCE, which is not followed)" in (
        summary.to_text()
    )
    assert "not read: 1: up/ (a link to a folder, which is not followed)" in summary.to_text()


def test_a_file_that_may_not_be_read_has_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from screen.pack import image_file

    def refuse(file: image_file.ImageFile, place: Path) -> tuple[bytes, int]:
        if "2" in file.name:
            raise PermissionError(13, "Permission denied")
        return b"1", 10**18

    monkeypatch.setattr(image_file, "_read", refuse)
    summary = pack(write_files(tmp_path / "in", {"1.png": b"1", "2.png": b"1"}), tmp_path / "out")
    assert [row["image"] for row in rows_of(tmp_path / "out")] == [{"bytes": b"1", "path": "1.png"}, None]
    assert "rows without an image: 1: 2.png (Permission denied)" in summary.to_text()


def test_names_that_are_not_utf_8_are_escaped(tmp_path: Path) -> None:
    write_files(tmp_path / "in", {os.fsdecode(b"caf\xe9/1.png"): b"1"})
    pack(tmp_path / "in", tmp_path / "out")
    assert [(row["label"], row["id"]) for row in rows_of(tmp_path / "out")] == [("caf\\xe9", "caf\\xe9/1.png")]


def test_names_with_control_characters_stay_on_one_line_of_the_summary(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"a\nb\x1b/1.png": b"1", "c\n.txt": b"1"})
    text = pack(source, tmp_path / "out").to_text()
    assert "labels: 1 (a\\nb\\x1b 1)\n" in text
    assert "(.txt 1): c\\n.txt\n" in text
    assert [row["label"] for row in rows_of(tmp_path / "out")] == ["a\nb\x1b"]


def test_shards_and_row_groups_end_at_their_limits(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {f"{number:04}.png": b"x" * 2**19 for number in range(7)})
    pack(source, tmp_path / "rows", shard_rows=3)
    pack(source, tmp_path / "size", shard_size=1)
    assert [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "rows").glob("*.parquet"))] == [3, 3, 1]
    assert [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "size").glob("*.parquet"))] == [2, 2, 2, 1]
    many = write_files(tmp_path / "many", {f"{number:04}.png": b"x" for number in range(1001)})
    pack(many, tmp_path / "groups")
    (path,) = (tmp_path / "groups").glob("*.parquet")
    assert [pq.read_metadata(path).row_group(index).num_rows for index in range(2)] == [1000, 1]


@pytest.mark.parametrize(
    ("name", "found", "step"),
    [
        ("a.zip", "is a zip file", "unzip -q '"),
        ("a b.tar.gz", "is a compressed tar", "tar -xf '"),
        ("a.jpg", "is a single image", "pack its folder"),
        ("a.txt", "is a file with the ending '.txt'", "if the file is a list of paths"),
        ("missing", "does not exist", "check the path"),
    ],
)
def test_another_source_is_refused_by_what_it_is(tmp_path: Path, name: str, found: str, step: str) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    if name != "missing":
        (folder / name).write_bytes(b"1")
    with pytest.raises(InputRefused) as refused:
        pack(folder / name, tmp_path / "out")
    assert found in refused.value.found
    assert step in refused.value.next_step
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([], "contains no image"),
        (["a/notes.txt", ".hidden.png"], "Skipped: 1 file(s) without the ending of an image (.txt 1)"),
        (["a.parquet"], "contains Parquet files, but no images"),
        (["a.png", "b.tar"], "contains image files and tars"),
    ],
)
def test_a_folder_without_images_is_refused(tmp_path: Path, names: list[str], found: str) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(InputRefused) as refused:
        pack(write_files(tmp_path / "in", dict.fromkeys(names, b"1")), tmp_path / "out")
    assert found in refused.value.found
    assert not (tmp_path / "out").exists()


def test_shards_are_never_written_into_the_source(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"1.png": b"1"})
    (tmp_path / "link").symlink_to("in")
    for shards in (source, source / "shards", tmp_path / "link" / "shards"):
        with pytest.raises(OutputRefused, match="is in SOURCE"):
            pack(source, shards)
    assert os.listdir(source) == ["1.png"]


def test_the_command_prints_what_it_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_files(tmp_path / "in", {"cat/1.png": b"1", "dog/2.png": b"2"})
    assert oodscreen("pack", source, tmp_path / "out", "--json", monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["labels"] == {"cat": 1, "dog": 1}
    assert printed.err.startswith("2 rows in 1 shard(s)")
    assert oodscreen("pack", source, tmp_path / "out", "--shard-rows", "0", monkeypatch=monkeypatch) == 2


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress_is_printed_as_lines_or_as_one_line_that_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_terminal: bool
) -> None:
    monkeypatch.setattr(progress, "_LINE_SECONDS", -1)
    monkeypatch.setattr(progress, "_TERMINAL_SECONDS", -1)
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal, raising=False)
    with progress.make_listener() as listener:
        listener.advanced(1, 2**20)
        listener.finished("images-000000.parquet")
        listener.advanced(1, 2**20)
    start, end = ("\r", "") if is_terminal else ("", "\n")
    first = f"{start}oodscreen: 1 rows packed, 1 MiB, 0 shard(s) finished{end}"
    second = f"{start}oodscreen: 2 rows packed, 2 MiB, 1 shard(s) finished\n"
    assert capsys.readouterr().err == first + second
