from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from export.contract.reader import ExportedModel
from export.errors import InputRefused, OptionRefused
from screen import Screener
from screen.columns import DECISION, SCORES
from screen.config import RunConfig
from screen.engine.device.choice import choose_device
from screen.run.runner import run_screening
from tests.conftest import Recorder, encode, write_shard
from tests.screen.engine.graphs import raw_values


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 28, 28), np.uint8),
        np.zeros((28, 28, 1), np.uint8),
        np.zeros((2, 28, 28, 3), np.uint8),
        np.zeros((2, 28, 28, 1), np.float32),
        np.zeros((0, 28, 28, 1), np.uint8),
        [[1]],
    ],
)
def test_arrays_of_another_type_or_shape_are_refused(article: ExportedModel, images: Any) -> None:
    with pytest.raises(InputRefused, match="The images are") as refused:
        Screener(article, passes=2, device="cpu").score(images)
    assert "uint8 [B, 28, 28, 1]" in refused.value.wanted


def test_raw_passes_come_in_blocks_with_t_passes_in_total(article_onnx: Path, digits: NDArray[np.uint8]) -> None:
    blocks = list(Screener(article_onnx, passes=40, device="cpu").raw_passes(digits[:3]))
    assert len(blocks) > 1
    assert np.concatenate(blocks).shape == (40, 3, 10)


def test_a_rule_flags_rows(article: ExportedModel, digits: NDArray[np.uint8]) -> None:
    everything = Screener(article, passes=2, flag_if="confidence > 0", device="cpu")
    assert everything.score(digits[:4]).flag.all()


def test_a_row_whose_outputs_are_no_probabilities_is_flagged_without_scores() -> None:
    images = np.zeros((3, 4, 4, 3), np.uint8)
    images[1] = 200
    rows = Screener(raw_values("softmax"), passes=10, flag_if="confidence < 0", device="cpu").score(images)
    assert rows.flag.tolist() == [False, True, False]
    assert [reason.condition for reason in rows.reasons[1]] == ["not_probabilities"]
    assert rows.scores["prediction"].tolist() == [2, -1, 2]
    assert (
        np.isnan(rows.scores["entropy"]).tolist()
        == np.isnan(rows.scores["mean"][:, 0]).tolist()
        == [False, True, False]
    )


def test_cuda_is_cuda_or_an_error(article: ExportedModel) -> None:
    if choose_device("auto", 1).name == "cuda":
        assert Screener(article, passes=2, device="cuda").device.name == "cuda"
    else:
        with pytest.raises(OptionRefused, match="--device cuda was requested, but"):
            Screener(article, passes=2, device="cuda")


def test_auto_notes_in_one_line_only_that_a_gpu_does_not_work(article: ExportedModel) -> None:
    device = Screener(article, passes=2, device="auto").device
    assert device.name == "cpu" or not device.note
    assert "\n" not in device.note


@pytest.mark.parametrize("options", [{"passes": 0}, {"seed": -1}, {"memory": 0}, {"masks": "none"}])
def test_invalid_options_are_refused(article: ExportedModel, options: dict[str, Any]) -> None:
    with pytest.raises(OptionRefused):
        Screener(article, **options)


def test_an_unknown_device_is_refused(article: ExportedModel) -> None:
    with pytest.raises(OptionRefused, match="--device is 'tpu'"):
        Screener(article, device="tpu")


def run_rows(model: Path, place: Path, images: list[bytes | None], calibration: Path | None = None) -> pa.Table:
    """The results of a run over one shard with these images."""
    write_shard(place / "in" / "a.parquet", images)
    config = RunConfig(device="cpu", max_bad_rows="100%", **options_of(calibration))
    run_screening(model, str(place / "in"), place / "out", config, Recorder())
    return pq.read_table(place / "out" / "a.parquet")


def assert_same(found: pa.Table, expected: pa.Table) -> None:
    """The tables have equal values, types and descriptions of the columns, and can be concatenated."""
    assert found.equals(expected.select(found.column_names))
    assert len(pa.concat_tables([found, expected])) == len(found) + len(expected)
    for field in found.schema:
        assert field.metadata == expected.schema.field(field.name).metadata


def options_of(calibration: Path | None) -> dict[str, Any]:
    return {"passes": 7, "flag_if": "entropy > 0.5"} if calibration is None else {"calibration": str(calibration)}


def resized(model: Path, target: Path, method: str) -> Path:
    """The model as if it had been exported with --resize."""
    proto = onnx.load(model)
    (entry,) = (entry for entry in proto.metadata_props if entry.key.endswith(".resize"))
    entry.value = method
    onnx.save(proto, target)
    return target


def picture_files(digits: NDArray[np.uint8]) -> list[bytes]:
    """Images of several formats, modes and sizes."""
    colour = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    large = io.BytesIO()
    Image.fromarray(colour).save(large, "JPEG")
    palette = io.BytesIO()
    Image.fromarray(digits[1][..., 0]).convert("P").save(palette, "GIF")
    return [encode(digits[0]), large.getvalue(), palette.getvalue(), encode(colour[:28, :28], "BMP"), b"no image"]


@pytest.mark.parametrize("kind", ["bytes", "str", "path", "pillow", "mixed"])
def test_a_list_of_images_has_the_scores_of_a_run_bit_for_bit(
    kind: str, article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    model = resized(article_onnx, tmp_path / "m.onnx", "bilinear")
    files = picture_files(digits)
    paths = []
    for index, data in enumerate(files):
        paths.append(tmp_path / f"{index} %20 \u8a9e.bin")
        paths[-1].write_bytes(data)
    given: dict[str, list[Any]] = {
        "bytes": files,
        "str": [str(path) for path in paths],
        "path": paths,
        "pillow": [Image.open(io.BytesIO(data)) for data in files[:-1]],
        "mixed": [files[0], paths[1], Image.open(io.BytesIO(files[2])), str(paths[3]), paths[4]],
    }
    expected = run_rows(model, tmp_path, [*files]).drop_columns(["shard", "row"])
    scored = Screener(model, device="cpu", **options_of(None)).score(given[kind])
    found = scored.to_arrow([f"a-{row}" for row in range(len(given[kind]))])
    assert_same(found, expected.slice(0, len(given[kind])))
    assert scored.status == ["ok"] * 4 + ["decode_failed"] * (kind != "pillow")
    assert len(scored.scores["entropy"]) == len(scored.summary.mean) == len(scored.flag) == len(given[kind])
    assert scored.to_arrow().column_names == found.column_names[1:]
    if kind == "pillow":
        assert [image.size for image in given[kind]] == [Image.open(io.BytesIO(data)).size for data in files[:-1]]


def test_arrays_have_the_scores_of_a_run_bit_for_bit(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    expected = run_rows(article_onnx, tmp_path, [encode(image) for image in digits[:5]])
    screener = Screener(article_onnx, device="cpu", **options_of(None))
    for images in (digits[:5], list(digits[:5]), [*digits[:3, ..., 0], *digits[3:5, :, ::-1][:, :, ::-1]]):
        found = screener.score(images).to_arrow()
        assert_same(found, expected.select(found.column_names))


def test_an_image_that_cannot_be_read_has_its_status_and_ends_no_batch(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    """Also if no image can be read; scores are NaN, predictions -1, and the columns of the table null."""
    screener = Screener(article_onnx, device="cpu", **options_of(None))
    (tmp_path / "folder").mkdir()
    bad = [tmp_path / "gone.png", tmp_path / "folder", b"", Image.new("I;16", (28, 28)), digits[0][:20], b"nonsense"]
    statuses = ["path_not_found", "path_not_found", *["decode_failed"] * 2, "wrong_shape", "decode_failed"]
    for images, good in ((bad, 0), ([digits[0], *bad], 1)):
        scored = screener.score(images)
        assert scored.status == ["ok"] * good + statuses
        assert scored.flag[good:].all()
        assert [reasons[0].condition for reasons in scored.reasons[good:]] == statuses
        assert np.isnan(scored.scores["entropy"][good:]).all()
        assert np.isnan(scored.scores["mean"][good:]).all()
        assert np.isnan(scored.summary.mean[good:]).all()
        assert (scored.scores["prediction"][good:] == -1).all()
        table = scored.to_arrow()
        assert table["entropy"].null_count == table["prediction"].null_count == len(bad)
        assert table["passes"].to_pylist() == [7] * good + [0] * len(bad)
    alone, beside = screener.score([digits[0]]).scores, screener.score([digits[0], *bad]).scores
    assert set(screener.score(bad).scores) == set(alone)
    assert all(np.array_equal(values[0], beside[name][0]) for name, values in alone.items())


@pytest.mark.parametrize(
    ("images", "found"),
    [
        ([np.zeros((28, 28, 1), np.float32)], "image 0 is float32 [28, 28, 1]"),
        ([b"x", np.zeros((28, 28, 3), np.uint8)], "image 1 is uint8 [28, 28, 3]"),
        ([None], "image 0 is an object of type NoneType"),
        ([], "The images are an empty list."),
        ("a.png", "The images are an object of type str, not a list."),
        (Path("a.png"), "Path, not a list."),
    ],
)
def test_values_that_are_no_images_are_refused(article: ExportedModel, images: Any, found: str) -> None:
    with pytest.raises(InputRefused) as refused:
        Screener(article, passes=2, device="cpu").score(images)
    assert found in refused.value.found


def test_a_frame_of_pandas_has_the_result_columns(
    article: ExportedModel, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = Screener(article, passes=2, device="cpu").score(digits[:3])
    with pytest.raises(OptionRefused, match="2 ids were given for 3 images"):
        scored.to_arrow(["a", "b"])
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "pandas", None)
        with pytest.raises(OptionRefused, match="pandas is not installed"):
            scored.to_pandas()
    pytest.importorskip("pandas", reason="pandas is not installed")
    frame = scored.to_pandas(["a", "b", "c"])
    assert list(frame.columns) == ["id", *(column.name for column in (*SCORES, *DECISION))]
    assert frame["entropy"].tolist() == scored.scores["entropy"].tolist()
