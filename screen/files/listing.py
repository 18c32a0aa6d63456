"""List the Parquet files of INPUT, and count the skipped entries.

In: a path or an address of a file, a folder or a glob, local or in an object store. Out: a `Listing`.
"""

from __future__ import annotations

import errno
import glob
from pathlib import Path

from export.errors import InputRefused, ReadFailed
from screen.files.folder_search import FolderSearch
from screen.files.glob_search import GlobSearch
from screen.files.listed import ListedFile, Listing
from screen.files.paths import as_os_error, as_path, base_name, name_place

_REFUSED = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)
"""Error numbers of a path that cannot be listed until the path or its permissions are corrected; other errors may be
temporary."""


def list_shards(source: str) -> Listing:
    """List the Parquet files of INPUT.

    In a folder, links to folders are followed, and each folder is searched once. Entries whose names start with `.` or
    `_` are skipped, as by other readers of Parquet folders. In a glob, `**` follows links, except into a folder that
    contains the link.

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
            return FolderSearch(source, path).search()
        if glob.has_magic(source):
            found = GlobSearch(source, path).search()
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
