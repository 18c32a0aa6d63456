"""Images at the paths in a list; the other columns of the list are copied.

In: a list, and the folder to which its paths are relative. Out: `ImageFile`s in the order of the list. A path that
leads out of the folder, by `..`, as an absolute path or by a link, is not read: its row has no image.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from export.errors import InputRefused
from screen.files.paths import as_os_error, file_version, is_local, is_within, name_place
from screen.files.storage import FileContent
from screen.pack.findings import Findings
from screen.pack.image_file import ImageFile, changed, why_one_file
from screen.pack.sources.ahead import map_ahead
from screen.pack.sources.list_rows import ListRows, open_list

_USUAL = ("path", "file_name", "filename", "file", "image")
"""Usual names of the column of paths; `file_name` is the name in Hugging Face datasets."""

_REQUESTS = 32
"""Number of files that are looked up at the same time in an object store."""


@dataclass(frozen=True)
class PathList:
    """A list of paths.

    Attributes:
        path: the list.
        root: the folder that the paths are relative to; resolved, if it is local.
        rows: the opened list.
        path_column: position of the column of paths.
        content: size and digest of the list.
    """

    path: Path
    root: Path
    rows: ListRows
    path_column: int
    content: FileContent

    @classmethod
    def open(cls, path: Path, root: Path, path_column: str | None) -> PathList:
        """Open a list.

        Args:
            path: the list.
            root: the folder that the paths are relative to.
            path_column: name of the column of paths; None: the first of the usual names that the list has.

        Raises:
            InputRefused: the list cannot be read, has no column of paths, or has a column `image` without the paths.
        """
        rows = open_list(path)
        position = _find_paths(path, rows.columns, path_column)
        if "image" in rows.columns.names and rows.columns.names[position] != "image":
            raise InputRefused(
                f"The list {path} has a column 'image' that does not contain the paths.",
                wanted="a list in which no other column has the name of the image column of a shard",
                next_step="rename this column, or add --path-column image if the column contains the paths",
            )
        return cls(path, root, rows, position, FileContent.of(path))

    @property
    def identity(self) -> dict[str, str]:
        """The settings and the content on which the rows depend."""
        return {
            "source": "list of paths",
            "--path-column": self.rows.columns.names[self.path_column],
            "SHA-256 of the list": self.content.sha256,
        }

    @property
    def columns(self) -> pa.Schema:
        """The columns after `image`; a list without a column `id` gets a column `id` with the paths."""
        kept = self.rows.columns.remove(self.path_column)
        return kept if "id" in kept.names else kept.append(pa.field("id", pa.string()))

    def files(self, findings: Findings) -> Iterator[ImageFile]:
        """The images, one at a time.

        Raises:
            InputChanged: the list changed while it was read.
            InputRefused: the list cannot be read.
            ReadFailed: the disk or the store failed.
        """
        before = file_version(self.path)
        if is_local(self.root):
            yield from map(self._locate, self.rows.read())
        else:
            with ThreadPoolExecutor(_REQUESTS) as pool:
                yield from map_ahead(pool, self._locate, self.rows.read(), _REQUESTS * 2)
        if file_version(self.path) != before:
            raise changed(str(self.path))

    def _locate(self, row: tuple[Any, ...]) -> ImageFile:
        """The `ImageFile` of a row of the list."""
        given = row[self.path_column]
        text: str = (given.as_py() if isinstance(given, pa.Scalar) else given) or ""
        values = row[: self.path_column] + row[self.path_column + 1 :]
        if len(values) < len(self.columns):
            values += (text or None,)
        find: Callable[[str], tuple[Path, int, int | str]] = self._find if is_local(self.root) else self._find_object
        try:
            place, size, version = find(text)
        except _NotReadError as error:
            return ImageFile(text, None, 0, "", values, problem=str(error))
        return ImageFile(text, place, size, version, values)

    def _find(self, text: str) -> tuple[Path, int, int | str]:
        if not text:
            raise _NotReadError("no path")
        try:
            place = Path(os.path.realpath(self.root / text))
            if not is_within(place, self.root):
                raise _NotReadError(f"the path leads out of {name_place(self.root)}")
            status = os.stat(place)
        except (OSError, ValueError) as error:
            raise _NotReadError(why_one_file(error, self.root / "")) from error
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device might never end
            raise _NotReadError("not a regular file")
        return place, status.st_size, status.st_mtime_ns

    def _find_object(self, text: str) -> tuple[Path, int, int | str]:
        inner = text.removeprefix(f"{str(self.root).rstrip('/')}/")
        if not inner:
            raise _NotReadError("no path")
        if "://" in inner or set(inner.split("/")) & {"", ".", ".."}:
            raise _NotReadError(f"the path leads out of {name_place(self.root)}")
        place = self.root / inner
        try:
            with as_os_error():
                found = file_version(place) if place.is_file() else None
        except OSError as error:
            raise _NotReadError(why_one_file(error, place)) from error
        if found is None:
            raise _NotReadError("the file does not exist")
        return place, *found


class _NotReadError(Exception):
    """The file of a row is not read; the message is the reason."""


def _find_paths(path: Path, columns: pa.Schema, name: str | None) -> int:
    """Position of the column of paths."""
    found = name or next((usual for usual in _USUAL if usual in columns.names), None)
    if found is None or columns.names.count(found) != 1:
        raise InputRefused(
            f"The list {path} has {f'no or several columns {name!r}' if name else 'no column with a usual name'}. "
            f"Its columns: {', '.join(columns.names) or 'none'}.",
            wanted=f"one column of paths; without --path-column, it is called {', '.join(_USUAL[:-1])} or {_USUAL[-1]}",
            next_step="give the name of the column with --path-column; a CSV file needs a first line with the names",
        )
    kind = columns.field(found).type
    if pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise InputRefused(
            f"The column {found!r} of {path} has the type {kind}, which is the type of images: the file is a shard.",
            wanted="a list with a column of paths",
            next_step="give the shard to `oodscreen run` as it is (add --image-root, if it contains paths)",
        )
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise InputRefused(
            f"The column {found!r} of {path} has the type {kind}.",
            wanted="paths as text",
            next_step="give the name of the column of paths with --path-column",
        )
    position: int = columns.names.index(found)
    return position
