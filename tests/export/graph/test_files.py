"""External weights, with the size limit of protobuf lowered to a few kilobytes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import export.graph.convert
import export.graph.files
from export.contract.external import external_locations
from export.contract.reader import read_model
from export.errors import ContractRefused, VerificationFailed
from export.exporter import export_model
from export.runtime import onnxruntime
from screen.run.screener import Screener


def build(keras: Any, units: int = 64) -> Any:
    layers = keras.layers
    image = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, activation="relu")(image)
    x = layers.Dropout(0.3)(layers.Dense(units, activation="relu")(layers.Flatten()(x)))
    return keras.Model(image, layers.Dense(4, activation="softmax")(x))


def images(rows: int = 5) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (rows, 12, 12, 3), dtype=np.uint8)


@pytest.fixture(params=["traced", "held out of the trace"])
def large(request: pytest.FixtureRequest, keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with external weights, which were traced or kept outside the trace."""
    monkeypatch.setattr(export.graph.files, "LARGEST_FILE", 2**14)
    if request.param != "traced":
        monkeypatch.setattr(export.graph.convert, "LARGE_MODEL", 2**14)
        monkeypatch.setattr(export.graph.convert, "LARGE_WEIGHT", 2**10)
    keras.utils.set_random_seed(1)
    export_model(build(keras), tmp_path / "m.onnx", scale=1 / 255)
    return tmp_path / "m.onnx"


def test_a_model_with_weights_beside_it_runs_anywhere_and_in_the_engine(large: Path) -> None:
    model = read_model(large)
    (location,) = external_locations(model.proto)
    assert sorted(path.name for path in large.parent.iterdir()) == sorted([large.name, location])
    assert len(large.read_bytes()) < 2**15
    onnx.checker.check_model(str(large), full_check=True)
    session = onnxruntime.InferenceSession(str(large), providers=["CPUExecutionProvider"])
    free = np.stack([session.run(None, {"image": images()})[0] for _ in range(1000)])
    ours = Screener(large, passes=1000).score(images()).summary
    # The session draws from the system's entropy: six standard errors are never exceeded by chance.
    standard_error = np.sqrt((free.var(axis=0) + ours.std**2) / 1000)
    assert 6 * standard_error.max() < 0.05
    assert np.all(np.abs(ours.mean - free.mean(axis=0)) <= 6 * standard_error + 1e-5)


@pytest.mark.parametrize("opset", [17, 21])
def test_other_operator_sets_run_in_the_engine_too(large: Path, keras: Any, opset: int) -> None:
    export_model(build(keras), large, scale=1 / 255, opset=opset)
    assert external_locations(read_model(large).proto)
    assert Screener(large, passes=5).score(images()).summary.mean.shape == (5, 4)


def test_the_digest_covers_the_weights(large: Path) -> None:
    before = read_model(large).digest
    (location,) = external_locations(read_model(large).proto)
    data = bytearray((large.parent / location).read_bytes())
    data[-1] ^= 1
    (large.parent / location).write_bytes(data)
    assert read_model(large).digest != before


def test_another_export_replaces_both_files(
    large: Path, keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_model(build(keras, units=80), large, scale=1 / 255)
    (location,) = external_locations(read_model(large).proto)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([large.name, location])
    monkeypatch.setattr(export.graph.files, "LARGEST_FILE", 2**31)
    monkeypatch.setattr(export.graph.convert, "LARGE_MODEL", 2**31)
    export_model(build(keras), large, scale=1 / 255)
    assert [path.name for path in tmp_path.iterdir()] == [large.name]


def test_an_export_to_a_link_renews_what_it_points_at(large: Path, keras: Any, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "latest.onnx"
    link.symlink_to(large)
    before = read_model(link).digest
    export_model(build(keras, units=80), link, scale=1 / 255)
    assert [path.name for path in link.parent.iterdir()] == [link.name]
    assert read_model(link).digest == read_model(large).digest != before


def test_a_failed_export_leaves_both_files_as_they_were(
    large: Path, keras: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in large.parent.iterdir()}

    def fail(*_: object) -> None:
        raise VerificationFailed("no", wanted="yes", next_step="none")

    monkeypatch.setattr("export.proof.verify.verify_model", fail)
    with pytest.raises(VerificationFailed):
        export_model(build(keras, units=80), large, scale=1 / 255)
    assert {path.name: path.read_bytes() for path in large.parent.iterdir()} == before


def relocate(path: Path, location: str) -> None:
    model = onnx.load_model(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "sub/weights", "..", ".", "", "a\\b"])
def test_weights_outside_the_folder_are_refused(large: Path, location: str) -> None:
    (large.parent.parent / "secret").write_bytes(b"x" * 10**6)
    relocate(large, location)
    with pytest.raises(ContractRefused, match="not a regular file in the model's folder, or a key is unknown"):
        read_model(large)


def test_a_link_to_weights_elsewhere_is_refused(large: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (location,) = external_locations(read_model(large).proto)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "weights"
    shutil.move(large.parent / location, elsewhere)
    os.symlink(elsewhere, large.parent / location)
    with pytest.raises(ContractRefused, match="not a regular file in the model's folder, or a key is unknown"):
        read_model(large)


def test_weights_that_onnxruntime_would_read_in_another_way_are_refused(large: Path) -> None:
    model = onnx.load_model(large, load_external_data=False)
    tensor = next(one for one in model.graph.initializer if one.external_data)
    tensor.external_data.add(key="prepacked_0", value="key|0;16;1")
    large.write_bytes(model.SerializeToString())
    with pytest.raises(ContractRefused, match="not a regular file in the model's folder, or a key is unknown"):
        read_model(large)


def test_weights_that_are_missing_or_cut_short_are_refused(large: Path) -> None:
    (location,) = external_locations(read_model(large).proto)
    data = (large.parent / location).read_bytes()
    (large.parent / location).write_bytes(data[:-10])
    with pytest.raises(ContractRefused, match=r"bytes\), which does not contain the whole tensor"):
        read_model(large)
    (large.parent / location).unlink()
    with pytest.raises(ContractRefused, match="does not exist"):
        read_model(large)
