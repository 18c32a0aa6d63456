"""Walk a folder and its subfolders in a fixed order: by the bytes of the names.

In: a folder, local or in an object store. Out: its files, one at a time. Memory grows with the number of names in a
single folder (for each name, its bytes and 24 bytes more), but not with the number of all files. Only links to files in
the walked folder or its subfolders are followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from screen.files.entries import read_folder
from screen.files.paths import is_local, is_within
from screen.pack.findings import Findings
from screen.pack.image_file import printable_name, why_one_file

_NAMES = 2**14
"""Number of names that are converted together."""


@dataclass(frozen=True)
class FoundFile:
    """A file or folder below the walked folder.

    Attributes:
        name: path relative to the walked folder, with `/`, as valid UTF-8.
        place: path of the file; for a followed link, the path of its target.
        kind: `none` for anything that is neither a file nor a folder, for example a link to a file outside SOURCE.
        size: size in bytes.
        version: modification time in ns, or the version in an object store.
        problem: why the file or folder is not read, or "".
    """

    name: str
    place: Path
    kind: Literal["file", "folder", "none"]
    size: int = 0
    version: int | str = ""
    problem: str = ""


def walk(root: Path, is_wanted: Callable[[str], bool], findings: Findings) -> Iterator[FoundFile]:
    """Yield the wanted files of a folder and its subfolders, and count the other files.

    Args:
        root: the folder, resolved.
        is_wanted: function that returns whether a file with this name is wanted.
        findings: counts the other files, and the folders that cannot be read.

    Raises:
        OSError: the folder itself cannot be listed.
        ReadFailed: the disk or the store failed.
    """
    waiting = [_entries(root, root, "")]
    while waiting:
        found = next(waiting[-1], None)
        if found is None:
            waiting.pop()
        elif found.name.rpartition("/")[2].startswith("."):
            findings.pass_hidden(found.name)
        elif found.kind == "folder" and found.problem:
            findings.refuse(f"{found.name}/", found.problem)
        elif found.kind == "folder":
            waiting.append(_entries_or_refuse(root, found, findings))
        elif is_wanted(found.name):
            yield found
        else:
            findings.pass_over(found.name)


def _entries_or_refuse(root: Path, folder: FoundFile, findings: Findings) -> Iterator[FoundFile]:
    try:
        yield from _entries(root, folder.place, f"{folder.name}/")
    except OSError as error:
        findings.refuse(f"{folder.name}/", f"the folder cannot be listed: {why_one_file(error, folder.place)}")


def _entries(root: Path, folder: Path, prefix: str) -> Iterator[FoundFile]:
    """The entries of a folder, sorted by name."""
    if is_local(folder):
        for name in _sorted_names(folder):
            found = _examine(root, folder / name, prefix + printable_name(name))
            if found is not None:
                yield found
        return
    for entry in read_folder(folder):
        kind: Literal["file", "folder", "none"] = entry.kind if entry.kind in ("file", "folder") else "none"
        yield FoundFile(prefix + entry.name, entry.path, kind, *entry.version, entry.problem)


def _sorted_names(folder: Path) -> Iterator[str]:
    """The names in a local folder, sorted by their bytes; Arrow holds them in less memory than Python does."""
    with os.scandir(folder) as found:
        names = (os.fsencode(entry.name) for entry in found)
        chunks = [pa.array(some, pa.large_binary()) for some in iter(lambda: list(islice(names, _NAMES)), [])]
    column = pa.chunked_array(chunks, pa.large_binary())
    order = pc.sort_indices(column)
    for start in range(0, len(order), _NAMES):
        yield from map(os.fsdecode, column.take(order.slice(start, _NAMES)).to_pylist())


def _examine(root: Path, path: Path, name: str) -> FoundFile | None:
    """The file or folder at a local path; None if the path no longer exists."""
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            return _follow(root, path, name)
    except FileNotFoundError:
        return None
    except OSError as error:
        return FoundFile(name, path, "none", problem=why_one_file(error, path))
    return _describe(name, path, status)


def _follow(root: Path, path: Path, name: str) -> FoundFile:
    """The file to which a link leads, or the reason why the link is not followed."""
    try:
        target = Path(os.path.realpath(path, strict=True))
        status = os.stat(target)
    except FileNotFoundError:
        return FoundFile(name, path, "none", problem="a link whose target does not exist")
    if stat.S_ISDIR(status.st_mode):
        return FoundFile(name, path, "folder", problem="a link to a folder, which is not followed")
    if not is_within(target, root):
        return FoundFile(name, path, "none", problem="a link to a file outside SOURCE, which is not followed")
    return _describe(name, target, status)


def _describe(name: str, path: Path, status: os.stat_result) -> FoundFile:
    if stat.S_ISDIR(status.st_mode):
        return FoundFile(name, path, "folder")
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device might never end
        return FoundFile(name, path, "none", problem="not a regular file")
    return FoundFile(name, path, "file", status.st_size, status.st_mtime_ns)
