"""Read the entries of a folder, and the keys of an object store that has no folders.

In: a folder, local or in an object store. Out: its `Entry`s, sorted by name, or the names of its objects.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from screen.files.paths import as_os_error, is_local, version_in


@dataclass(frozen=True)
class Entry:
    """One entry of a folder.

    Attributes:
        name: name of the entry, without its folder.
        path: path of the entry.
        kind: what the entry is, after links are followed: `broken` for a link whose target does not exist, `unknown` if
            the entry cannot be examined, `other` for example for a pipe.
        is_link: whether the entry is a local link to a file or a folder.
        problem: why the entry is neither a file nor a folder, or "".
        version: for an object in a store, its size in bytes and its version as in `file_version`; else (0, "").
    """

    name: str
    path: Path
    kind: Literal["file", "folder", "broken", "other", "unknown"]
    is_link: bool = False
    problem: str = ""
    version: tuple[int, int | str] = (0, "")


def read_folder(folder: Path) -> list[Entry]:
    """The entries of a folder, sorted by name.

    Raises:
        OSError: the folder cannot be listed.
    """
    if not is_local(folder):
        return _read_store(folder)
    with os.scandir(folder) as found:
        entries = [examine(folder / one.name, one) for one in found]
    return sorted(entries, key=lambda entry: entry.name)


def examine(path: Path, one: os.DirEntry[str] | Path) -> Entry:
    """The entry of a local path.

    Args:
        path: the path, which exists or is a broken link.
        one: object whose methods examine the path: the path itself, or its entry from `os.scandir`.
    """
    is_link = one.is_symlink() or getattr(one, "is_junction", bool)()
    try:
        if one.is_dir():
            return Entry(one.name, path, "folder", is_link)
        if one.is_file():
            return Entry(one.name, path, "file", is_link)
    except OSError as error:
        if error.errno != errno.ELOOP:
            return Entry(one.name, path, "unknown", problem=f"cannot be examined: {error.strerror}")
    if is_link and not path.exists():
        return Entry(one.name, path, "broken", problem="the target of the link does not exist")
    return Entry(one.name, path, "other", problem="not a regular file")


def has_folders(root: Path) -> bool:
    """Whether folders below `root` are listed one by one; many object stores list all keys below a prefix at once."""
    if is_local(root):
        return True
    from fsspec.asyn import AsyncFileSystem
    from fsspec.spec import AbstractFileSystem

    store = type(root.fs)  # type: ignore[attr-defined]
    if issubclass(store, AsyncFileSystem):
        return bool(store._find is AsyncFileSystem._find)
    return bool(store.find is AbstractFileSystem.find)


def _read_store(folder: Path) -> list[Entry]:
    store: Any = folder.fs  # type: ignore[attr-defined]
    with as_os_error():
        try:
            found = store.ls(folder.path, detail=True)  # type: ignore[attr-defined]
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder)) from error
        start = folder.path.rstrip("/") + "/"  # type: ignore[attr-defined]
        entries = []
        for info in found:
            name = info["name"].removeprefix(start).rstrip("/")
            if info["name"].rstrip("/") == start.rstrip("/"):  # some stores list the folder itself
                continue
            kind = info["type"]
            if kind not in ("file", "directory"):
                kind = "file" if store.isfile(info["name"]) else "other"
            problem = "a link in the store, which is not followed, or not a regular file" if kind == "other" else ""
            version = int(info.get("size") or 0), version_in(info)
            path = folder / name
            entries.append(Entry(name, path, "folder" if kind == "directory" else kind, False, problem, version))
    return sorted(entries, key=lambda entry: entry.name)


def read_keys(root: Path) -> list[str]:
    """Names of all objects below the prefix `root` in a store, relative to `root`, without objects that mark a folder.

    Raises:
        OSError: the store cannot be listed.
    """
    with as_os_error():
        found = root.fs.find(root.path, detail=True)  # type: ignore[attr-defined]
    return relative_keys(root, found)


def match_keys(root: Path, pattern: Path) -> list[str]:
    """Names of the objects in a store that match a glob pattern, relative to the prefix `root`.

    Raises:
        OSError: the store cannot be listed.
    """
    with as_os_error():
        found = root.fs.glob(pattern.path, detail=True)  # type: ignore[attr-defined]
    return relative_keys(root, found)


def relative_keys(root: Path, found: dict[str, dict[str, Any]]) -> list[str]:
    """The names of the given objects, relative to the prefix `root`; objects that mark a folder are left out.

    Args:
        root: the prefix.
        found: description of each object from the client of the store, by the name of the object.
    """
    start = root.path.rstrip("/") + "/"  # type: ignore[attr-defined]
    return [
        name.removeprefix(start)
        for name, info in found.items()
        if info.get("type", "file") == "file" and not name.endswith("/")
    ]
