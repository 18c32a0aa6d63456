"""Find out what SOURCE is: a folder of images, a list of paths, or a WebDataset.

In: SOURCE and the options. Out: an `ImageSource`, or an error with what was found and the next step.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

import pyarrow as pa

from export.errors import InputRefused, OptionRefused, OutputRefused
from screen.files.endings import is_image
from screen.files.entries import read_folder
from screen.files.paths import as_os_error, as_path, base_name, is_local, is_within, name_place
from screen.pack.config import PackConfig
from screen.pack.findings import Findings
from screen.pack.image_file import ImageFile
from screen.pack.sources.image_folder import ImageFolder
from screen.pack.sources.list_rows import LIST_ENDINGS
from screen.pack.sources.path_list import PathList
from screen.pack.sources.webdataset import WebDataset, is_tar

_WANTED = (
    "a folder of image files, a list of paths (.csv, .tsv, .jsonl, .ndjson or .parquet), a WebDataset tar, or a folder "
    "of these tars"
)

_PACKED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")


class ImageSource(Protocol):
    """Interface of every kind of SOURCE."""

    @property
    def identity(self) -> dict[str, str]:
        """The settings on which the rows depend."""

    @property
    def columns(self) -> pa.Schema:
        """The columns after `image`."""

    def files(self, findings: Findings) -> Iterator[ImageFile]:
        """Yield the images in a fixed order, and record in `findings` the files and folders that get no row."""


def open_source(source: str, shards: Path, config: PackConfig) -> ImageSource:
    """Open SOURCE.

    Args:
        source: path or address of a folder or a file.
        shards: folder of the shards, which must not be in SOURCE.
        config: the options.

    Raises:
        InputRefused: SOURCE does not exist, or is of another kind.
        OptionRefused: an option for lists of paths is given, but SOURCE is not a list.
        OutputRefused: SHARDS is in SOURCE.
    """
    path = as_path(source)
    with as_os_error():
        kind = "file" if path.is_file() else "folder" if path.is_dir() else ""
    if not kind:
        raise InputRefused(
            f"SOURCE {source} does not exist, or is neither a file nor a folder.",
            wanted=_WANTED,
            next_step="check the path",
        )
    is_list = kind == "file" and base_name(path).lower().endswith(LIST_ENDINGS)
    _refuse_list_options(source, config, is_list)
    if is_list:
        root = path.parent if config.image_root is None else as_path(config.image_root)
        return PathList.open(path, _resolved(root), config.path_column)
    if kind == "folder":
        return _open_folder(source, _resolved(path), shards, config)
    if is_tar(base_name(path)):
        return WebDataset(_resolved(path), is_folder=False)
    raise _refuse_file(source, path)


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(path)) if is_local(path) else path


def _open_folder(source: str, root: Path, shards: Path, config: PackConfig) -> ImageSource:
    if is_within(_resolved(shards), root):
        raise OutputRefused(
            f"SHARDS {name_place(shards)} is in SOURCE {source}.",
            wanted="a folder outside SOURCE, because a pack must not read its own shards",
            next_step="choose another folder for the shards",
        )
    has_tar = has_image = has_shard = False
    for name in _names(root):
        has_tar |= is_tar(name)
        has_image |= is_image(name)
        has_shard |= name.lower().endswith(".parquet")
    if has_tar and has_image:
        raise InputRefused(
            f"The folder {source} contains image files and tars.",
            wanted="a folder of images, or a folder of tars",
            next_step="move the tars into a separate folder, and pack each of the two folders into a SHARDS "
            "folder of its own",
        )
    if has_shard and not has_tar and not has_image:
        raise InputRefused(
            f"The folder {source} contains Parquet files, but no images.",
            wanted=_WANTED,
            next_step=f"if the files are shards, run oodscreen run MODEL.onnx {shlex.quote(source)} OUTPUT; if one "
            "of them is a list of paths, give this file as SOURCE",
        )
    return WebDataset(root, is_folder=True) if has_tar else ImageFolder(root, config.label_from)


def _names(folder: Path) -> Iterator[str]:
    if not is_local(folder):
        yield from (entry.name for entry in read_folder(folder) if entry.kind != "folder")
        return
    with os.scandir(folder) as found:
        yield from (entry.name for entry in found if not entry.is_dir(follow_symlinks=False))


def _refuse_list_options(source: str, config: PackConfig, is_list: bool) -> None:
    given = [
        flag for flag, value in (("--path-column", config.path_column), ("--image-root", config.image_root)) if value
    ]
    if given and not is_list:
        raise OptionRefused(
            f"{given[0]} is given, but SOURCE {source} is not a list of paths.",
            wanted="a list of paths (.csv, .tsv, .jsonl, .ndjson or .parquet) as SOURCE",
            next_step="leave the option out, or give the list as SOURCE",
        )


def _refuse_file(source: str, path: Path) -> InputRefused:
    """The error for a file that is neither a list nor a tar, with the next step."""
    name, quoted = base_name(path).lower(), shlex.quote(source)
    if name.endswith(".zip"):
        what = "a zip file"
        step = f"unpack it: unzip -q {quoted} -d images; then run oodscreen pack images SHARDS"
    elif name.endswith(_PACKED_TARS):
        what = "a compressed tar"
        step = f"unpack it: mkdir images && tar -xf {quoted} -C images; then run oodscreen pack images SHARDS"
    elif is_image(name):
        what = "a single image"
        folder = str(path.parent)
        step = f"pack its folder: oodscreen pack {shlex.quote(folder)} SHARDS"
    else:
        what = f"a file with the ending {PurePosixPath(name).suffix!r}" if PurePosixPath(name).suffix else "a file"
        step = (
            "give the folder of the images; if the file is a list of paths, rename the file so that its name ends in "
            ".csv, .tsv, .jsonl, .ndjson or .parquet"
        )
    return InputRefused(f"SOURCE {source} is {what}.", wanted=_WANTED, next_step=step)
