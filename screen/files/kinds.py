"""Recognise files that are given in place of Parquet shards, and name the next step.

In: paths of files, or a folder that contains no Parquet file. Out: a `Finding`, or None. A file is recognised by its
first bytes, or by its suffix if its format has no signature. These functions are called only to explain a refusal, so
that a run over Parquet shards does not read these bytes.
"""

from __future__ import annotations

import json
import re
import shlex
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from screen.files.endings import IMAGE_ENDINGS, TEXT_LIST_ENDINGS, is_image
from screen.files.paths import base_name, name_place, open_bytes

_HEAD_BYTES = 512
"""Number of bytes at the start of a file by which its kind is recognised."""

_RECIPES = "the section 'Convert other formats' of docs/input.md"


class FileKind(Enum):
    """Kind of a file; the value is a noun phrase for error messages."""

    IMAGE = "an image file"
    UNDECODED = "an image file of a format that is not decoded (HEIC or AVIF)"
    TAR = "a tar archive"
    ZIP = "a ZIP archive"
    PACKED_TAR = "a tar archive that is compressed with gzip"
    GZIP = "a gzip file"
    TABLE = "a CSV or JSONL file"
    PARQUET = "a Parquet file"
    ARROW_FILE = "an Arrow IPC (Feather) file"
    ARROW_STREAM = "an Arrow IPC stream"
    TFRECORD = "a TFRecord file"
    MODEL = "a model"
    CALIBRATION = "a calibration"
    ARRAY = "a NumPy file"
    LFS_POINTER = "a pointer of Git LFS to a file that was not downloaded"
    PAGE = "an HTML page, possibly an error page of the server from which the file was downloaded"
    EMPTY = "an empty file"


_SIGNATURES = (
    (0, b"\xff\xd8\xff", FileKind.IMAGE),
    (0, b"\x89PNG\r\n\x1a\n", FileKind.IMAGE),
    (0, b"GIF8", FileKind.IMAGE),
    (0, b"II*\0", FileKind.IMAGE),
    (0, b"MM\0*", FileKind.IMAGE),
    (8, b"WEBP", FileKind.IMAGE),
    (4, b"ftypheic", FileKind.UNDECODED),
    (4, b"ftypavif", FileKind.UNDECODED),
    (0, b"PAR1", FileKind.PARQUET),
    (0, b"PK\x03\x04", FileKind.ZIP),
    (257, b"ustar", FileKind.TAR),
    (0, b"\x89HDF\r\n\x1a\n", FileKind.MODEL),
    (0, b"ARROW1", FileKind.ARROW_FILE),
    (0, b"\xff\xff\xff\xff", FileKind.ARROW_STREAM),
    (0, b"\x93NUMPY", FileKind.ARRAY),
    (0, b"version https://git-lfs", FileKind.LFS_POINTER),
    (0, b"<!DOCTYPE html", FileKind.PAGE),
    (0, b"<html", FileKind.PAGE),
)
"""Position and bytes of each signature, and the kind of the files with this signature."""

_SUFFIXES = {
    **dict.fromkeys(IMAGE_ENDINGS, FileKind.IMAGE),
    **dict.fromkeys(TEXT_LIST_ENDINGS, FileKind.TABLE),
    **dict.fromkeys((".onnx", ".keras", ".h5", ".hdf5", ".pb", ".tflite", ".pt", ".pth"), FileKind.MODEL),
    ".tar": FileKind.TAR,
    ".tgz": FileKind.PACKED_TAR,
    ".gz": FileKind.GZIP,
    ".zip": FileKind.ZIP,
    ".npy": FileKind.ARRAY,
}


@dataclass(frozen=True)
class Finding:
    """The kind of a file or folder that is given in place of Parquet shards.

    Attributes:
        found: the file and its kind, as a sentence; for a folder, a noun phrase for its content.
        next_step: how to get Parquet shards, or the argument or option for the file.
    """

    found: str
    next_step: str


def recognise_files(paths: Sequence[Path], folder: Path) -> Finding | None:
    """The kind of files that cannot be read as Parquet; None if they are damaged Parquet files, or of no known kind.

    Args:
        paths: the files; a single file is INPUT itself.
        folder: the folder of INPUT.
    """
    suffixes = Counter(path.suffix for path in paths)
    for suffix, _ in suffixes.most_common():
        path = next(path for path in paths if path.suffix == suffix)
        kind = _kind_of(path)
        if kind is FileKind.PARQUET:  # a damaged file, whose error explains more than its kind
            return None
        if kind is not None:
            is_alone = len(paths) == 1 and kind is not FileKind.IMAGE
            next_step = _next_step(kind, path, path if is_alone else folder)
            return Finding(f"{name_place(path)} is {kind.value}", next_step)
    return None


def recognise_folder(folder: Path, files: Iterable[Path]) -> Finding | None:
    """The content of a folder without a Parquet file; None if no file is of a known kind.

    Args:
        folder: the folder.
        files: one file for each ending, the most frequent ending first.
    """
    if (saved := _recognise_saved(folder)) is not None:
        return saved
    for path in files:
        kind = _kind_of(path)
        if kind is not None and kind is not FileKind.EMPTY:
            return Finding(f"{base_name(path)}, which is {kind.value}", _next_step(kind, path, folder))
    return None


def _recognise_saved(folder: Path) -> Finding | None:
    """The finding for a folder in a layout of Hugging Face datasets or TensorFlow; None for any other folder."""
    try:
        if (folder / "dataset_dict.json").is_file():
            with open_bytes(folder / "dataset_dict.json") as file:
                split = str(json.load(file)["splits"][0])
            load = f"load_from_disk({_literal(name_place(folder))})[{_literal(split)}]"
            found = "the splits of a Hugging Face dataset (`save_to_disk`)"
        elif (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
            load, found = f"load_from_disk({_literal(name_place(folder))})", "a Hugging Face dataset (`save_to_disk`)"
        elif (folder / "saved_model.pb").is_file():
            return Finding("a TensorFlow SavedModel", _next_step(FileKind.MODEL, folder, folder))
        else:
            return None
    except (OSError, ValueError, LookupError, TypeError):
        return None
    code = f'from datasets import load_from_disk; {load}.to_parquet("SHARDS/0.parquet")'
    return Finding(found, f"run `python -c {shlex.quote(code)}`, then give SHARDS as INPUT")


def _kind_of(path: Path) -> FileKind | None:
    name = base_name(path).lower()
    try:
        with open_bytes(path) as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return None
    if not head:
        return FileKind.EMPTY
    for position, signature, kind in _SIGNATURES:
        if head[position : position + len(signature)].lower() == signature.lower():
            return _kind_of_zip(path) if kind is FileKind.ZIP else kind
    if "tfrecord" in name:
        return FileKind.TFRECORD
    if name.endswith(".tar.gz"):
        return FileKind.PACKED_TAR
    return _SUFFIXES.get(Path(name).suffix)


def _kind_of_zip(path: Path) -> FileKind:
    """The kind of a ZIP archive; models of Keras, arrays of NumPy and calibrations are ZIP archives, too."""
    try:
        with open_bytes(path) as file, zipfile.ZipFile(file) as archive:
            names = set(archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return FileKind.ZIP
    if "header.npy" in names:
        return FileKind.CALIBRATION
    if {"config.json", "metadata.json"} <= names:
        return FileKind.MODEL
    return FileKind.ARRAY if names and all(name.endswith(".npy") for name in names) else FileKind.ZIP


def _literal(text: str) -> str:
    """A Python literal in double quotes, which a shell command in single quotes can contain."""
    return json.dumps(text, ensure_ascii=False)


def _next_step(kind: FileKind, path: Path, source: Path) -> str:
    """The next step for a file of a kind.

    Args:
        kind: kind of the file.
        path: the file.
        source: path to pack: the file itself, or the folder that contains the file.
    """
    place = name_place(path)
    if kind in (FileKind.IMAGE, FileKind.TAR, FileKind.TABLE):
        packed = place if kind is FileKind.TABLE else name_place(source)
        if kind is FileKind.IMAGE and not is_image(base_name(path)):
            return (
                f"rename the files so that their names end in {', '.join(IMAGE_ENDINGS[:3])} or the ending of another "
                f"image format; then run `oodscreen pack {shlex.quote(packed)} SHARDS`, and give SHARDS as INPUT"
            )
        return f"run `oodscreen pack {shlex.quote(packed)} SHARDS`, then give SHARDS as INPUT"
    if kind is FileKind.PARQUET:
        pattern = f"{name_place(source).rstrip('/')}/**/*{path.suffix}"
        return f"to read files whose names do not end in .parquet, give a glob: {shlex.quote(pattern)}"
    if kind is FileKind.ZIP:
        unpack = f"python -m zipfile -e {shlex.quote(place)} FILES"
        return f"run `{unpack}`, then `oodscreen pack FILES SHARDS`, and give SHARDS as INPUT"
    if kind is FileKind.MODEL:
        return "give the shards as INPUT; the model, exported with `oodscreen export`, is the argument before INPUT"
    if kind is FileKind.CALIBRATION:
        return "give the shards as INPUT, and the calibration with --calibration"
    if kind in (FileKind.ARROW_FILE, FileKind.ARROW_STREAM):
        read = "open_file" if kind is FileKind.ARROW_FILE else "open_stream"
        code = (
            "import pyarrow as pa, pyarrow.parquet as pq; "
            f'pq.write_table(pa.ipc.{read}({_literal(place)}).read_all(), "shard.parquet", row_group_size=1000)'
        )
        return f"run `python -c {shlex.quote(code)}`, then give shard.parquet as INPUT"
    if kind is FileKind.LFS_POINTER:
        return "run `git lfs pull` in the clone, then the same command again"
    if kind in (FileKind.TFRECORD, FileKind.ARRAY):
        return f"write the images as Parquet shards, as described in {_RECIPES}"
    if kind is FileKind.UNDECODED:
        return "convert the images to PNG or JPEG, then run `oodscreen pack` with their folder"
    if kind is FileKind.PACKED_TAR:
        unpacked = re.sub(r"(\.tar\.gz|\.tgz)$", ".tar", place, flags=re.IGNORECASE)
        pack = f"oodscreen pack {shlex.quote(unpacked)} SHARDS"
        return f"run `gzip -dk {shlex.quote(place)}`, then `{pack}`, and give SHARDS as INPUT"
    if kind is FileKind.GZIP:
        return f"run `gzip -dk {shlex.quote(place)}`, then give the unpacked file as INPUT"
    return "get the file again, and check its size and content"
