"""Create staging files and folders, and remove the staging files and folders of killed commands.

In: a folder that no lock protects, for example the folder of a report page. Out: a new staging file or folder in this
folder. A process holds a lock of the operating system on its staging file; the system releases the lock when the
process ends. Without these locks (Windows, some network file systems), files of killed commands stay.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

with suppress(ImportError):
    import fcntl

_HAS_LOCKS = os.name == "posix"


class StagingPlace:
    """A new staging file or folder, which other commands do not remove before the call of `release`.

    Args:
        folder: folder of the target.
        prefix: start of the name. Files and folders with this prefix that no process uses are removed.
        is_folder: whether to create a folder.

    Raises:
        OSError: the file or folder cannot be created.
    """

    def __init__(self, folder: Path, prefix: str, *, is_folder: bool = False) -> None:
        remove_leftovers(folder, prefix)
        self._handle: int | None = None
        is_mine = False
        while not is_mine:
            self.path = folder / f"{prefix}{secrets.token_hex(8)}"
            if is_folder:
                self.path.mkdir()
            else:
                self.path.touch(exist_ok=False)
            with suppress(BlockingIOError):  # another command removes the new file before it is locked
                self._handle = _lock(self.path)
                is_mine = self.path.exists()

    def release(self) -> None:
        """Release the lock. The caller may have renamed or removed the file or folder before."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


@contextmanager
def staging_folder(folder: Path, prefix: str) -> Iterator[Path]:
    """Create a staging folder, and remove the folder at the end of the block.

    The arguments are those of `StagingPlace`.
    """
    place = StagingPlace(folder, prefix, is_folder=True)
    try:
        yield place.path
    finally:
        shutil.rmtree(place.path, ignore_errors=True)
        place.release()


def is_used(path: Path) -> bool:
    """Whether a process uses a staging file or folder; False if the path cannot be opened or does not support locks."""
    try:
        handle = _lock(path)
    except BlockingIOError:
        return True
    if handle is not None:
        os.close(handle)
    return False


def remove_leftovers(folder: Path, prefix: str) -> None:
    """Remove the staging files and folders of killed commands from a folder, but not from its subfolders.

    Args:
        folder: the folder.
        prefix: start of the names of the staging files and folders.
    """
    paths: list[Path] = []
    with suppress(OSError):
        paths = [Path(entry) for entry in os.scandir(folder) if entry.name.startswith(prefix)]
    for path in paths:
        with suppress(OSError):
            handle = _lock(path)
            if handle is not None:
                remove_staging(path)
                os.close(handle)


def remove_staging(path: Path) -> None:
    """Remove a staging file or folder, if it exists.

    Raises:
        OSError: the file cannot be removed.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _lock(path: Path) -> int | None:
    """A handle that holds the lock of a path; None if the path cannot be opened or does not support locks.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    if not _HAS_LOCKS:
        return None
    handle = None
    try:
        handle = os.open(path, (os.O_RDONLY if path.is_dir() else os.O_RDWR) | os.O_CLOEXEC | os.O_NOFOLLOW)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if handle is not None:
            os.close(handle)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return handle
