"""ImageFile: one image of SOURCE, and the bytes of its file.

In: an `ImageFile`, which a source has found. Out: the unchanged bytes, or the reason why there are none.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.errors import InputChanged, ReadFailed
from screen.files.failures import next_step_for
from screen.files.paths import as_os_error, is_local, name_place

MOST_BYTES = 2**29
"""Maximum size of a packed file, in bytes; with default options, a run reads image files of about this size at most."""

_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_OF_ONE_FILE = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)
"""Error numbers that concern a single local file; after any other error, the following files would fail, too."""


@dataclass(frozen=True)
class ImageFile:
    """One image of SOURCE.

    Attributes:
        name: name for messages: the path relative to the folder SOURCE, with `/` between folders; in a tar, the path of
            the member; for a list of paths, the path as in the list.
        place: the file that contains the bytes: the image itself, or a tar; None if the file is not read.
        size: size of the image in bytes.
        version: modification time in ns of the file, or its version in an object store.
        offset: position of the first byte in a tar; None if the image is the whole file.
        values: values of the columns after `image`: Python values or Arrow scalars.
        problem: why the file cannot be read, if the reason is known before the file is read; else "".
    """

    name: str
    place: Path | None
    size: int
    version: int | str
    values: tuple[Any, ...]
    offset: int | None = None
    problem: str = ""

    @property
    def fingerprint(self) -> bytes:
        """Bytes that change if the image is renamed, replaced or changed."""
        return repr((self.name, self.size, self.version, self.offset, bool(self.problem))).encode()


@dataclass(frozen=True)
class ImageBytes:
    """The bytes of an image.

    Attributes:
        data: the bytes; None if the file cannot be read.
        problem: why the file cannot be read, or "".
    """

    data: bytes | None
    problem: str = ""


def printable_name(name: str) -> str:
    """A name as valid UTF-8; bytes of a file name that are not UTF-8 are escaped as described in `docs/input.md`."""
    return os.fsencode(name).decode(errors="backslashreplace")


def why_one_file(error: OSError | ValueError, place: Path) -> str:
    """The reason why a single file cannot be read.

    Raises:
        ReadFailed: the error concerns more than this file: the disk, the network, the store or the process.
    """
    if isinstance(error, ValueError):  # a null character in the path
        return str(error)
    if error.errno in _ABSENT:
        return "the file does not exist"
    if error.errno in _OF_ONE_FILE and is_local(place):
        return error.strerror or str(error)
    raise ReadFailed(
        f"{name_place(place)} could not be read: {error.strerror or error}.",
        wanted="a disk or an object store from which the file can be read",
        next_step=f"{next_step_for(error)}; finished shards stay, and the same command continues after them",
    ) from error


def read_image(file: ImageFile) -> ImageBytes:
    """Read the bytes of an image.

    Raises:
        InputChanged: the file was changed or removed after it was found.
        ReadFailed: the disk, the network or the store failed.
    """
    if file.problem or file.place is None:
        return ImageBytes(None, file.problem)
    if file.size > MOST_BYTES:
        return ImageBytes(None, f"the file has {file.size} bytes, more than the limit of {MOST_BYTES}")
    try:
        data, version = _read(file, file.place)
    except FileNotFoundError as error:
        raise changed(file.name) from error
    except OSError as error:
        return ImageBytes(None, why_one_file(error, file.place))
    if version != file.version or (file.offset is None and len(data) != file.size):
        raise changed(file.name)
    if len(data) != file.size:
        return ImageBytes(None, f"the tar ends after {len(data)} of the {file.size} bytes of the image")
    return ImageBytes(data)


def _read(file: ImageFile, place: Path) -> tuple[bytes, int | str]:
    """The bytes, and the version of the file from which they were read."""
    if is_local(place):
        with open(place, "rb") as opened:
            if file.offset is not None:
                opened.seek(file.offset)
            data = opened.read(file.size + (file.offset is None))  # one byte more shows that the file has grown
            return data, os.fstat(opened.fileno()).st_mtime_ns
    start, end = (None, None) if file.offset is None else (file.offset, file.offset + file.size)
    with as_os_error():
        try:
            content: bytes = place.fs.cat_file(place.path, start=start, end=end)  # type: ignore[attr-defined]
        except FileNotFoundError as error:  # without `errno` in many stores
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place)) from error
    return content, file.version


def changed(name: str) -> InputChanged:
    """The error for a file of SOURCE that changed while SOURCE was packed."""
    return InputChanged(
        f"{name} changed or was removed while SOURCE was packed.",
        wanted="files that no process changes",
        next_step="once SOURCE does not change any more, run the same command again; finished shards are compared with "
        "SOURCE",
    )
