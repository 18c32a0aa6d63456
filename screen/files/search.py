"""The base class of the searches of a folder and of a glob.

In: the entries of folders. Out: a sorted `Listing`, which also contains the names that cannot be listed or read.
"""

from __future__ import annotations

import os
from pathlib import Path

from export.addresses import without_secrets
from screen.files.entries import Entry, read_folder
from screen.files.listed import ENDING, ListedFile, Listing, PassedOver, Unlisted
from screen.files.paths import is_local, name_place

_NO_NAME = "a part of the name is empty, `.` or `..`, which cannot be the name of a file"


class Search:
    """The files and folders that one search has found.

    Args:
        source: INPUT.
        root: the folder that names are relative to.
    """

    def __init__(self, source: str, root: Path) -> None:
        self.source, self.root = source, root
        self.files: list[ListedFile] = []
        self.unlisted: dict[str, Unlisted] = {}
        self.folders = [root]

    def entries(self, folder: Path, name: str) -> list[Entry]:
        """The entries of a folder, sorted by name; empty if the folder was removed, or is recorded as unlisted.

        Args:
            folder: the folder.
            name: its path relative to `root`; "" for `root`.

        Raises:
            OSError: `root` cannot be listed.
        """
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
        """Record a file, or refuse it if a part of its name cannot be the name of a file."""
        if set(name.split("/")) & {"", ".", ".."}:
            self.refuse(name, path, _NO_NAME)
        else:
            self.files.append(ListedFile(name, path))

    def finish(self, passed_over: PassedOver) -> Listing:
        """The sorted listing of the recorded files and names."""
        return Listing(
            name_place(self.source),
            self.root,
            tuple(sorted(self.files, key=lambda file: file.path)),
            tuple(self.unlisted[name] for name in sorted(self.unlisted)),
            passed_over,
            tuple(self.folders),
        )


def is_shard(name: str) -> bool:
    """Whether a name has the ending of a shard."""
    return os.path.normcase(name).endswith(ENDING)


def identify_folder(folder: Path) -> tuple[int, int] | None:
    """Device and inode number of a local folder, equal for all paths to the folder; None if they are not available."""
    if not is_local(folder):
        return None
    try:
        status = os.stat(folder)
    except OSError:  # the search reports the folder when it lists the folder
        return None
    return status.st_dev, status.st_ino
