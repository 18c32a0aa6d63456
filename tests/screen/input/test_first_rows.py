"""A run stops before it writes, if no drawn row can be read and an option corrects the reason."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from export.contract.reader import ExportedModel
from export.errors import ExitCode, InputRefused
from screen.config import RunConfig
from screen.decide.config import CalibrationConfig
from screen.input.decode import Decoder
from screen.input.first_rows import refuse_failing_rows
from screen.input.mapping import map_columns
from screen.input.shards import find_shards
from screen.run.calibration.calibrate import run_calibration
from screen.run.runner import run_screening
from screen.settings.columns import MAX_PIXELS
from tests.conftest import IMAGE_TYPE, Recorder, contents, encode, oodscreen, write_shard
from tests.hostile_images import CASES


def picture(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


WRONG = picture(64, 48)


def examine(source: Path, model: ExportedModel, **options: Any) -> None:
    config = RunConfig(**options)
    shards, _ = find_shards(str(source))
    refuse_failing_rows(shards, map_columns(shards, config, model.contract), config, model.contract)


def refuse(source: Path, model: ExportedModel, **options: Any) -> InputRefused:
    with pytest.raises(InputRefused) as refused:
        examine(source, model, **options)
    return refused.value


def write_paths(path: Path, paths: list[str]) -> None:
    pq.write_table(pa.table({"image": pa.array([{"bytes": None, "path": one} for one in paths], IMAGE_TYPE)}), path)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Filled with the number of rows of each decoded batch."""
    rows: list[int] = []
    decode = Decoder.decode

    def count(self: Decoder, pieces: Any) -> Any:
        rows.append(sum(piece.count for piece in pieces))
        return decode(self, pieces)

    monkeypatch.setattr(Decoder, "decode", count)
    return rows


def test_images_of_another_size_stop_a_run_before_it_opens_an_executor_or_writes(
    tmp_path: Path, article_onnx: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shard(tmp_path / "in/a.parquet", [WRONG] * 30 + [picture(48, 64)] * 3)
    with pytest.raises(InputRefused):
        run_screening(
            article_onnx,
            str(tmp_path / "in"),
            tmp_path / "out",
            RunConfig(),
            Recorder(),
            open_executor=lambda *_: pytest.fail("an executor was opened"),
        )
    assert oodscreen("run", article_onnx, tmp_path / "in", tmp_path / "out", monkeypatch=monkeypatch) == 2
    assert not (tmp_path / "out").exists()
    printed = capsys.readouterr().err
    assert "64 x 48 pixels (30 row(s)), 48 x 64 pixels (3 row(s))" in printed
    assert "images of 28 x 28 pixels" in printed
    assert "--resize" in printed
    assert "--go-on" in printed


def test_with_go_on_the_rows_get_their_status_and_the_configuration_is_the_same(
    tmp_path: Path, article_onnx: Path
) -> None:
    write_shard(tmp_path / "in/a.parquet", [WRONG] * 3)
    for go_on in (True, False):  # the second run finds the results of the first
        config = RunConfig(passes=4, device="cpu", go_on=go_on)
        summary = run_screening(article_onnx, str(tmp_path / "in"), tmp_path / "out", config, Recorder())
        assert summary.exit_code == ExitCode.UNREADABLE_INPUT
    assert [one.shard.name for one in summary.shards] == []


def test_a_bad_night_does_not_stop_a_run_whose_output_holds_a_result(
    tmp_path: Path, article_onnx: Path, digits: NDArray[np.uint8]
) -> None:
    config = RunConfig(passes=4, device="cpu")
    write_shard(tmp_path / "in/a.parquet", [encode(digits[0])])
    run_screening(article_onnx, str(tmp_path / "in"), tmp_path / "out", config, Recorder())
    write_shard(tmp_path / "in/b.parquet", [WRONG] * 3)
    (tmp_path / "in/a.parquet").unlink()
    summary = run_screening(article_onnx, str(tmp_path / "in"), tmp_path / "out", config, Recorder())
    assert [(one.shard.name, one.statuses) for one in summary.shards] == [("b.parquet", {"wrong_shape": 3})]


def test_with_force_the_rows_are_examined_before_results_of_another_configuration_are_replaced(
    tmp_path: Path, article_onnx: Path, digits: NDArray[np.uint8]
) -> None:
    write_shard(tmp_path / "in/a.parquet", [encode(digits[0])])
    config = RunConfig(passes=4, device="cpu")
    run_screening(article_onnx, str(tmp_path / "in"), tmp_path / "out", config, Recorder())
    before = contents(tmp_path / "out")
    write_shard(tmp_path / "in/a.parquet", [WRONG] * 3)
    config = RunConfig(passes=5, device="cpu", force="all")
    with pytest.raises(InputRefused, match="None of 3 rows"):
        run_screening(article_onnx, str(tmp_path / "in"), tmp_path / "out", config, Recorder())
    assert contents(tmp_path / "out") == before


def test_one_readable_shard_of_the_drawn_ones_lets_the_run_go_on(
    tmp_path: Path, article: ExportedModel, digits: NDArray[np.uint8], decoded: list[int]
) -> None:
    for index in range(12):
        write_shard(tmp_path / f"{index:02}.parquet", [WRONG] * 200)
    assert "None of 1000 rows, drawn from 10 of 12 shard(s)" in refuse(tmp_path, article).found
    assert sum(decoded) == 1000
    write_shard(tmp_path / "11.parquet", [encode(digits[0])])
    examine(tmp_path, article)


def test_a_run_whose_first_row_can_be_read_decodes_one_row_more(
    tmp_path: Path, article: ExportedModel, digits: NDArray[np.uint8], decoded: list[int]
) -> None:
    write_shard(tmp_path / "a.parquet", [encode(digits[0])] + [WRONG] * 500)
    examine(tmp_path, article)
    assert decoded == [1]


def test_a_few_damaged_images_besides_do_not_hide_the_reason(tmp_path: Path, article: ExportedModel) -> None:
    write_shard(tmp_path / "a.parquet", [b"damaged"] + [WRONG] * 19)
    assert "64 x 48" in refuse(tmp_path, article).found
    write_shard(tmp_path / "a.parquet", [b"damaged"] * 5 + [WRONG] * 19)
    examine(tmp_path, article)


def test_a_shard_that_cannot_be_read_says_nothing_about_the_others(tmp_path: Path, article: ExportedModel) -> None:
    path = write_shard(tmp_path / "a.parquet", [WRONG] * 20)
    data = bytearray(path.read_bytes())
    data[4:12] = b"\xff" * 8  # the header of the first page
    path.write_bytes(data)
    examine(tmp_path, article)
    write_shard(tmp_path / "b.parquet", [WRONG] * 20)
    write_shard(tmp_path / "c.parquet", [])
    assert "None of 20 rows" in refuse(tmp_path, article).found


def test_paths_without_image_root_or_below_another_folder_name_it(tmp_path: Path, article: ExportedModel) -> None:
    (tmp_path / "in").mkdir()
    write_paths(tmp_path / "in/a.parquet", ["cat/0.png", "cat/1.png"])
    without = refuse(tmp_path / "in", article)
    assert "'cat/0.png'" in without.found
    assert "add --image-root FOLDER" in without.next_step
    elsewhere = refuse(tmp_path / "in", article, image_root=str(tmp_path))
    assert "'cat/0.png'" in elsewhere.found
    assert "--image-root" in elsewhere.next_step


@pytest.mark.parametrize("value", [None, b"an embedding, for example"])
def test_a_column_without_images_names_another_one(
    tmp_path: Path, article: ExportedModel, digits: NDArray[np.uint8], value: bytes | None
) -> None:
    columns = {"image": pa.array([value] * 9, pa.binary()), "photo": pa.array([encode(digits[0])] * 9)}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert "--image-column 'photo'" in refuse(tmp_path, article).next_step
    examine(tmp_path, article, image_column="photo")


def test_a_reason_that_no_option_corrects_does_not_stop_a_run(tmp_path: Path, article: ExportedModel) -> None:
    write_shard(tmp_path / "a.parquet", [b"not an image"] * 9)
    examine(tmp_path, article)


def test_images_above_max_pixels_name_it(tmp_path: Path, article: ExportedModel) -> None:
    write_shard(tmp_path / "a.parquet", [WRONG] * 9)
    assert "--max-pixels" in refuse(tmp_path, article, max_pixels=100).next_step


@pytest.mark.parametrize(
    "name", ["a PPM with the largest value 100 and 4,194,304 pixels", "a JPEG whose header states 65,500 x 65,500"]
)
def test_a_limit_that_max_pixels_does_not_set_does_not_stop_a_run(
    name: str, tmp_path: Path, article: ExportedModel
) -> None:
    """The second limit is Pillow's, which is the maximum of the option."""
    assert int(2 * (Image.MAX_IMAGE_PIXELS or 0)) == MAX_PIXELS
    write_shard(tmp_path / "a.parquet", [CASES[name].data] * 9)
    examine(tmp_path, article)


@pytest.mark.parametrize("place", ["source", "reference"])
def test_a_calibration_stops_before_it_reads_all_rows(
    tmp_path: Path, article_onnx: Path, digits: NDArray[np.uint8], place: str
) -> None:
    write_shard(tmp_path / "good/a.parquet", [encode(image) for image in digits[:200]])
    write_shard(tmp_path / "bad/a.parquet", [WRONG] * 200)
    source, reference = ("bad", "good") if place == "source" else ("good", "bad")
    wanted = CalibrationConfig(reference=str(tmp_path / reference))
    config = RunConfig(passes=4, device="cpu")
    with pytest.raises(InputRefused, match="None of 200 rows, drawn from 1 of 1 shard"):
        run_calibration(article_onnx, str(tmp_path / source), tmp_path / "x.cal", config, wanted, Recorder())
    assert not (tmp_path / "x.cal").exists()
