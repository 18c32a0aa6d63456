"""Shards with false, encrypted or damaged footers or pages: they are quarantined, and the other shards are scored."""

from __future__ import annotations

import base64
import errno
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest
from numpy.typing import NDArray

from export.errors import ShardRefused
from screen.config import RunConfig
from screen.decide.config import CalibrationConfig
from screen.input import rows as rows_module
from screen.input.parquet import footer
from screen.output.check import check_results
from screen.run.calibration.calibrate import run_calibration
from screen.run.runner import run_screening
from screen.run.summary import RunSummary
from tests.conftest import Recorder, encode, read_results, write_shard


class _Keys(pe.KmsClient):  # type: ignore[misc]
    """Wraps keys by encoding them."""

    def __init__(self, _: Any) -> None:
        pe.KmsClient.__init__(self)

    def wrap_key(self, key: bytes, _: str) -> bytes:
        return base64.b64encode(key)

    def unwrap_key(self, wrapped: bytes, _: str) -> bytes:
        return base64.b64decode(wrapped)


def write_encrypted(path: Path, table: pa.Table, column: str) -> None:
    """Write a shard with a plain footer and one encrypted column."""
    configuration = pe.EncryptionConfiguration(
        footer_key="footer", column_keys={"key": [column]}, plaintext_footer=True, cache_lifetime=timedelta(minutes=1)
    )
    factory = pe.CryptoFactory(_Keys)
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), configuration)
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as file:
        file.write_table(table)


def varint(value: int) -> bytes:
    """A number as a zigzag varint."""
    value <<= 1
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def state_rows(path: Path, rows: int, stated: int) -> None:
    """Change the row count of the file, its row group and its columns alike; `rows` must occur nowhere else."""
    data = path.read_bytes()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    old, new = b"\x16" + varint(rows), b"\x16" + varint(stated)
    footer = data[start:-8]
    assert footer.count(old) >= 3
    footer = footer.replace(old, new)
    path.write_bytes(data[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1")


ROWS = 7077
"""A row count whose varint does not occur by chance in a footer."""


def lie(stated: int) -> Callable[[Path, bytes], None]:
    def make(path: Path, image: bytes) -> None:
        pq.write_table(pa.table({"image": [image] * ROWS}), path, store_schema=False, write_statistics=False)
        state_rows(path, ROWS, stated)

    return make


def bomb(size: int) -> Callable[[Path, bytes], None]:
    """One image of zeros, compressed, in a page of its own."""

    def make(path: Path, _: bytes) -> None:
        pq.write_table(pa.table({"image": [bytes(size)]}), path, compression="zstd", use_dictionary=False)

    return make


def dictionary_bomb(path: Path, _: bytes) -> None:
    """A dictionary of one value of 4 MB, used by 4,600 rows."""
    image = pa.DictionaryArray.from_arrays(pa.array(np.zeros(4600, np.int32)), pa.array([bytes(4 * 2**20)]))
    limit = 2**24
    pq.write_table(pa.table({"image": image}), path, compression="zstd", dictionary_pagesize_limit=limit)


def encrypt_images(path: Path, image: bytes) -> None:
    write_encrypted(path, pa.table({"image": [image], "secret": ["x"]}), "image")


LOST: dict[str, tuple[Callable[[Path, bytes], None], str]] = {
    "7,078 rows": (lie(7078), "its pages have 7077"),
    "7,076 rows": (lie(7076), "its pages have 7077"),
    "2 ** 40 rows": (lie(2**40), "The footer states 1099511627776 rows, but the file has only"),
    "a page of 4 MB": (bomb(4 * 2**20), "in memory"),
    "a dictionary of 4 MB": (dictionary_bomb, "in memory"),
    "an encrypted image column": (encrypt_images, "The column 'image' is encrypted"),
}


def screen(model: Path, folder: Path, **options: Any) -> RunSummary:
    config = RunConfig(passes=1, device="cpu", **options)
    return run_screening(model, str(folder / "in"), folder / "out", config, Recorder())


@pytest.mark.hostile(
    "A Parquet file with an encrypted image column, with more or fewer rows in its footer than in its pages, or with a "
    "page that takes more than 192 MiB in memory and more than 24 times its stored size",
    "the shard is quarantined with the reason; the other shards are scored",
)
@pytest.mark.parametrize("name", LOST)
def test_a_shard_that_must_not_be_read_is_quarantined(
    name: str, article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footer, "_MAX_PAGE_BYTES", 2**20)
    make, reason = LOST[name]
    good = encode(digits[0])
    for other in ("a", "z"):
        write_shard(tmp_path / "in" / f"{other}.parquet", [good])
    make(tmp_path / "in" / "m.parquet", good)
    summary = screen(article_onnx, tmp_path)
    assert summary.exit_code == 3
    assert [shard.name for shard in summary.unreadable] == ["m.parquet"]
    assert reason in summary.unreadable[0].reason
    assert {path.name for path in (tmp_path / "out").glob("*.parquet")} == {"a.parquet", "z.parquet"}
    assert check_results(tmp_path / "out", str(tmp_path / "in")).problems == ()


@pytest.mark.hostile(
    "A scored shard is replaced by a file that can be opened, but is quarantined as a whole",
    "the result of the earlier content is removed; `check` finds no problem, and a repaired shard is scored again",
)
def test_a_lost_shard_leaves_no_result_of_its_earlier_content(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    good, path = encode(digits[0]), tmp_path / "in" / "m.parquet"
    for name in ("a", "m"):
        write_shard(tmp_path / "in" / f"{name}.parquet", [good])
    screen(article_onnx, tmp_path)
    encrypt_images(path, good)
    assert screen(article_onnx, tmp_path).exit_code == 3
    assert [result.name for result in (tmp_path / "out").glob("*.parquet")] == ["a.parquet"]
    assert check_results(tmp_path / "out", str(tmp_path / "in")).problems == ()
    write_shard(path, [good, good])
    assert screen(article_onnx, tmp_path).exit_code == 0
    assert check_results(tmp_path / "out", str(tmp_path / "in")).problems == ()


def test_a_lost_shard_does_not_remove_a_file_that_oodscreen_did_not_write(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    good = encode(digits[0])
    write_shard(tmp_path / "in" / "a.parquet", [good])
    encrypt_images(tmp_path / "in" / "m.parquet", good)
    foreign = write_shard(tmp_path / "out" / "m.parquet", [good]).read_bytes()
    assert screen(article_onnx, tmp_path, force="all").exit_code == 3
    assert (tmp_path / "out" / "m.parquet").read_bytes() == foreign


@pytest.mark.hostile(
    "A small Parquet file in which many rows refer to one large entry of a dictionary, so that all images "
    "together take more than 4 GiB and more than 256 times the size of the file",
    "the shard is quarantined with the reason; the other shards are scored",
)
def test_a_dictionary_that_many_rows_refer_to_has_a_limit(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "_LEAST_BYTES", 2**24)
    write_shard(tmp_path / "in" / "a.parquet", [encode(digits[0])])
    image = pa.DictionaryArray.from_arrays(pa.array(np.zeros(4600, np.int32)), pa.array([bytes(10_000)]))
    pq.write_table(pa.table({"image": image}), tmp_path / "in" / "m.parquet", compression="zstd")
    summary = screen(article_onnx, tmp_path)
    assert [shard.name for shard in summary.unreadable] == ["m.parquet"]
    assert "The first images take" in summary.unreadable[0].reason
    assert [path.name for path in (tmp_path / "out").glob("*.parquet")] == ["a.parquet"]


def test_a_damaged_row_group_that_states_too_many_rows_is_quarantined(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each stated row would get a result."""
    path = write_shard(tmp_path / "in" / "a.parquet", [encode(digits[0])] * 200)
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\xff" * 40 + data[44:])
    assert screen(article_onnx, tmp_path).statuses == {"unreadable_page": 200}
    monkeypatch.setattr(rows_module, "_MAX_LOST_ROWS", 10)
    monkeypatch.setattr(rows_module, "_LOST_BYTES", 1000)
    summary = screen(article_onnx, tmp_path, force="all")
    assert [shard.name for shard in summary.unreadable] == ["a.parquet"]


@pytest.mark.hostile(
    "A Parquet file with an encrypted column that the run does not need",
    "the shard is scored, and the encrypted column is not read",
)
def test_an_encrypted_column_that_is_not_read_does_not_matter(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    """In a separate process, because pyarrow aborts the process if it looks at the column."""
    (tmp_path / "in").mkdir()
    table = pa.table({"image": [encode(digits[0])] * 2, "secret": ["x", "y"]})
    write_encrypted(tmp_path / "in" / "a.parquet", table, "secret")
    code = "from screen.cli import main; main()"
    words = ["run", str(article_onnx), str(tmp_path / "in"), str(tmp_path / "out"), "-T", "1", "--device", "cpu"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_results(tmp_path / "out")["status"].to_pylist() == ["ok", "ok"]


@pytest.mark.hostile(
    "A page whose content does not match the checksum in its header",
    "the rows on the page have the status `unreadable_page`",
)
def test_a_page_with_a_wrong_checksum_is_unreadable(article_onnx: Path, tmp_path: Path) -> None:
    """Tensors that are not compressed, so that nothing but the checksum tells."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.parquet"
    flat = np.random.default_rng(0).integers(0, 256, (6, 784), dtype=np.uint8)
    images = pa.FixedSizeListArray.from_arrays(flat.ravel(), 784)
    options: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    pq.write_table(pa.table({"image": images}), path, row_group_size=3, **options)
    data = path.read_bytes()
    place = pq.read_metadata(path).row_group(1).column(0).data_page_offset + 2000
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    summary = screen(article_onnx, tmp_path)
    assert summary.statuses == {"ok": 3, "unreadable_page": 3}


def test_a_shard_whose_columns_compress_extremely_well_is_scored(article_onnx: Path, tmp_path: Path) -> None:
    """100,000 null images and one id take less than 0.1 bytes per row."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.parquet"
    pq.write_table(pa.table({"image": pa.nulls(100_000, pa.binary()), "id": ["same"] * 100_000}), path)
    assert path.stat().st_size < 10_000
    assert screen(article_onnx, tmp_path, max_bad_rows="100%", go_on=True).statuses == {"null_image": 100_000}


@pytest.mark.hostile(
    "A disk error, or an error of a library, while one shard is read",
    "the shard is quarantined with the reason; the other shards are scored",
)
@pytest.mark.parametrize(
    "error",
    [OSError(errno.EIO, "Input/output error"), pa.ArrowInvalid("strange"), OverflowError("huge"), MemoryError()],
)
def test_whatever_is_raised_for_one_shard_leaves_the_others(
    error: Exception,
    article_onnx: Path,
    digits: NDArray[np.uint8],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = [encode(image) for image in digits[:5]]
    for name in ("a", "m", "z"):
        write_shard(tmp_path / "in" / f"{name}.parquet", good, row_group_size=2)
    make = rows_module._row_batch

    def fail_in_the_middle(shard: Any, columns: Any, start: int, *words: Any, **options: Any) -> Any:
        if shard.name == "m.parquet" and start == 2:
            raise error
        return make(shard, columns, start, *words, **options)

    monkeypatch.setattr(rows_module, "_row_batch", fail_in_the_middle)
    summary = screen(article_onnx, tmp_path, batch_size=2)
    assert summary.exit_code == 3
    assert [shard.name for shard in summary.unreadable] == ["m.parquet"]
    assert {path.name for path in (tmp_path / "out").glob("*.parquet")} == {"a.parquet", "z.parquet"}
    monkeypatch.undo()
    again = screen(article_onnx, tmp_path)
    assert (again.exit_code, [shard.shard.name for shard in again.shards]) == (0, ["m.parquet"])


@pytest.mark.hostile(
    "A damaged page in a shard whose column for `--keep` contains structs with a required field",
    "the rows on the page have the status `unreadable_page`, and null in the copied column",
)
def test_a_kept_struct_with_a_required_field_is_null_on_a_damaged_page(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.parquet"
    kind = pa.struct([pa.field("camera", pa.string(), nullable=False)])
    schema = pa.schema([("image", pa.binary()), pa.field("meta", kind, nullable=False)])
    table = pa.table({"image": [encode(digits[0])] * 4, "meta": [{"camera": "x"}] * 4}, schema=schema)
    pq.write_table(table, path, row_group_size=2)
    place = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    data = path.read_bytes()
    path.write_bytes(data[:place] + b"\xff" * 9 + data[place + 9 :])
    summary = screen(article_onnx, tmp_path, keep=("meta",))
    assert summary.statuses == {"ok": 2, "unreadable_page": 2}
    assert read_results(tmp_path / "out")["meta"].to_pylist() == [{"camera": "x"}] * 2 + [None] * 2


def test_a_calibration_names_the_shard_that_it_cannot_read(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    write_shard(tmp_path / "in" / "a.parquet", [encode(image) for image in digits[:200]])
    pq.write_table(
        pa.table({"image": [encode(digits[0])] * ROWS}),
        tmp_path / "in" / "m.parquet",
        store_schema=False,
        write_statistics=False,
    )
    state_rows(tmp_path / "in" / "m.parquet", ROWS, ROWS + 1)
    config, wanted = RunConfig(passes=2, device="cpu"), CalibrationConfig(review_rate=0.1)
    with pytest.raises(ShardRefused, match=r"m\.parquet cannot be read: The footer states"):
        run_calibration(article_onnx, str(tmp_path / "in"), tmp_path / "c.cal", config, wanted, Recorder())
    assert not (tmp_path / "c.cal").exists()
