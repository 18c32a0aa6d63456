"""Pack a list of paths: the rows stay in order, the columns are copied, and no file is from outside the base folder."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from export.errors import InputChanged, InputRefused, OptionRefused
from screen.pack.sources.path_list import PathList
from tests.screen.pack.packs import pack, rows_of, write_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_files(tmp_path / "in", {"a/1.png": b"1", "b/2.dat": b"2", "3.png": b"3"})


def image(data: bytes, path: str) -> dict[str, Any]:
    return {"bytes": data, "path": path}


def test_a_csv_keeps_its_columns_as_text(folder: Path, tmp_path: Path) -> None:
    (folder / "list.csv").write_text('﻿file_name,label,note\nb/2.dat,07,"x, ""y"""\n\n3.png,,\n', encoding="utf-8")
    summary = pack(folder / "list.csv", tmp_path / "out")
    assert rows_of(tmp_path / "out") == [
        {"image": image(b"2", "b/2.dat"), "label": "07", "note": 'x, "y"', "id": "b/2.dat"},
        {"image": image(b"3", "3.png"), "label": None, "note": None, "id": "3.png"},
    ]
    assert summary.labels == (("07", 1),)


def test_a_jsonl_keeps_other_values_as_json(folder: Path, tmp_path: Path) -> None:
    lines = [{"path": "3.png", "id": 7, "tags": ["é"]}, {"path": "a/1.png", "more": None, "id": "x"}]
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    pack(folder / "list.jsonl", tmp_path / "out")
    assert rows_of(tmp_path / "out") == [
        {"image": image(b"3", "3.png"), "id": "7", "tags": '["é"]', "more": None},
        {"image": image(b"1", "a/1.png"), "id": "x", "tags": None, "more": None},
    ]


def test_a_parquet_list_keeps_types_and_values(folder: Path, tmp_path: Path) -> None:
    columns = {
        "where": pa.array(["3.png", "a/1.png"]).dictionary_encode(),
        "label": pa.array([3, None], pa.int8()),
        "at": pa.array([1, None], pa.timestamp("ns", "UTC")),
        "box": pa.array([{"x": [1.5]}, None], pa.struct([("x", pa.list_(pa.float32()))])),
        "price": pa.array([None, "1.50"]).cast(pa.decimal128(10, 2)),
        "day": pa.array([datetime.date(2024, 1, 2), None]),
        "kind": pa.array(["k", None]).dictionary_encode(),
    }
    table = pa.table(columns)
    pq.write_table(table, tmp_path / "list.parquet")
    pack(tmp_path / "list.parquet", tmp_path / "out", path_column="where", image_root=str(folder))
    written = pq.read_table(tmp_path / "out" / "images-000000.parquet")
    assert written["image"].to_pylist() == [image(b"3", "3.png"), image(b"1", "a/1.png")]
    assert written["id"].to_pylist() == ["3.png", "a/1.png"]
    for name in ("label", "at", "box", "price", "day"):
        assert written[name].combine_chunks() == table[name].combine_chunks()
    assert written["kind"].to_pylist() == ["k", None]


def test_paths_that_lead_out_of_the_folder_are_not_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "link.png").symlink_to("../secret.png")
    paths = ["../secret.png", str(tmp_path / "secret.png"), "link.png", "a/../../secret.png", "", "a", "nope.png", "\0"]
    good = ["3.png", str(folder / "3.png"), "a/../3.png"]
    (folder / "list.jsonl").write_text("\n".join(json.dumps({"path": path}) for path in paths + good))
    summary = pack(folder / "list.jsonl", tmp_path / "out")
    images = [row["image"] and row["image"]["bytes"] for row in rows_of(tmp_path / "out")]
    assert images == [None] * len(paths) + [b"3"] * len(good)
    assert summary.missing == len(paths)
    assert summary.exit_code == 3
    assert f"../secret.png (the path leads out of {folder})" in summary.to_text()


def test_a_list_that_changes_while_it_is_read_ends_the_pack(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "list.csv").write_text("path\n3.png\na/1.png\n")
    find = PathList._find

    def meddle(opened: PathList, text: str) -> Any:
        (folder / "list.csv").write_text("path\n3.png\nb/2.dat\n\n")
        return find(opened, text)

    monkeypatch.setattr(PathList, "_find", meddle)
    with pytest.raises(InputChanged, match=r"list\.csv changed or was removed"):
        pack(folder / "list.csv", tmp_path / "out")
    assert not list(tmp_path.glob("out/*"))


def test_a_list_whose_files_cannot_be_found_is_refused_before_anything_is_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path\na/1.png\n3.png\n")
    with pytest.raises(InputRefused, match="None of the first 2 file") as refused:
        pack(tmp_path / "list.csv", tmp_path / "out")
    assert "--image-root" in refused.value.next_step
    assert not (tmp_path / "out").exists()
    assert pack(tmp_path / "list.csv", tmp_path / "out", image_root=str(folder)).missing == 0


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("l.csv", "a,b\n1,2\n", "no column with a usual name. Its columns: a, b"),
        ("l.csv", "path,a\n3.png\n", "line 2 has 1 cell(s), and the header has 2"),
        ("l.csv", "path,path\n3.png,1\n", "more than one column 'path'"),
        ("l.csv", "path,image\n3.png,1\n", "a column 'image' that does not contain the paths"),
        ("l.csv", "", "no columns"),
        ("l.csv", "path\n", "contains no rows"),
        ("l.jsonl", '{"path": "3.png"}\n[1]\n', "line 2: not a JSON object"),
        ("l.jsonl", '{"path": "3.png"}\n{\n', "line 2: "),
        ("l.parquet", "text", "cannot be read: "),
    ],
)
def test_a_list_that_is_wrong_is_refused(folder: Path, tmp_path: Path, name: str, text: str, found: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(InputRefused) as refused:
        pack(folder / name, tmp_path / "out")
    assert found in refused.value.found


@pytest.mark.parametrize(
    ("name", "separator"), [("l.csv", ","), ("l.csv", ";"), ("l.csv", "\t"), ("l.tsv", "\t"), ("l.tsv", ";")]
)
def test_the_separator_is_that_of_the_header(folder: Path, tmp_path: Path, name: str, separator: str) -> None:
    (folder / name).write_bytes(f'path{separator}label\r\n3.png{separator}"a,b;c"\r\n'.encode("utf-8-sig"))
    pack(folder / name, tmp_path / "out")
    assert [(row["id"], row["label"]) for row in rows_of(tmp_path / "out")] == [("3.png", "a,b;c")]


@pytest.mark.parametrize(
    ("content", "step"),
    [
        ("path\n3.png\n".encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
        ("path,label\n3.png,Bär\n".encode("latin-1"), "iconv -f WINDOWS-1252 -t UTF-8"),
        (b"path\nb\\2.dat\n", "with / in place of"),
        (b"path\nhttps://example.org/2.jpg\n", "download the files"),
        (b"path\nnone.png\n", "--image-root"),
    ],
)
def test_the_next_step_for_a_list_follows_its_encoding_and_its_paths(
    folder: Path, tmp_path: Path, content: bytes, step: str
) -> None:
    (folder / "l.csv").write_bytes(content)
    with pytest.raises(InputRefused) as refused:
        pack(folder / "l.csv", tmp_path / "out")
    assert step in refused.value.next_step


def test_a_shard_is_no_list(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "out")
    with pytest.raises(InputRefused, match="the file is a shard"):
        pack(tmp_path / "out" / "images-000000.parquet", tmp_path / "again")


def test_options_of_lists_are_refused_for_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionRefused, match="--image-root is given"):
        pack(folder, tmp_path / "out", image_root=str(folder))
