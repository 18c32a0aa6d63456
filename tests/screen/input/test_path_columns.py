"""A column of paths as texts, and values from the names of Hive folders."""

from __future__ import annotations

import io
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from export.contract.reader import ExportedModel
from export.errors import InputRefused
from screen.config import RunConfig
from screen.files.hive import folder_values
from screen.input.decode import Decoder, ImageBatch
from screen.input.mapping import map_columns
from screen.input.rows import read_batches, read_chosen_rows, read_groups
from screen.input.shards import find_shards
from tests.conftest import encode

TEXTS = {
    "string": pa.string(),
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
}


def decode(source: Path, config: RunConfig, model: ExportedModel) -> ImageBatch:
    """All rows of INPUT, decoded."""
    shards, _ = find_shards(str(source))
    (pieces,) = read_batches(shards, map_columns(shards, config, model.contract), 1000)
    decoder = Decoder(model.contract, max_pixels=config.max_pixels, image_root=config.image_root, threads=1)
    try:
        return decoder.decode(pieces)
    finally:
        decoder.close()


@pytest.fixture
def root(tmp_path: Path, digits: NDArray[np.uint8]) -> Path:
    """A base folder with one image, and one outside of it."""
    (tmp_path / "root/cat").mkdir(parents=True)
    (tmp_path / "root/cat/0.png").write_bytes(encode(digits[0]))
    (tmp_path / "secret.png").write_bytes(encode(digits[1]))
    (tmp_path / "root/link.png").symlink_to(tmp_path / "secret.png")
    return tmp_path / "root"


@pytest.mark.parametrize("kind", TEXTS.values(), ids=TEXTS)
def test_a_column_of_paths_has_the_images_and_the_statuses_of_a_struct_with_paths(
    tmp_path: Path, root: Path, article: ExportedModel, kind: pa.DataType, digits: NDArray[np.uint8]
) -> None:
    paths = ["cat/0.png", "../secret.png", str(tmp_path / "secret.png"), "link.png", "cat", "gone.png", None, ""]
    texts = pa.array(paths, pa.string()).cast(kind)
    for name, column in (
        ("texts", texts),
        ("structs", pa.array([{"bytes": None, "path": path} for path in paths])),
        ("structs_of_kind", pa.StructArray.from_arrays([pa.nulls(len(paths), pa.binary()), texts], ["bytes", "path"])),
    ):
        if name == "structs":
            column = column.cast(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"image": column}), tmp_path / name / "a.parquet")
    config = RunConfig(image_root=str(root))
    found = {name: decode(tmp_path / name, config, article) for name in ("texts", "structs", "structs_of_kind")}
    for batch in found.values():
        assert batch.failures == found["structs"].failures
        assert np.array_equal(batch.images, digits[:1])
    statuses = [found["texts"].failures[row][0] for row in range(1, len(paths))]
    assert statuses == ["path_not_found"] * 5 + ["null_image"] * 2


@pytest.mark.parametrize("kind", TEXTS.values(), ids=TEXTS)
def test_single_rows_of_a_column_of_paths_can_be_read(
    tmp_path: Path, article: ExportedModel, kind: pa.DataType
) -> None:
    column = pa.array(["a.png", "b.png", "c.png"], pa.string()).cast(kind)
    pq.write_table(
        pa.table({"image": column, "view": column.cast(pa.string()).cast(pa.string_view())}), tmp_path / "a.parquet"
    )
    shards, _ = find_shards(str(tmp_path))
    columns = map_columns(shards, RunConfig(image_root=str(tmp_path), keep=("view",)), article.contract)
    (batch,) = read_chosen_rows(shards[0], columns, np.array([0, 2]))
    assert batch.images is not None
    assert batch.images.to_pylist() == batch.kept["view"].to_pylist() == ["a.png", "c.png"]


def test_a_column_of_texts_without_image_root_is_refused(tmp_path: Path, article: ExportedModel) -> None:
    pq.write_table(pa.table({"image": ["a.png"], "photo": [b"x"]}), tmp_path / "a.parquet")
    shards, _ = find_shards(str(tmp_path))
    with pytest.raises(InputRefused, match="has the type string, and --image-root is not set") as refused:
        map_columns(shards, RunConfig(), article.contract)
    assert "--image-root FOLDER" in refused.value.next_step
    assert "--image-column 'photo'" in refused.value.next_step
    with pytest.raises(InputRefused) as refused:
        map_columns(shards, RunConfig(image_column="picture"), article.contract)
    assert "'photo'" in refused.value.next_step


def test_the_folders_of_a_name_are_keys_and_values() -> None:
    assert folder_values("year=2024/month=01/a=b.parquet") == (("year", "2024"), ("month", "01"))
    assert folder_values("a%20b=%C3%BC%2F1/c=d=e/x.parquet") == (("a b", "ü/1"), ("c", "d=e"))
    assert folder_values("x=__HIVE_DEFAULT_PARTITION__/y=/z.parquet") == (("x", None), ("y", ""))
    assert folder_values("plain/=1/x=%FF/a.parquet") == (("x", "%FF"),)
    assert folder_values("a.parquet") == ()


def write_rows(path: Path, **columns: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [b"x", b"y"], **columns}), path)


def kept_of(source: Path, model: ExportedModel, *keep: str) -> list[dict[str, object]]:
    shards, _ = find_shards(str(source))
    columns = map_columns(shards, RunConfig(keep=keep), model.contract)
    return [row for batches in read_batches(shards, columns, 1000) for one in batches for row in one.kept.to_pylist()]


def test_a_hive_folder_is_a_column_that_can_be_kept(tmp_path: Path, article: ExportedModel) -> None:
    write_rows(tmp_path / "year=2024/month=01/x.parquet")
    write_rows(tmp_path / "year=__HIVE_DEFAULT_PARTITION__/month=a%20b/x.parquet")
    january, other = {"year": "2024", "month": "01"}, {"year": None, "month": "a b"}
    assert kept_of(tmp_path, article, "year", "month") == [january] * 2 + [other] * 2
    assert kept_of(tmp_path / "year=*" / "**" / "*.parquet", article, "month", "year")[0] == january
    with pytest.raises(InputRefused, match=r"no column 'day'. Its columns: image, year, month"):
        kept_of(tmp_path, article, "day")
    with pytest.raises(InputRefused, match=r"no column 'year'"):  # the folder is not below INPUT
        kept_of(tmp_path / "year=2024", article, "year")


def test_a_hive_folder_of_a_store_is_a_column_that_can_be_kept(article: ExportedModel) -> None:
    store = fsspec.filesystem("memory")
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": [b"x"]}), buffer)
    try:
        store.pipe("/hive/year=2024/month=a%20b/x.parquet", buffer.getvalue())
        shards, _ = find_shards("memory://hive")
        columns = map_columns(shards, RunConfig(keep=("year", "month")), article.contract)
        read = [one for batches in read_batches(shards, columns, 10) for one in batches]
        read += [one for batches in read_groups(shards[0], columns, range(1), 10) for one in batches]  # as on Ray
        for batch in (one for one in read if one.count):
            assert batch.kept.to_pylist() == [{"year": "2024", "month": "a b"}]
    finally:
        store.store.clear()


def test_a_column_of_the_file_is_kept_instead_of_the_folder(tmp_path: Path, article: ExportedModel) -> None:
    write_rows(tmp_path / "year=2024/x.parquet", year=[1, 2])
    assert kept_of(tmp_path, article, "year") == [{"year": 1}, {"year": 2}]
    write_rows(tmp_path / "year=2025/x.parquet")
    with pytest.raises(InputRefused, match=r"has the type int64 in year=2024/x.parquet, but string in year=2025"):
        kept_of(tmp_path, article, "year")


def test_a_folder_key_that_occurs_twice_is_refused(tmp_path: Path, article: ExportedModel) -> None:
    write_rows(tmp_path / "year=2024/year=2025/x.parquet")
    with pytest.raises(InputRefused, match=r"2 columns 'year'"):
        kept_of(tmp_path, article, "year")


def test_a_damaged_row_group_keeps_the_values_of_its_folders(tmp_path: Path, article: ExportedModel) -> None:
    path = tmp_path / "year=2024/x.parquet"
    write_rows(path, label=[1, 2])
    data = bytearray(path.read_bytes())
    data[4:12] = b"\xff" * 8  # the header of the first page
    path.write_bytes(data)
    assert kept_of(tmp_path, article, "year", "label") == [{"year": "2024", "label": None}] * 2


def test_a_result_given_as_input_is_refused(tmp_path: Path, article: ExportedModel) -> None:
    table = pa.table({"ood_score": [1.0]}).replace_schema_metadata({"oodscreen": "{}"})
    pq.write_table(table, tmp_path / "a.parquet")
    shards, _ = find_shards(str(tmp_path))
    with pytest.raises(InputRefused, match=r"a.parquet is a result of `oodscreen run`") as refused:
        map_columns(shards, RunConfig(), article.contract)
    assert "oodscreen report" in refused.value.next_step
