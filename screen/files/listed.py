"""The values that describe the content of INPUT.

In: names and paths that a search has found. Out: a `Listing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ENDING = ".parquet"

PACK_FOLDER = ".pack"
"""Name of the hidden folder with the lock and the summary of `oodscreen pack`, in the folder of the shards."""

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
    """A folder that cannot be listed, or an entry that is not a readable file.

    Attributes:
        name: path relative to the folder of INPUT; the name of a folder ends with `/`.
        path: path as text, without secrets.
        reason: why the folder cannot be listed, or the entry cannot be read.
    """

    name: str
    path: str
    reason: str


@dataclass(frozen=True)
class PassedOver:
    """Numbers of entries that are not read, if INPUT is a folder.

    Attributes:
        endings: number of files whose names do not end in `.parquet`, by ending.
        hidden: number of files and folders whose names start with `.` or `_`, except `PACK_FOLDER`.
        listed: number of links to a folder that is listed under another name.
        broken: number of links that lead to nothing, and whose names do not end in `.parquet`.
    """

    endings: tuple[tuple[str, int], ...] = ()
    hidden: int = 0
    listed: int = 0
    broken: int = 0

    def describe(self) -> str:
        """The counts on one line; "" if nothing was skipped."""
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
        passed_over: numbers of the entries that are not read, if INPUT is a folder.
        folders: folders that were searched with their subfolders: `root` and the followed links; none for a file, and
            for a glob without `**`.
    """

    source: str
    root: Path
    files: tuple[ListedFile, ...]
    unlisted: tuple[Unlisted, ...] = ()
    passed_over: PassedOver = PassedOver()
    folders: tuple[Path, ...] = ()
