"""A real model beyond 2 GB, which no protobuf message can hold."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.conftest import encode, oodscreen, write_shard

SIDE, UNITS = 128, 36_000
"""128 x 128 pixels times 36,000 units are 590 million weights: 2.36 GB."""


@pytest.mark.integration
def test_a_model_above_2_gb_is_exported_inspected_moved_and_run(
    keras: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = keras.layers
    image = keras.Input((SIDE, SIDE, 1))
    x = layers.Dense(UNITS, activation="relu", kernel_initializer=keras.initializers.RandomUniform(-0.02, 0.02))(
        layers.Flatten()(image)
    )
    model = keras.Model(image, layers.Dense(3, activation="softmax")(layers.Dropout(0.5)(x)))
    source, folder = tmp_path / "model.keras", tmp_path / "out"
    model.save(source)
    del model
    folder.mkdir()
    exported = folder / "m.onnx"
    assert oodscreen("export", source, exported, "--scale", "1/255", monkeypatch=monkeypatch) == 0
    source.unlink()
    (data,) = folder.glob("*.data")
    assert data.stat().st_size > 2**31 > 2**20 > exported.stat().st_size

    moved = shutil.move(folder, tmp_path / "elsewhere")
    assert oodscreen("inspect", Path(moved) / "m.onnx", monkeypatch=monkeypatch) == 0
    assert "dropout: rate 0.5 on [36000]" in capsys.readouterr().out
    images = np.random.default_rng(1).integers(0, 256, (4, SIDE, SIDE, 1), dtype=np.uint8)
    write_shard(tmp_path / "shard.parquet", [encode(one) for one in images])
    command = ("run", Path(moved) / "m.onnx", tmp_path / "shard.parquet", tmp_path / "results", "-T", "20")
    assert oodscreen(*command, monkeypatch=monkeypatch) == 0
    results = pq.read_table(tmp_path / "results" / "shard.parquet")
    assert results["status"].to_pylist() == ["ok"] * 4
    assert np.array(results["std"].to_pylist()).min() > 0
