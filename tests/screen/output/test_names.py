"""Names that cannot be stored in OUTPUT, and different names that are the same name in OUTPUT."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from screen.files.paths import as_path
from screen.output import names
from screen.output.names import find_unusable


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that does not tell upper case from lower case."""
    monkeypatch.setattr(names, "_are_one", lambda folder, name, other: name.casefold() == other.casefold())


def test_usual_names_are_usable(tmp_path: Path) -> None:
    assert (
        find_unusable(tmp_path / "new/out", ["a.parquet", "A.parquet", "b/a.parquet", f"{'x' * 240}.parquet"], ()) == {}
    )


@pytest.mark.parametrize("output", ["", "new/out"])
def test_a_name_that_is_too_long_is_unusable(tmp_path: Path, output: str) -> None:
    wide, deep = f"{'x' * 300}.parquet", "d/" * 2500 + "a.parquet"
    found = find_unusable(tmp_path / output, ["a.parquet", wide, f"n/{wide}", deep], ())
    assert set(found) == {wide, f"n/{wide}", deep}
    assert "File name too long" in found[wide]


def test_a_key_that_is_too_long_is_unusable() -> None:
    output = as_path("memory://out")
    assert set(find_unusable(output, ["x" * 1000, "x" * 1020, "ü" * 600], ())) == {"x" * 1020, "ü" * 600}


def test_a_file_with_the_name_of_a_folder_is_unusable(tmp_path: Path) -> None:
    both = ["a.parquet", "a.parquet/b.parquet", "c.parquet"]
    assert set(find_unusable(tmp_path, both, ())) == {"a.parquet"}
    assert set(find_unusable(tmp_path, both, {"a.parquet"})) == {"a.parquet/b.parquet"}
    assert set(find_unusable(tmp_path, both[:1], {"a.parquet/b.parquet"})) == {"a.parquet"}


@pytest.mark.usefixtures("blind")
def test_names_that_differ_in_case_alone_are_unusable_where_output_takes_them_for_one(tmp_path: Path) -> None:
    twins = ["a.parquet", "A.parquet", "Sub/b.parquet", "sub/c.parquet", "d.parquet"]
    assert set(find_unusable(tmp_path, twins, ())) == set(twins[:4])
    assert set(find_unusable(tmp_path, twins[:2], {"a.parquet"})) == {"A.parquet"}
    assert find_unusable(tmp_path, ["a.parquet"], {"a.parquet"}) == {}
    assert find_unusable(as_path("memory://out"), twins, ()) == {}


def test_output_is_asked_whether_it_tells_names_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not names._are_one(tmp_path, "sub/a.parquet", "sub/A.parquet")
    assert names._are_one(tmp_path, "sub/a.parquet", "sub/a.parquet")
    assert list(tmp_path.iterdir()) == []
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: exists(path.with_name(path.name.lower())))
    assert names._are_one(tmp_path, "sub/a.parquet", "sub/A.parquet")


@pytest.fixture(autouse=True)
def _empty_store() -> None:
    fsspec.filesystem("memory").store.clear()
