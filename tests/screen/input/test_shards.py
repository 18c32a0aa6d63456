from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from export.errors import InputRefused
from screen.files.paths import open_parquet
from screen.input.shards import find_shards
from tests.conftest import write_shard


def names(source: str) -> list[str]:
    return [shard.name for shard in find_shards(source)[0]]


def test_a_folder_is_searched_with_its_subfolders_in_the_order_of_names(digit_shards: Path) -> None:
    shards, unreadable = find_shards(str(digit_shards))
    assert [shard.name for shard in shards] == ["a.parquet", "b.parquet", "c.parquet", "sub/d.parquet"]
    assert [shard.rows for shard in shards] == [120, 0, 1, 179]
    assert shards[0].row_groups == (50, 50, 20)
    assert unreadable == []


def test_a_file_and_a_glob_are_inputs_too(digit_shards: Path) -> None:
    assert names(str(digit_shards / "c.parquet")) == ["c.parquet"]
    assert names(str(digit_shards / "[ac].parquet")) == ["a.parquet", "c.parquet"]
    assert names(str(digit_shards / "**" / "d.parquet")) == ["sub/d.parquet"]


def test_hidden_and_underscored_names_are_passed_over(tmp_path: Path) -> None:
    for name in ("seen.parquet", ".hidden.parquet", "_manifest.parquet", "_old/x.parquet", "notes.txt"):
        write_shard(tmp_path / name, [])
    assert names(str(tmp_path)) == ["seen.parquet"]


def test_strange_names_are_names(tmp_path: Path) -> None:
    strange = ["a b.parquet", "ü\nx.parquet", "we..ird.parquet"]
    for name in strange:
        write_shard(tmp_path / name, [])
    assert sorted(names(str(tmp_path))) == sorted(strange)


def test_nothing_there_is_refused(tmp_path: Path) -> None:
    for source in ("missing.parquet", "*.parquet", "."):
        with pytest.raises(InputRefused) as refused:
            find_shards(str(tmp_path / source))
        assert refused.value.next_step


def test_a_broken_file_is_named_and_the_others_go_on(tmp_path: Path, digit_shards: Path) -> None:
    write_shard(tmp_path / "good.parquet", [])
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 this is not the end of a Parquet file")
    (tmp_path / "empty.parquet").write_bytes(b"")
    shards, unreadable = find_shards(str(tmp_path))
    assert [shard.name for shard in shards] == ["good.parquet"]
    assert [shard.name for shard in unreadable] == ["bad.parquet", "empty.parquet"]
    assert all(shard.reason for shard in unreadable)


def test_an_input_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_text("no Parquet")
    with pytest.raises(InputRefused, match=r"None of the 1 file\(s\).*bad.parquet"):
        find_shards(str(tmp_path / "bad.parquet"))


def test_a_fingerprint_tells_one_content_from_another(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.parquet", [b"1", b"2"])
    (before,), _ = find_shards(str(path))
    assert before.is_unchanged()
    os.utime(path, ns=(1, 1))
    assert not before.is_unchanged()
    write_shard(path, [b"1", b"3"])
    assert not before.is_unchanged()
    path.unlink()
    assert not before.is_unchanged()


def test_a_shard_whose_column_names_are_not_utf_8_is_unreadable(tmp_path: Path) -> None:
    """pyarrow decodes the names before it returns the footer."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [b"x"], "abcdefgh": [1]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"abcdefgh", b"abcd\xdcfgh"))
    with pytest.raises(OSError, match="is not UTF-8") as refused, open_parquet(path):
        pass
    assert refused.value.errno is None
