"""Model files are recognised by their content; other files are refused, and the error names their kind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import pytest

from export.errors import ModelRefused
from export.source.containers import read_container
from export.source.load import load_model
from tests.export import family, keras_2

OTHERS = (
    (
        "model.h5",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "is a Git LFS pointer",
        "' && git lfs pull",
    ),
    ("model.h5", b"\n<!DOCTYPE html><html>", "is a page of HTML or XML", "download the file itself"),
    ("model.keras", b'<?xml version="1.0"?>', "is a page of HTML or XML", "download the file itself"),
    ("model.h5", b"", "is empty", "model.save"),
    ("model.h5", b"\x1c\0\0\0TFL3\x14\0", "is a TensorFlow Lite model", "model.save"),
    ("model.pt", b"\x80\x02\x8a\x0alm\xfcw", "is a file of PyTorch", "torch.onnx.export"),
    ("model.pkl", b"\x80\x04\x95", "is a Python pickle", "model.save"),
    ("model.onnx", b"\x08\x08\x12\x07pytorch", "is an ONNX model", "model.save"),
    ("frozen.pb", b"\n\x1f\n\x05", "is a graph of TensorFlow", "model.save"),
    ("model.h5", b"\x1f\x8b\x08", "is a compressed archive", "tar -xzf '"),
    ("model.7z", b"7z\xbc\xaf\x27\x1c", "is a compressed archive", "7z x '"),
    ("model.rar", b"Rar!\x1a\x07", "is a compressed archive", "unrar x '"),
    ("model.json", b'{"modelTopology": {}}', "is a model of TensorFlow.js", "tensorflowjs_converter --input"),
    ("model.json", b'{"format": "graph-model", "modelTopology": {}}', "is a model of TensorFlow.js", "without layers"),
    ("model.json", b'{"a": 1}', "is a JSON file without the layers of a Keras model", "model.save"),
    ("model.json", b'{"a": ', "could not be read", "copy or download it again"),
    ("model.bin", b"\x00\x01\x02", "is of an unknown kind (it begins with", "model.save"),
    ("model.h5", b"\x89HDF\r\n\x1a\n\0\0", "could not be read", "copy or download it again"),
    ("model.keras", b"PK\x03\x04\0\0", "could not be read", "copy or download it again"),
)


def refusal(path: Path) -> str:
    with pytest.raises(ModelRefused) as caught:
        load_model(path)
    return str(caught.value)


@pytest.mark.parametrize(("name", "content", "found", "step"), OTHERS)
def test_a_file_that_is_no_model_is_refused_by_what_it_is(
    name: str, content: bytes, found: str, step: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    found_text, _, steps = refusal(path).partition("wanted:")
    assert found in found_text
    assert step in steps


def test_the_advice_for_an_archive_of_a_model_unpacks_it(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of the archive is refused with the path of the model in it."""
    family.sequential(keras).save(tmp_path / "best.keras")
    archive = tmp_path / "my model.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(tmp_path / "best.keras", "trained/best.keras")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    subprocess.run(["/bin/sh", "-c", refusal(archive).partition("export the folder: ")[2]], check=True)
    message = refusal(tmp_path / "my model-files" / "trained")
    assert load_model(Path(message.rpartition("export ")[2])).classes == 3


def test_parts_of_models_are_refused_with_the_whole(keras: Any, tmp_path: Path) -> None:
    assert "There is no model file" in refusal(tmp_path / "missing.keras")
    part = tmp_path / "saved_model.pb"
    part.write_bytes(b"\x08\x01")
    assert f"give the folder {tmp_path}" in refusal(part)
    archive = tmp_path / "model.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("folder/saved_model.pb", b"")
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", b"")
    assert "is a file of PyTorch" in refusal(archive)
    model = family.sequential(keras)
    model.save(tmp_path / "whole.keras")
    model.save(tmp_path / "whole.h5")
    for name in ("whole.keras", "whole.h5"):
        cut = tmp_path / f"cut.{name}"
        cut.write_bytes((tmp_path / name).read_bytes()[:-1000])
        assert "could not be read" in refusal(cut)


@pytest.mark.parametrize(
    ("made", "name"),
    [
        ("model.h5", "model.keras"),
        ("model.h5", "model.model"),
        ("model.h5", "model"),
        ("model.h5", "model.weights.h5"),
        ("model.keras", "model.h5"),
        ("model.keras", "model"),
    ],
)
@pytest.mark.parametrize("version", [2, 3])
def test_a_model_is_found_under_any_name(keras: Any, made: str, name: str, version: int, tmp_path: Path) -> None:
    path = tmp_path / made
    if version == 3:
        family.sequential(keras).save(path)
    else:
        keras_2.save(family.sequential(family.import_keras_2()), path)
    path = path.rename(tmp_path / name)
    assert read_container(path).age == version
    assert load_model(path).classes == 3


def as_keras_1(path: Path) -> None:
    """The layers and names of weights that Keras 1 wrote, of the model `sequential` of the family."""

    def change(config: dict[str, Any]) -> dict[str, Any]:
        layers = []
        for one in config["config"]["layers"][1:]:
            own = {"name": one["config"]["name"], "trainable": True}
            if one["class_name"] == "Dense":
                own |= {"output_dim": one["config"]["units"], "init": "glorot_uniform", "W_regularizer": None}
            if one["class_name"] == "Dropout":
                own["p"] = one["config"]["rate"]
            layers.append({"class_name": one["class_name"], "config": own})
        return {"class_name": "Sequential", "config": layers}

    keras_2.edit_config(path, change, "1.2.2")
    with h5py.File(path, "r+") as file:
        for name, group in file["model_weights"].items():
            old = [*group.attrs["weight_names"]]
            new = [f"{name}_{'W' if 'kernel' in one else 'b'}" for one in old]
            for before, after in zip(old, new, strict=True):
                group[after] = group[before][()]
                del group[before]
            group.attrs["weight_names"] = [one.encode() for one in new]


@pytest.mark.parametrize("stated", [True, False])
def test_keras_1_is_refused_and_the_advice_ends_in_the_same_model(
    keras: Any, stated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = family.import_keras_2()
    model = keras_2.randomized(family.sequential(library))
    path = keras_2.save(model, tmp_path / "old.h5")
    as_keras_1(path)
    if not stated:
        with h5py.File(path, "r+") as file:
            del file.attrs["keras_version"]
    message = refusal(path)
    assert f"was written by Keras {'1.2.2' if stated else '1'}" in message
    assert "pip install tf_keras" in message
    keras_2.follow(message, tmp_path, monkeypatch, model=family.sequential(library))
    keras_2.check(model, tmp_path / "old-keras-2.h5")


def test_layers_and_weights_in_two_files_are_advised_for_weights_alone(keras: Any, tmp_path: Path) -> None:
    library = family.import_keras_2()
    model = keras_2.randomized(family.sequential(library))
    weights = tmp_path / "only.h5"
    model.save_weights(weights)
    message = refusal(weights)
    assert "contains only weights" in message
    assert "open('model.json', 'w').write(model.to_json())" in message
    assert "export model.json with --weights only.h5" in message

    (tmp_path / "model.json").write_text(model.to_json())
    keras_2.check(model, tmp_path / "model.json", weights=weights)


def test_the_configuration_of_keras_3_in_json_has_no_version(keras: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text(family.sequential(keras).to_json())
    container = read_container(path)
    assert (container.kind, container.version, container.age) == ("json", "", 3)
    path.write_text(json.dumps({"class_name": "Sequential", "config": []}))
    assert read_container(path).age == 2


@pytest.mark.hostile(
    "A `.keras` file of a few MB whose content takes a few GB after decompression",
    "the export refuses the file before it decompresses the content",
)
def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    for name in ("config.json", "model.weights.h5"):
        path = tmp_path / f"{name}.keras"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            if name != "config.json":
                archive.writestr("config.json", "{}")
            with archive.open(name, "w", force_zip64=True) as file:
                for _ in range(300):
                    file.write(bytes(2**20))
        assert path.stat().st_size < 2**20
        with pytest.raises(ModelRefused, match=r"its content has 0\.3 GB after decompression"):
            read_container(path)


def test_arrays_that_unpack_to_gigabytes_are_refused(keras: Any, tmp_path: Path) -> None:
    """HDF5 compresses arrays by itself; such a file is neither read in whole nor loaded."""
    path = tmp_path / "model.h5"
    family.sequential(keras).save(path)
    with h5py.File(path, "a") as file:
        file.create_dataset("model_weights/more", (2**32,), "float32", chunks=(2**20,), compression="gzip")
    with pytest.raises(ModelRefused, match=r"its content has 17\.2 GB after decompression"):
        read_container(path)
    archive = tmp_path / "model.keras"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("config.json", "{}")
        packed.write(path, "model.weights.h5")
    with pytest.raises(ModelRefused, match=r"its content has 17\.2 GB after decompression"):
        read_container(archive)
