"""List the shards of INPUT, with everything that cannot be listed and everything that is passed over.

In: INPUT, which is a file, a folder or a glob, local or in an object store. Out: a `Listing`.
"""

from __future__ import annotations

import errno
import glob
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from export.addresses import without_secrets
from export.errors import InputRefused, ReadFailed
from screen.files.entries import Entry, examine, has_folders, match_keys, read_folder, read_keys
from screen.files.paths import as_os_error, as_path, base_name, is_local, name_place

ENDING = ".parquet"

_REFUSED = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)
"""Error numbers of a path that cannot be listed until it is changed; others may be temporary."""

_NO_NAME = "a part of the name is empty, `.` or `..`, which cannot be the name of a file"

_NAMED = 5
"""Maximum number of endings that are named in one line."""


@dataclass(frozen=True)
class ListedFile:
    """A file of INPUT.

    Attributes:
        name: path relative to the folder of INPUT, with `/`.
        path: path of the file.
    """

    name: str
    path: Path


@dataclass(frozen=True)
class Unlisted:
    """A folder that cannot be listed, or a name that is no readable file.

    Attributes:
        name: path relative to the folder of INPUT; the name of a folder ends with `/`.
        path: path as text, without secrets.
        reason: why it cannot be listed or read.
    """

    name: str
    path: str
    reason: str


@dataclass(frozen=True)
class PassedOver:
    """Number of entries in a folder INPUT that are not read.

    Attributes:
        endings: number of files whose names do not end in `.parquet`, by ending.
        hidden: number of files and folders whose names start with `.` or `_`.
        listed: number of links to a folder that is listed under another name.
        broken: number of links that lead to nothing, and whose names do not end in `.parquet`.
    """

    endings: tuple[tuple[str, int], ...] = ()
    hidden: int = 0
    listed: int = 0
    broken: int = 0

    def describe(self) -> str:
        """The counts on one line; "" if nothing was passed over."""
        counts = ", ".join(f"{ending or 'no ending'} {count}" for ending, count in self.endings[:_NAMED])
        more = ", ..." if len(self.endings) > _NAMED else ""
        files = sum(count for _, count in self.endings)
        parts = (
            (files, f"file(s) whose names do not end in {ENDING} ({counts}{more})"),
            (self.hidden, "file(s) or folder(s) whose names start with . or _"),
            (self.listed, "link(s) to a folder that is listed under another name"),
            (self.broken, "broken link(s)"),
        )
        return "; ".join(f"{count} {text}" for count, text in parts if count)


@dataclass(frozen=True)
class Listing:
    """The files of INPUT.

    Attributes:
        source: INPUT, without secrets.
        root: the folder that names are relative to.
        files: the files, sorted by path.
        unlisted: folders and names that cannot be listed or read, sorted by name.
        passed_over: what a folder INPUT contains besides.
        folders: folders that are searched with their subfolders: `root`, and the targets of links.
    """

    source: str
    root: Path
    files: tuple[ListedFile, ...]
    unlisted: tuple[Unlisted, ...] = ()
    passed_over: PassedOver = PassedOver()
    folders: tuple[Path, ...] = ()


def list_shards(source: str) -> Listing:
    """List the Parquet files of INPUT.

    In a folder, links to folders are followed, and each folder is searched once. Names that start with `.` or `_` are
    skipped, as in Parquet readers. In a glob, `**` follows links, except into a folder that contains the link.

    Args:
        source: a file, a folder (searched with its subfolders) or a glob pattern.

    Raises:
        InputRefused: no shard is found, or INPUT cannot be listed.
        ReadFailed: the disk or the store failed.
    """
    path = as_path(source)
    try:
        kind = _kind(path)
        if kind == "file":
            return Listing(name_place(source), path.parent, (ListedFile(base_name(path), path),))
        if kind == "folder":
            return _FolderSearch(source, path).search()
        if glob.has_magic(source):
            found = _GlobSearch(source, path).search()
            if found.files or found.unlisted:
                return found
    except OSError as error:
        refused = error.errno in _REFUSED
        raise (InputRefused if refused else ReadFailed)(
            f"INPUT {source} cannot be listed: {error.strerror or error}.",
            wanted="a file or a folder that this user may read",
            next_step="check the path and its permissions"
            if refused
            else "check the disk, or the network and the credentials for the store; then run the same command again",
        ) from error
    raise InputRefused(
        f"{source} does not exist or matches no file.",
        wanted="a Parquet file, a folder of Parquet files, or a glob that matches Parquet files",
        next_step="check the path; put a glob in quotation marks, so that the shell does not expand the glob",
    )


def _kind(path: Path) -> str:
    with as_os_error():
        return "file" if path.is_file() else "folder" if path.is_dir() else ""


class _Search:
    """What one search has found."""

    def __init__(self, source: str, root: Path) -> None:
        self.source, self.root = source, root
        self.files: list[ListedFile] = []
        self.unlisted: dict[str, Unlisted] = {}
        self.folders = [root]

    def entries(self, folder: Path, name: str) -> list[Entry]:
        """The entries of a folder, sorted by name; none if it cannot be listed, which is recorded."""
        try:
            entries = read_folder(folder)
        except FileNotFoundError:  # removed while INPUT is listed
            return []
        except OSError as error:
            if not name and folder == self.root:
                raise
            self.refuse(f"{name}/", folder, f"the folder cannot be listed: {error.strerror or error}")
            return []
        for entry in entries:
            if entry.name in ("", ".", ".."):
                self.refuse(f"{name}/{entry.name}", folder, _NO_NAME)
        return [entry for entry in entries if entry.name not in ("", ".", "..")]

    def refuse(self, name: str, path: Path, reason: str) -> None:
        """Record a name that cannot be listed or read."""
        self.unlisted[name] = Unlisted(name, name_place(path), without_secrets(reason, str(path)))

    def add(self, name: str, path: Path) -> None:
        """Record a file, unless a part of its name is none."""
        if set(name.split("/")) & {"", ".", ".."}:
            self.refuse(name, path, _NO_NAME)
        else:
            self.files.append(ListedFile(name, path))

    def finish(self, passed_over: PassedOver = PassedOver()) -> Listing:
        """The listing, sorted."""
        return Listing(
            name_place(self.source),
            self.root,
            tuple(sorted(self.files, key=lambda file: file.path)),
            tuple(self.unlisted[name] for name in sorted(self.unlisted)),
            passed_over,
            tuple(self.folders),
        )


class _FolderSearch(_Search):
    """Search a folder with its subfolders; folders come before links to folders, so that a link is followed last."""

    def __init__(self, source: str, root: Path) -> None:
        super().__init__(source, root)
        self._seen: set[Any] = set()
        self._links: list[tuple[Path, str]] = []
        self._endings: Counter[str] = Counter()
        self._hidden = self._listed = self._broken = 0

    def search(self) -> Listing:
        """List the folder.

        Raises:
            InputRefused: the folder contains no shard.
            OSError: the folder cannot be listed.
        """
        if has_folders(self.root):
            self._search_below(self.root, "")
            for path, name in self._links:  # grows: a linked folder may contain links
                self._follow(path, name)
        else:
            for key in read_keys(self.root):
                self._add_key(key)
        endings = tuple(sorted(self._endings.items(), key=lambda item: (-item[1], item[0])))
        passed_over = PassedOver(endings, self._hidden, self._listed, self._broken)
        if not self.files and not self.unlisted:
            besides = passed_over.describe()
            raise InputRefused(
                f"The folder {self.source} contains no {ENDING} file{f'; passed over: {besides}' if besides else ''}.",
                wanted="Parquet shards with an image column",
                next_step=f"check the path; to read files whose names do not end in {ENDING}, give a glob",
            )
        return self.finish(passed_over)

    def _follow(self, path: Path, name: str) -> None:
        if _identity(path) in self._seen:
            self._listed += 1
        else:
            self.folders.append(path)
            self._search_below(path, name)

    def _search_below(self, path: Path, name: str) -> None:
        waiting = [(path, name)]
        while waiting:
            path, name = waiting.pop()
            key = _identity(path)
            if key is not None and key in self._seen:
                continue
            self._seen.add(key)
            for entry in self.entries(path, name):
                inner = f"{name}/{entry.name}" if name else entry.name
                if entry.name[0] in "._":
                    self._hidden += 1
                elif entry.kind == "folder":
                    (self._links if entry.is_link else waiting).append((entry.path, inner))
                else:
                    self._add_entry(entry, inner)

    def _add_entry(self, entry: Entry, name: str) -> None:
        if not _is_shard(entry.name):
            if entry.kind == "file":
                self._endings[_ending(entry.name)] += 1
            elif entry.kind == "broken":
                self._broken += 1
            elif entry.kind == "unknown":
                self.refuse(name, entry.path, entry.problem)
        elif entry.kind == "file":
            self.add(name, entry.path)
        else:
            self.refuse(name, entry.path, entry.problem)

    def _add_key(self, name: str) -> None:
        parts = PurePosixPath(name).parts
        if any(part[0] in "._" and part != ".." for part in parts):
            self._hidden += 1
        elif _is_shard(name):
            self.add(name, self.root / name)
        else:
            self._endings[_ending(parts[-1])] += 1


class _GlobSearch(_Search):
    """Search the files that match a glob, part by part of the pattern, as `glob.glob` does.

    `glob.glob` passes over folders that cannot be listed, and does not end where a link leads to a folder above it.
    """

    def __init__(self, source: str, pattern: Path) -> None:
        behind = source[: source.rfind("..")]
        if ".." in pattern.parts and glob.has_magic(behind):
            raise InputRefused(
                f"The glob {source} has `..` after a wildcard.",
                wanted="shards below one folder, so that shard names can be relative to it",
                next_step="write the glob without `..` after its first wildcard",
            )
        root = pattern.parent
        while glob.has_magic(str(root)):
            root = root.parent
        super().__init__(source, root)
        self._pattern = pattern
        self._found: set[str] = set()

    def search(self) -> Listing:
        """List the files that match.

        Raises:
            OSError: the folder in front of the first wildcard cannot be listed.
        """
        if has_folders(self.root):
            self._search_below(str(self._pattern)[len(str(self.root)) :].strip("/" + os.sep).replace(os.sep, "/"))
        else:
            for key in match_keys(self.root, self._pattern):
                self.add(key, self.root / key)
        self.folders = self.folders if "**" in self.source else []
        return self.finish()

    def _search_below(self, pattern: str) -> None:
        parts = pattern.split("/")
        waiting: list[tuple[Path, str, int, frozenset[Any]]] = [(self.root, "", 0, frozenset())]
        while waiting:
            folder, name, position, above = waiting.pop()
            part, is_last = parts[position], position == len(parts) - 1
            if part == "**":
                key = _identity(folder)
                if key is not None and key in above:
                    continue
                above |= {key}
                if not is_last:
                    waiting.append((folder, name, position + 1, frozenset()))
            for entry in self._matching(folder, name, part):
                inner = f"{name}/{entry.name}" if name else entry.name
                if part == "**" and entry.kind == "folder":
                    waiting.append((entry.path, inner, position, above))
                    self.folders += [entry.path] * entry.is_link
                elif not is_last and part != "**" and entry.kind == "folder":
                    waiting.append((entry.path, inner, position + 1, frozenset()))
                elif is_last and inner not in self._found:
                    self._found.add(inner)
                    self._add_entry(entry, inner)

    def _add_entry(self, entry: Entry, name: str) -> None:
        if entry.kind == "file":
            self.add(name, entry.path)
        elif entry.kind == "unknown" or (entry.kind != "folder" and _is_shard(entry.name)):
            self.refuse(name, entry.path, entry.problem)

    def _matching(self, folder: Path, name: str, part: str) -> Iterable[Entry]:
        if is_local(folder) and not glob.has_magic(part):  # needs no permission to list the folder
            path = folder / part
            if os.path.lexists(path):
                yield examine(path, path)
            return
        for entry in self.entries(folder, name):
            is_hidden = entry.name.startswith(".") and not part.startswith(".")
            if not is_hidden and (part == "**" or fnmatch(entry.name, part)):
                yield entry


def _is_shard(name: str) -> bool:
    return os.path.normcase(name).endswith(ENDING)


def _ending(name: str) -> str:
    """The ending of a name with all its parts, such as `.parquet.gzip`; "" without an ending."""
    return "".join(PurePosixPath(name).suffixes[-2:])


def _identity(folder: Path) -> tuple[int, int] | None:
    """Device and number of a local folder, which are equal for all its names; None if they are not available."""
    if not is_local(folder):
        return None
    try:
        status = os.stat(folder)
    except OSError:  # the folder is then named by the search that lists it
        return None
    return status.st_dev, status.st_ino
