"""Pack the tars of a WebDataset: a row for each image, with the texts of its sample."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import fsspec
import pytest

from tests.screen.pack.packs import pack, rows_of


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_a_sample_is_a_row(tmp_path: Path) -> None:
    members = {
        "./a/01.cls": b"3\n",
        "./a/01.jpg": b"1",
        "./a/01.json": b'{"x": 1}',
        "a/02.png": b"",
        "a/02.txt": "Bär\xff".encode("latin-1"),
        "a/03.left.jpg": b"3",
        "a/03.right.jpg": b"4",
        "a/04.npy": b"5",
        "a/.05.jpg": b"6",
        "a/06.txt": b"without an image",
    }
    summary = pack(write_tar(tmp_path / "d.tar", members), tmp_path / "out")
    assert [(row["id"], row["label"], row["txt"], row["json"]) for row in rows_of(tmp_path / "out")] == [
        ("a/01", "3", None, '{"x": 1}'),
        ("a/02", None, "B\\xe4r\\xff", None),
        ("a/03.left.jpg", None, None, None),
        ("a/03.right.jpg", None, None, None),
    ]
    assert [row["image"] for row in rows_of(tmp_path / "out")] == [
        {"bytes": data, "path": name}
        for data, name in ((b"1", "a/01.jpg"), (b"", "a/02.png"), (b"3", "a/03.left.jpg"), (b"4", "a/03.right.jpg"))
    ]
    assert "2 file(s) without the ending of an image (.npy 1, .txt 1): a/04.npy, a/06.txt" in summary.to_text()
    assert "1 name(s) that start with a dot: a/.05.jpg" in summary.to_text()


def test_a_folder_of_tars_is_packed_in_the_order_of_names(tmp_path: Path) -> None:
    for number in (2, 1):
        write_tar(tmp_path / "in" / f"{number}.tar", {f"{number}{key}.jpg": b"1" for key in "ba"})
    (tmp_path / "in" / "README.md").write_text("text")
    summary = pack(tmp_path / "in", tmp_path / "out")
    assert [row["id"] for row in rows_of(tmp_path / "out")] == ["1b", "1a", "2b", "2a"]
    assert rows_of(tmp_path / "out")[0]["image"]["path"] == "1.tar/1b.jpg"
    assert "(.md 1): README.md" in summary.to_text()


def test_a_tar_in_a_store_is_packed_without_a_copy(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "d.tar", {"a.jpg": b"1", "a.cls": b"cat", "b.jpg": b"2"})
    store = fsspec.filesystem("memory")
    store.put(str(path), "/in/d.tar")
    try:
        pack("memory://in", tmp_path / "out")
    finally:
        store.rm("/in", recursive=True)
    assert [(row["label"], row["image"]["bytes"]) for row in rows_of(tmp_path / "out")] == [("cat", b"1"), (None, b"2")]


def test_links_and_names_in_a_tar_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    path = write_tar(tmp_path / "in" / "d.tar", {"../../secret.jpg": b"1", "/etc/passwd.jpg": b"2"})
    with tarfile.open(path, "a") as tar:
        for kind, name in ((tarfile.SYMTYPE, "link.jpg"), (tarfile.LNKTYPE, "hard.jpg")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(tmp_path / "secret.jpg")
            tar.addfile(member)
    summary = pack(path, tmp_path / "out")
    assert [row["image"]["bytes"] for row in rows_of(tmp_path / "out")] == [b"1", b"2"]
    assert summary.unread_count == 2
    assert summary.exit_code == 3


@pytest.mark.parametrize(
    ("damage", "reason", "rows"),
    [
        (lambda data: data[: 2 * 512 + 100], "unexpected end of data", 1),
        (lambda data: data[:1536] + b"\7" * 512 + data[2048:], "there is no valid header at byte 1536", 1),
        (lambda data: data + data, "there are data after the end of the tar", 4),
        (lambda data: b"no tar" * 100, "the tar is damaged", 0),
        (lambda data: data[: 512 + 100], "unexpected end of data", 1),
    ],
    ids=["truncated", "header", "concatenated", "text", "truncated in an image"],
)
def test_a_damaged_tar_is_named_and_the_others_are_packed(tmp_path: Path, damage, reason: str, rows: int) -> None:  # type: ignore[no-untyped-def]
    members = {"1.jpg": b"x" * 600, "2.jpg": b"2", "3.jpg": b"3", "4.jpg": b"4"}
    path = write_tar(tmp_path / "in" / "bad.tar", members)
    path.write_bytes(damage(path.read_bytes()))
    write_tar(tmp_path / "in" / "good.tar", {"g.jpg": b"g"})
    summary = pack(tmp_path / "in", tmp_path / "out")
    assert summary.rows == rows + 1
    assert summary.exit_code == 3
    assert "not read: 1: bad.tar (the tar is damaged: " in summary.to_text()
    assert reason in summary.to_text()
