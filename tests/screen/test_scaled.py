"""JPEG images that are decoded at a fraction of their size, from the export to the scores."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from export.contract.inputs import Resize
from export.contract.reader import read_model
from screen.decide.calibration import read_calibration
from screen.demo import read_images
from screen.input.resize import resize_image
from tests.conftest import encode, oodscreen, read_results

SIZE = (184, 168)
"""Width and height of the JPEG images: `crop` reduces them 6 times, libjpeg 2 times of these."""


def test_export_calibrate_and_run_decode_jpeg_images_at_the_same_fraction(
    article_keras: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digits, labels = (part[:240] for part in read_images("valid"))
    files: dict[str, list[bytes]] = {"jpeg": [], "fraction": [], "whole": []}
    for digit in digits:
        buffer = io.BytesIO()
        Image.fromarray(digit[..., 0]).resize(SIZE, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
        whole, fraction = (Image.open(io.BytesIO(buffer.getvalue())) for _ in range(2))
        fraction.draft(None, (SIZE[0] // 2, SIZE[1] // 2))
        assert fraction.size == (SIZE[0] // 2, SIZE[1] // 2)
        files["jpeg"].append(buffer.getvalue())
        for name, image in (("fraction", fraction), ("whole", whole)):
            files[name].append(encode(resize_image(image, Resize.parse("bilinear:crop"), 28, 28)[..., np.newaxis]))
    for name, encoded in files.items():
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"image": encoded, "label": labels.tolist()}), tmp_path / name / "a.parquet")
    model = tmp_path / "m.onnx"

    def call(*words: str | Path) -> str:
        assert oodscreen(*words, monkeypatch=monkeypatch) == 0
        return capsys.readouterr().out

    check: list[str | Path] = ["--check-data", tmp_path / "jpeg", "--label-column", "label", "--check-rows", "1000"]
    call("export", article_keras, model, "--scale", "1/255", "--resize", "bilinear:crop:scaled", *check)
    contract = read_model(model).contract
    assert contract.resize == Resize.parse("bilinear:crop:scaled")
    assert contract.accuracy is not None
    assert contract.accuracy.rows == 240
    assert contract.accuracy.exported > 0.8
    thresholds = {}
    for name in ("jpeg", "fraction"):
        calibration = tmp_path / f"{name}.calibration"
        call("calibrate", model, tmp_path / name, "-o", calibration, "--review-rate", "0.1", "-T", "2")
        thresholds[name] = read_calibration(calibration).threshold
    assert thresholds["jpeg"] == thresholds["fraction"]
    tables = {}
    for name in files:
        call("run", model, tmp_path / name, tmp_path / "out" / name, "-T", "2")
        tables[name] = read_results(tmp_path / "out" / name)
    for column in ("mean", "entropy", "ood_score", "flag"):
        assert tables["jpeg"][column].equals(tables["fraction"][column])
    assert not tables["jpeg"]["mean"].equals(tables["whole"]["mean"])
