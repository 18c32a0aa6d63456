"""Refusals of folders and files without Parquet: their kind, and the command that accepts them."""

from __future__ import annotations

import gzip
import io
import os
import re
import shlex
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from export.errors import InputRefused
from screen.input.shards import find_shards

JPEG = b"\xff\xd8\xff\xe0 and the rest of a JPEG image"


def refuse(source: str | Path) -> InputRefused:
    with pytest.raises(InputRefused) as refused:
        find_shards(str(source))
    return refused.value


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def command(error: InputRefused) -> list[str]:
    """The first command of the next step, as a shell divides it."""
    found = re.search(r"`([^`]+)`", error.next_step)
    assert found is not None, error.next_step
    return shlex.split(found[1])


def tar(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("0.jpg")
        info.size = len(JPEG)
        archive.addfile(info, io.BytesIO(JPEG))
    return path


@pytest.mark.parametrize("name", ["images", "it's 100 % ünusual", "$(touch x) `y`"])
def test_a_folder_of_images_is_refused_with_the_command_that_packs_it(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    write(folder / "cat/0.jpg", JPEG)
    write(folder / "dog/1.jpg", JPEG)
    write(folder / "README.md", b"about")
    error = refuse(folder)
    assert ".jpg 2" in error.found
    assert "which is an image file" in error.found
    quoted = shlex.quote(str(folder))
    assert f"oodscreen pack {quoted} SHARDS" in error.next_step


def test_an_image_is_refused_with_the_command_that_packs_its_folder(tmp_path: Path) -> None:
    image = write(tmp_path / "images/photo.JPG", JPEG)
    assert command(refuse(image)) == ["oodscreen", "pack", str(tmp_path / "images"), "SHARDS"]
    write(tmp_path / "images/cat/x.jpg", JPEG)
    assert command(refuse(tmp_path / "images" / "**" / "*")) == [
        "oodscreen",
        "pack",
        str(tmp_path / "images"),
        "SHARDS",
    ]


@pytest.mark.parametrize("name", ["paths.csv", "paths.jsonl"])
def test_a_list_of_paths_is_refused_with_the_command_that_packs_it(tmp_path: Path, name: str) -> None:
    table = write(tmp_path / name, b"path,label\n0.jpg,1\n")
    assert command(refuse(table)) == ["oodscreen", "pack", str(table), "SHARDS"]
    assert command(refuse(tmp_path)) == ["oodscreen", "pack", str(table), "SHARDS"]


def test_a_tar_archive_or_a_folder_of_them_is_refused_with_the_command_that_packs_it(tmp_path: Path) -> None:
    archive = tar(tmp_path / "00000.tar")
    assert command(refuse(archive)) == ["oodscreen", "pack", str(archive), "SHARDS"]
    tar(tmp_path / "00001.tar")
    for source in (tmp_path, tmp_path / "*.tar"):
        assert command(refuse(source)) == ["oodscreen", "pack", str(tmp_path), "SHARDS"], source


def test_images_without_an_ending_are_refused_with_the_endings_that_pack_finds(tmp_path: Path) -> None:
    error = refuse(write(tmp_path / "photo", JPEG))  # recognised by its bytes
    assert "photo is an image file" in error.found
    assert "rename the files so that their names end in .jpg, .jpeg, .png" in error.next_step


def test_a_compressed_tar_archive_is_refused_with_the_commands_that_unpack_and_pack_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a b.tar.gz", "c.tgz"):
        with gzip.open(name, "wb") as file:
            file.write(tar(tmp_path / "plain.tar").read_bytes())
        error = refuse(name)
        subprocess.run(command(error), check=True)
        pack = shlex.split(error.next_step.split("`")[3])
        assert pack[:2] == ["oodscreen", "pack"]
        assert tarfile.is_tarfile(pack[2])


def test_images_in_a_store_are_refused_with_the_command_that_packs_them() -> None:
    store = fsspec.filesystem("memory")
    try:
        store.pipe({"/my images/cat/0.jpg": JPEG, "/my images/1.jpg": JPEG})
        assert command(refuse("memory://my images")) == ["oodscreen", "pack", "memory://my images", "SHARDS"]
    finally:
        store.store.clear()


def test_a_zip_archive_is_refused_with_the_command_that_unpacks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(tmp_path / "a b.zip", "w") as archive:
        archive.writestr("cat/0.jpg", JPEG)
    error = refuse("a b.zip")
    unpack = command(error)
    subprocess.run([sys.executable, *unpack[1:]], check=True)
    assert (tmp_path / "FILES/cat/0.jpg").read_bytes() == JPEG
    assert "oodscreen pack FILES SHARDS" in error.next_step


@pytest.mark.parametrize("open_writer", [pa.ipc.new_file, pa.ipc.new_stream])
def test_an_arrow_file_is_refused_with_the_command_that_converts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_writer: Callable[..., pa.RecordBatchStreamWriter]
) -> None:
    monkeypatch.chdir(tmp_path)
    table = pa.table({"image": pa.array([{"bytes": JPEG, "path": "0.jpg"}])})
    with open_writer('it\'s "x" ü.arrow', table.schema) as writer:
        writer.write_table(table)
    python, option, code = command(refuse('it\'s "x" ü.arrow'))
    assert (python, option) == ("python", "-c")
    exec(code)  # noqa: S102  the command of the error, without another process
    assert pq.read_table("shard.parquet").equals(table)


def test_a_hugging_face_dataset_on_disk_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    for name in ("dataset_info.json", "state.json"):
        write(tmp_path / "one" / name, b"{}")
    write(tmp_path / "one/data-00000-of-00001.arrow", b"\xff\xff\xff\xff")
    write(tmp_path / "splits/dataset_dict.json", b'{"splits": ["test", "train"]}')
    write(tmp_path / "splits/test/data-00000-of-00001.arrow", b"\xff\xff\xff\xff")
    one, splits = refuse(tmp_path / "one"), refuse(tmp_path / "splits")
    assert "Hugging Face dataset" in one.found
    assert command(one)[2].endswith(f'load_from_disk("{tmp_path}/one").to_parquet("SHARDS/0.parquet")')
    assert command(splits)[2].endswith(f'load_from_disk("{tmp_path}/splits")["test"].to_parquet("SHARDS/0.parquet")')


def test_a_model_or_a_calibration_is_refused_with_the_place_where_it_belongs(
    tmp_path: Path, article_onnx: Path, article_keras: Path
) -> None:
    hdf5 = write(tmp_path / "weights", b"\x89HDF\r\n\x1a\n")
    for model in (article_onnx, article_keras, hdf5):
        error = refuse(model)
        assert error.found == f"{model} is a model."
        assert "the argument before INPUT" in error.next_step
    np.savez(tmp_path / "c.npz", header=np.zeros(1, np.uint8), scores=np.zeros(2))
    os.rename(tmp_path / "c.npz", tmp_path / "c.cal")
    assert "--calibration" in refuse(tmp_path / "c.cal").next_step


@pytest.mark.parametrize(
    ("name", "data", "found"),
    [
        ("train.tfrecord-00000-of-00001", b"\x10\0\0\0\0\0\0\0abcd", "a TFRecord file"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        ("a.parquet", b"<!doctype html><html>", "an HTML page"),
        ("a.parquet", b"", "an empty file"),
        ("x.npy", b"\x93NUMPY", "a NumPy file"),
    ],
)
def test_a_file_of_another_format_is_named(tmp_path: Path, name: str, data: bytes, found: str) -> None:
    error = refuse(write(tmp_path / name, data))
    assert found in error.found
    assert error.next_step


def test_parquet_files_with_another_ending_are_refused_with_the_glob_that_reads_them(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "a b.pq")
    error = refuse(tmp_path)
    (glob,) = shlex.split(error.next_step.partition("a glob: ")[2])
    assert [shard.name for shard in find_shards(glob)[0]] == ["a b.pq"]


def test_shards_among_images_are_read(tmp_path: Path) -> None:
    write(tmp_path / "0.jpg", JPEG)
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "a.parquet")
    assert [shard.name for shard in find_shards(str(tmp_path))[0]] == ["a.parquet"]
