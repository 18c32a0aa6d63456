"""The listing of INPUT: shards, unlisted folders, and the number of skipped files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem
from upath import UPath

from export.errors import InputRefused, ReadFailed
from screen.files.listed import Listing
from screen.files.listing import list_shards
from screen.files.paths import base_name, name_place


def as_upath(address: str) -> Any:
    """The path of an address, which is not connected to."""
    return UPath(address)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def names(listing: Listing) -> list[str]:
    return [file.name for file in listing.files]


def unlisted(listing: Listing) -> list[str]:
    return [one.name for one in listing.unlisted]


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """Folders whose listing the system refuses, to be filled; the tests may run as a user who may list all."""
    refused: set[Path] = set()
    scan = os.scandir

    def scandir(folder: Any) -> Any:
        if Path(folder) in refused:
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    return refused


@pytest.mark.hostile(
    "A link in INPUT that leads to a folder above the link",
    "each folder is searched once; a link to a folder that was already searched is counted as skipped",
)
def test_a_linked_folder_is_searched_and_no_folder_twice(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.parquet", "in/day/b.parquet", "elsewhere/deep/c.parquet")
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/latest").symlink_to("day")
    (tmp_path / "in/day/up").symlink_to("..")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "in")
    listing = list_shards(str(tmp_path / "in"))
    assert names(listing) == ["a.parquet", "day/b.parquet", "linked/deep/c.parquet"]
    assert listing.passed_over.listed == 3
    assert tmp_path / "in/linked" in listing.folders
    assert listing.unlisted == ()


def test_a_glob_finds_what_glob_finds_and_ends_at_a_circle(tmp_path: Path) -> None:
    import glob

    touch(tmp_path, "a.parquet", "day/b.parquet", "_s/x.parquet", ".h/y.parquet", ".z.parquet", "day/no.txt")
    (tmp_path / "latest").symlink_to("day")
    for pattern in ("**/*.parquet", "*", "**", "*/b.parquet", "[a]*", "**/day/*", ".*", "**/**/*.parquet", "la*/*"):
        expected = {name for name in glob.glob(str(tmp_path / pattern), recursive=True) if os.path.isfile(name)}
        assert {str(file.path) for file in list_shards(str(tmp_path / pattern)).files} == expected, pattern
    for number in range(3):
        (tmp_path / f"day/up{number}").symlink_to("..")
    assert names(list_shards(str(tmp_path / "**/b.parquet"))) == ["day/b.parquet", "latest/b.parquet"]


@pytest.mark.hostile(
    "A folder in INPUT without the permission to list it",
    "the folder is quarantined with the reason, the shards of the other folders are scored, and the exit code is 3",
)
@pytest.mark.parametrize("pattern", ["", "**/*.parquet", "*/*.parquet"])
def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, refusing: set[Path], pattern: str) -> None:
    touch(tmp_path, "open/a.parquet", "closed/b.parquet")
    refusing.add(tmp_path / "closed")
    listing = list_shards(str(tmp_path / pattern))
    assert names(listing) == ["open/a.parquet"]
    (one,) = listing.unlisted
    assert (one.name, one.path) == ("closed/", str(tmp_path / "closed"))
    assert "Permission denied" in one.reason


def test_an_input_that_cannot_be_listed_is_refused(tmp_path: Path, refusing: set[Path]) -> None:
    touch(tmp_path, "a.parquet")
    refusing.add(tmp_path)
    for source in (tmp_path, tmp_path / "*.parquet"):
        with pytest.raises(InputRefused, match="cannot be listed: Permission denied"):
            list_shards(str(source))


def test_a_name_that_is_no_file_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.parquet")
    (tmp_path / "gone.parquet").symlink_to("nothing")
    (tmp_path / "itself.parquet").symlink_to("itself.parquet")
    os.mkfifo(tmp_path / "pipe.parquet")
    (tmp_path / "gone").symlink_to("nothing")
    listing = list_shards(str(tmp_path))
    assert unlisted(listing) == ["gone.parquet", "itself.parquet", "pipe.parquet"]
    assert listing.passed_over.broken == 1
    assert unlisted(list_shards(str(tmp_path / "*"))) == ["gone.parquet", "itself.parquet", "pipe.parquet"]


def test_the_folder_of_a_pack_is_not_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.parquet", ".pack/summary.json", "day/b.parquet", "day/.pack/_lock", "day/.other/c.parquet")
    listing = list_shards(str(tmp_path))
    assert names(listing) == ["a.parquet", "day/b.parquet"]
    assert listing.passed_over.hidden == 1


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    touch(
        tmp_path, "a.parquet", "b.PARQUET", "c.pq", "d/e.parquet.gzip", "d/f.pq", "_SUCCESS", ".x/g.parquet", "README"
    )
    listing = list_shards(str(tmp_path))
    assert names(listing) == ["a.parquet"]
    assert dict(listing.passed_over.endings) == {".pq": 2, ".PARQUET": 1, ".parquet.gzip": 1, "": 1}
    assert listing.passed_over.hidden == 2
    assert listing.passed_over.describe() == (
        "5 file(s) whose names do not end in .parquet (.pq 2, no ending 1, .PARQUET 1, .parquet.gzip 1); "
        "2 file(s) or folder(s) whose names start with . or _"
    )
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(InputRefused, match="skipped: 5 file"):
        list_shards(str(tmp_path))


@pytest.fixture(params=["keys", "folders"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A store that lists all keys at once, and one that lists a folder at a time, as those of ftp and sftp."""
    if request.param == "folders":
        monkeypatch.setattr(MemoryFileSystem, "find", AbstractFileSystem.find)
    yield fsspec.filesystem("memory")
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.mark.hostile(
    "A shard in an object store whose key has an empty part, `.` or `..`, such as `n//b.parquet`",
    "the shard is quarantined with the reason; the other shards are scored",
)
def test_keys_that_no_folder_can_have_are_named(store: Any) -> None:
    shards = ("a.parquet", "n//b.parquet", "n/./c.parquet", "n/x/../d.parquet", "n/e.parquet")
    for name in (*shards, "_f.parquet", "g.pq", ".pack/h"):
        store.store[f"/in/{name}"] = store._open(f"/in/{name}", "wb")
    listing = list_shards("memory://in")
    assert names(listing) == ["a.parquet", "n/e.parquet"]
    if type(store).find is AbstractFileSystem.find:
        assert unlisted(listing) == ["n/.", "n/x/.."]  # a folder has no entry without a name
    else:
        assert unlisted(listing) == ["n/./c.parquet", "n//b.parquet", "n/x/../d.parquet"]
        assert unlisted(list_shards("memory://in/**/*.parquet")) == unlisted(listing)
    assert listing.passed_over.hidden == 1
    assert dict(listing.passed_over.endings) == {".pq": 1}
    assert names(list_shards("memory://in/**/e.parquet")) == ["n/e.parquet"]


def test_a_folder_of_a_store_that_cannot_be_listed_is_named(monkeypatch: pytest.MonkeyPatch, store: Any) -> None:
    store.pipe({"/in/a.parquet": b"", "/in/closed/b.parquet": b""})
    ls = MemoryFileSystem.ls
    refused = "/in/closed"

    def refuse(self: Any, path: str, detail: bool = True, **options: Any) -> Any:
        if path == refused:
            raise PermissionError("550 no access")
        return ls(self, path, detail=detail, **options)

    monkeypatch.setattr(MemoryFileSystem, "find", AbstractFileSystem.find)
    monkeypatch.setattr(MemoryFileSystem, "ls", refuse)
    for source in ("memory://in", "memory://in/**/*.parquet"):
        listing = list_shards(source)
        assert (names(listing), unlisted(listing)) == (["a.parquet"], ["closed/"])
        assert "550 no access" in listing.unlisted[0].reason
    refused = "/in"
    with pytest.raises(ReadFailed, match="550 no access"):
        list_shards("memory://in/*.parquet")


def test_the_name_of_a_place_has_its_host_and_no_password() -> None:
    path = as_upath("ftp://user:hunter2@host:2121/in")
    assert name_place(path) == "ftp://host:2121/in"
    assert name_place("ftp://user:hunter2@host:2121/in") == "ftp://host:2121/in"
    assert name_place(as_upath("https://user:hunter2@host/in/a.parquet?sig=x")) == "https://host/in/a.parquet"
    assert base_name(as_upath("https://user:hunter2@host/in/a.parquet?sig=x")) == "a.parquet"


def test_the_name_of_a_signed_address_has_no_query(monkeypatch: pytest.MonkeyPatch, store: Any) -> None:
    store.pipe({"/in/a.parquet?sig=hunter2": b""})
    assert names(list_shards("memory://in/a.parquet?sig=hunter2")) == ["a.parquet"]
