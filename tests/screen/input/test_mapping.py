from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from export.contract.reader import ExportedModel
from export.errors import InputRefused
from screen.config import RunConfig
from screen.input.mapping import map_columns
from screen.input.shards import ShardRef, find_shards
from tests.conftest import IMAGE_TYPE


def shard_of(tmp_path: Path, name: str, **columns: Any) -> ShardRef:
    pq.write_table(pa.table(columns), tmp_path / name)
    return find_shards(str(tmp_path / name))[0][0]


def test_a_missing_column_is_refused_and_another_is_proposed(tmp_path: Path, article: ExportedModel) -> None:
    shard = shard_of(tmp_path, "a.parquet", picture=pa.array([b"x"]), label=[1])
    with pytest.raises(InputRefused, match=r"no column.*Its columns: picture, label") as refused:
        map_columns([shard], RunConfig(), article.contract)
    assert "--image-column 'picture'" in refused.value.next_step


def test_a_column_that_is_missing_in_one_shard_is_refused(tmp_path: Path, article: ExportedModel) -> None:
    good = shard_of(tmp_path, "a.parquet", image=pa.array([b"x"]), label=[1])
    bad = shard_of(tmp_path, "b.parquet", image=pa.array([b"x"]))
    with pytest.raises(InputRefused, match=r"b.parquet has no column 'label'"):
        map_columns([good, bad], RunConfig(keep=["label"]), article.contract)


def test_two_columns_of_one_name_are_refused(tmp_path: Path, article: ExportedModel) -> None:
    table = pa.Table.from_arrays([pa.array([b"x"]), pa.array([b"y"])], names=["image", "image"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputRefused, match="2 column"):
        map_columns(find_shards(str(tmp_path))[0], RunConfig(), article.contract)


@pytest.mark.parametrize(
    "kind",
    [
        IMAGE_TYPE,
        pa.binary(),
        pa.large_binary(),
        pa.list_(pa.uint8(), 784),
        pa.list_(pa.list_(pa.uint8(), 28), 28),
        pa.fixed_shape_tensor(pa.uint8(), [28, 28, 1]),
        pa.fixed_shape_tensor(pa.uint8(), [28, 28]),
    ],
)
def test_images_come_in_many_types(tmp_path: Path, article: ExportedModel, kind: pa.DataType) -> None:
    shard = replace(shard_of(tmp_path, "a.parquet", image=pa.array([], pa.binary())))
    shard = replace(shard, schema=pa.schema([("image", kind)]))
    assert map_columns([shard], RunConfig(), article.contract).image == "image"


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.float32(),
        pa.list_(pa.uint8()),
        pa.list_(pa.float32(), 784),
        pa.list_(pa.uint8(), 783),
        pa.fixed_shape_tensor(pa.uint8(), [28, 28, 3]),
        pa.fixed_shape_tensor(pa.uint8(), [28, 28], permutation=[1, 0]),
        pa.struct([("path", pa.string())]),
    ],
)
def test_types_that_hold_no_images_of_the_model_are_refused(
    tmp_path: Path, article: ExportedModel, kind: pa.DataType
) -> None:
    shard = shard_of(tmp_path, "a.parquet", image=pa.array([], pa.binary()))
    with pytest.raises(InputRefused, match="The column 'image'"):
        map_columns([replace(shard, schema=pa.schema([("image", kind)]))], RunConfig(), article.contract)


def test_a_kept_column_must_not_hide_a_result_nor_change_its_type(tmp_path: Path, article: ExportedModel) -> None:
    one = shard_of(tmp_path, "a.parquet", image=pa.array([b"x"]), label=[1], entropy=[1.0])
    two = shard_of(tmp_path, "b.parquet", image=pa.array([b"x"]), label=["one"], entropy=[1.0])
    with pytest.raises(InputRefused, match="The input column of --keep entropy has the name of a result column"):
        map_columns([one], RunConfig(keep=["entropy"]), article.contract)
    with pytest.raises(InputRefused, match=r"int64 in a.parquet, but string in b.parquet"):
        map_columns([one, two], RunConfig(keep=["label"]), article.contract)
