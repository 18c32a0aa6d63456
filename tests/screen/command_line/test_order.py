from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from screen.config import RunConfig
from screen.run.runner import run_screening
from tests.conftest import Recorder, encode, make_once, oodscreen, write_shard


@pytest.fixture(scope="module")
def folder(article_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, shards, results, images, labels and a page, each under its usual name."""

    def make(place: Path) -> None:
        image = encode(np.zeros((28, 28, 1), np.uint8))
        write_shard(place / "shards" / "in" / "a.parquet", [image])
        run_screening(article_onnx, str(place / "shards"), place / "results", RunConfig(passes=2), Recorder())
        (place / "model.onnx").write_bytes(article_onnx.read_bytes())
        (place / "photos" / "cat").mkdir(parents=True)
        (place / "photos" / "cat" / "a.png").write_bytes(image)
        (place / "labels.csv").write_text("shard,row,label\nin/a.parquet,0,3\n")
        (place / "page.html").write_text("<!DOCTYPE html>")

    return make_once("order", make, tmp_path_factory)


@pytest.mark.parametrize(
    ("words", "order"),
    [
        ("run shards model.onnx out", "run MODEL.onnx INPUT OUTPUT"),
        ("run out model.onnx shards", "run MODEL.onnx INPUT OUTPUT"),
        ("run memory://shards memory://model.onnx out", "run MODEL.onnx INPUT OUTPUT"),
        ("run model.onnx out shards", "run MODEL.onnx INPUT OUTPUT"),
        ("calibrate shards model.onnx -o cal", "calibrate MODEL.onnx IN_DISTRIBUTION --output CALIBRATION"),
        ("report page.html -o results", "report RESULTS --output PAGE"),
        ("queue queue.parquet -o results", "queue RESULTS --output QUEUE"),
        ("labels results labels.csv -o new.parquet", "labels LABELS RESULTS --output FILE.parquet"),
        ("doctor shards model.onnx", "doctor MODEL.onnx SHARD"),
        ("check shards --input results", "check RESULTS --input INPUT"),
        ("pack out photos", "pack SOURCE SHARDS"),
        ("pack shards photos", "pack SOURCE SHARDS"),
        ("export new.onnx model.keras", "export MODEL OUT.onnx"),
    ],
)
def test_paths_in_a_wrong_order_are_refused_with_the_order(
    words: str, order: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert oodscreen(*words.split(), monkeypatch=monkeypatch) == 2
    assert f"next:   give the paths in this order: oodscreen {order}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "run model.onnx results out",
        "run model.onnx none out",
        "run none.onnx shards out",
        "run memory://model memory://shards out",
        "run model.onnx shards results --passes 3",
        "report shards -o new.html",
        "report results -o shards",
        "report none -o new.html",
        "pack none new",
    ],
)
def test_other_errors_say_nothing_about_the_order(
    words: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert oodscreen(*words.split(), monkeypatch=monkeypatch) == 2
    assert "in this order" not in capsys.readouterr().err
