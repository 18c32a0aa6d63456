"""Write files atomically: under its final name, a file is always complete.

In: paths, local or in an object store. Out: complete files.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from export.errors import WriteFailed
from export.leftovers import StagingPlace, is_used, remove_staging
from screen.files.paths import as_os_error, is_local, open_bytes
from screen.files.temporary import temporary_folder

STAGING_PREFIX = ".oodscreen-"
UNLOCKED_PREFIX = f"{STAGING_PREFIX}file-"
"""Prefix of staging files in folders that no lock protects."""


@dataclass(frozen=True)
class FileContent:
    """Size and digest of a file's content.

    Attributes:
        size: size in bytes.
        sha256: SHA-256 of the bytes, as hexadecimal text.
    """

    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileContent:
        """Read a file completely, and return its size and digest."""
        with open_bytes(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return cls(file.tell(), digest)


class StagingFile:
    """A file that is written under a temporary name, and renamed to its target once it is complete.

    For a local target, the staging file is in the folder of the target. For a target in a store, the staging file is a
    local temporary file, which is uploaded as a whole object.

    Args:
        target: the final path.
        owner: name of the writer, if several writers use the folder at the same time.
        unlocked: whether the caller holds no lock of the target's folder. If so, and if this folder is local, staging
            files of killed commands are removed from the folder.

    Raises:
        WriteFailed: the target's folder cannot be created or written to, or no folder for temporary files can be
            written to.
    """

    def __init__(self, target: Path, owner: str = "", *, unlocked: bool = False) -> None:
        self.target = target
        self._place: StagingPlace | None = None
        name = f"{_prefix(owner)}{secrets.token_hex(8)}"
        self.path = target.with_name(name) if is_local(target) else temporary_folder() / name
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if unlocked and is_local(target):
                self._place = StagingPlace(target.parent, UNLOCKED_PREFIX)
                self.path = self._place.path
        except OSError as error:
            raise write_failed(target, error) from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Remove the staging file if the block raises an exception.

        Raises:
            WriteFailed: the block raised an OSError.
        """
        try:
            yield
        except OSError as error:
            self.discard()
            raise write_failed(self.target, error) from error
        except BaseException:
            self.discard()
            raise

    def commit(self) -> FileContent:
        """Sync the staging file and rename it to its target, or upload it.

        Returns:
            Size and digest of the written file.

        Raises:
            WriteFailed: the file could not be synced, renamed or uploaded. The staging file is removed, and the target
                is unchanged unless only the sync of its folder failed.
        """
        try:
            content = FileContent.of(self.path)
            if is_local(self.target):
                with open(self.path, "rb+") as file:
                    os.fsync(file.fileno())
                os.replace(self.path, self.target)
                self._release()
                sync_folder(self.target.parent)
            else:
                with as_os_error():
                    self.target.fs.put_file(str(self.path), self.target.path)  # type: ignore[attr-defined]
                self.discard()
        except OSError as error:
            self.discard()
            raise write_failed(self.target, error) from error
        return content

    def discard(self) -> None:
        """Remove the staging file."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        self._release()

    def _release(self) -> None:
        if self._place is not None:
            self._place.release()


def _prefix(owner: str) -> str:
    return f"{STAGING_PREFIX}{owner}-" if owner else STAGING_PREFIX


def find_stale_staging(folder: Path, owner: str = "") -> list[Path]:
    """Staging files of killed commands in a folder and its subfolders; an object store never contains staging files.

    Args:
        folder: the folder.
        owner: as for `StagingFile`; "" for all owners.
    """
    found = sorted(folder.rglob(f"{_prefix(owner)}*"))
    return [path for path in found if not (path.name.startswith(UNLOCKED_PREFIX) and is_used(path))]


def remove_stale_staging(folder: Path, owner: str = "") -> None:
    """Remove the staging files that `find_stale_staging` finds; the caller must hold the owner's lock."""
    for path in find_stale_staging(folder, owner):
        remove_staging(path)


def write_text(target: Path, text: str, owner: str = "", *, unlocked: bool = False) -> None:
    """Write a text file atomically: at any time, the file has its complete old or complete new content.

    Args:
        target: the file's path.
        text: the new content.
        owner: as for `StagingFile`.
        unlocked: as for `StagingFile`.

    Raises:
        WriteFailed: the file could not be written; `StagingFile.commit` describes when the target is unchanged.
    """
    staging = StagingFile(target, owner, unlocked=unlocked)
    with staging.writing():
        staging.path.write_text(text, encoding="utf-8", newline="\n")
    staging.commit()


_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM)
"""Error numbers of file systems that cannot open or sync folders: SMB, sshfs, DrvFs and the file systems of Windows."""


def sync_folder(folder: Path) -> bool:
    """Sync a folder, so that renames in it survive a crash.

    Returns:
        Whether the folder is synced; False if its file system cannot sync folders.

    Raises:
        OSError: the sync failed.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno in _CANNOT_SYNC:
            return False
        raise
    return True


def write_failed(target: Path, error: OSError) -> WriteFailed:
    """The `WriteFailed` for an OSError that occurred while a target was written."""
    return WriteFailed(
        f"{target} could not be written: {error.strerror or error}.",
        wanted="a writable location with free space",
        next_step="check the permissions and the free space, or choose another location; then run the command again "
        "(`oodscreen run` and `oodscreen pack` skip finished shards)",
    )
