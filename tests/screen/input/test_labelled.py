from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from export.contract.inputs import Resize
from export.contract.labelled import LabelledBatch
from export.contract.metadata import ModelContract
from export.contract.reader import ExportedModel
from export.errors import InputRefused
from screen.input import labelled as module
from screen.input.labelled import read_labelled
from tests.conftest import encode

DEFAULTS: dict[str, Any] = {"label_column": "label", "image_column": "image", "image_root": None, "rows": 10**6}


def write(path: Path, sources: list[bytes | None], labels: pa.Array, row_group_size: int = 16) -> None:
    table = pa.table({"image": pa.array(sources, pa.binary()), "label": labels})
    pq.write_table(table, path, row_group_size=row_group_size)


def read(contract: ModelContract, folder: Path, **options: Any) -> list[LabelledBatch]:
    return list(read_labelled(contract, str(folder), **{**DEFAULTS, **options}))


@pytest.fixture
def contract(article: ExportedModel) -> ModelContract:
    return article.contract


@pytest.fixture
def shards(tmp_path: Path, digits: NDArray[np.uint8]) -> Path:
    """100 digits in three shards, labelled with their position; one shard is empty."""
    encoded: list[bytes | None] = [encode(image) for image in digits[:100]]
    write(tmp_path / "a.parquet", encoded[:70], pa.array(range(70)))
    write(tmp_path / "b.parquet", [], pa.array([], pa.int64()))
    write(tmp_path / "c.parquet", encoded[70:], pa.array(range(70, 100)))
    return tmp_path


def test_every_row_comes_with_its_own_label(contract: ModelContract, shards: Path, digits: NDArray[np.uint8]) -> None:
    batches = read(contract, shards)
    found = [label for batch in batches for label in batch.labels]
    assert found == list(range(100))
    np.testing.assert_array_equal(np.concatenate([batch.images for batch in batches]), digits[:100])


def test_the_same_rows_are_drawn_every_time_and_from_all_shards(
    contract: ModelContract, shards: Path, digits: NDArray[np.uint8]
) -> None:
    batches = read(contract, shards, rows=20)
    drawn = [label for batch in batches for label in batch.labels]
    assert len(drawn) == len(set(drawn)) == 20
    assert drawn == sorted(drawn)
    assert min(drawn) < 70 <= max(drawn)
    assert drawn == [label for batch in read(contract, shards, rows=20) for label in batch.labels]
    np.testing.assert_array_equal(np.concatenate([batch.images for batch in batches]), digits[drawn])


def test_only_row_groups_with_drawn_rows_are_read(
    contract: ModelContract, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[int] = []
    original = pq.ParquetFile.iter_batches

    def watched(self: Any, *arguments: Any, **options: Any) -> Any:
        groups.extend(options["row_groups"])
        return original(self, *arguments, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    (batch,) = read(contract, shards, rows=2)
    assert len(groups) <= len(batch.labels) == 2


def test_unreadable_rows_are_counted_and_labels_stay_with_their_images(
    contract: ModelContract, tmp_path: Path, digits: NDArray[np.uint8]
) -> None:
    sources = [encode(digits[0]), b"broken", None, encode(digits[3])]
    write(tmp_path / "a.parquet", sources, pa.array(["zero", "one", None, "three"]).dictionary_encode())
    (batch,) = read(contract, tmp_path)
    assert batch.labels == ("zero", "three")
    assert batch.unreadable == ("decode_failed", "null_image")
    np.testing.assert_array_equal(batch.images, digits[[0, 3]])


def test_tensors_and_the_contracts_resize_are_read_as_a_run_reads_them(
    contract: ModelContract, tmp_path: Path, digits: NDArray[np.uint8]
) -> None:
    tensors = pa.array(digits[:40, :20, :20, 0].tolist(), pa.list_(pa.list_(pa.uint8(), 20), 20))
    pq.write_table(pa.table({"image": tensors, "label": pa.array(range(40))}), tmp_path / "a.parquet")
    with pytest.raises(InputRefused, match=r"tensors of shape \[20, 20\]") as refused:
        read(contract, tmp_path)
    assert "--resize" in refused.value.next_step
    (batch,) = read(replace(contract, resize=Resize("crop-or-pad")), tmp_path, rows=7)
    np.testing.assert_array_equal(batch.images[:, 4:24, 4:24], digits[list(batch.labels), :20, :20])


def test_batches_are_smaller_where_images_are_large(
    contract: ModelContract, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH_PIXELS", 28 * 28 * 9)
    sizes = [len(batch.labels) for batch in read(contract, shards)]
    assert sizes == [9] * 11 + [1]


def test_columns_that_do_not_fit_are_refused_before_a_row_is_read(
    contract: ModelContract, shards: Path, digits: NDArray[np.uint8]
) -> None:
    def ask(**options: Any) -> None:
        read_labelled(contract, str(shards), **{**DEFAULTS, **options})

    with pytest.raises(InputRefused, match=r"no column 'digit'. Its columns: image, label") as refused:
        ask(label_column="digit")
    assert "--label-column" in refused.value.next_step
    with pytest.raises(InputRefused, match=r"no column 'picture'"):
        ask(image_column="picture")
    write(shards / "d.parquet", [encode(digits[0])], pa.array(["zero"]))
    with pytest.raises(InputRefused, match=r"int64 in a.parquet, but string in d.parquet"):
        ask()


def test_shards_without_rows_are_refused(contract: ModelContract, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [], pa.array([], pa.int64()))
    with pytest.raises(InputRefused, match="contain no rows"):
        read(contract, tmp_path)
