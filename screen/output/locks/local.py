"""Locks of the operating system on files: exclusive locks for writers, and shared locks for readers.

In: the path of a lock file. Out: a lock that a writer holds (by the library filelock), and whether another writer holds
it. To test a lock, a reader holds a shared lock for a few microseconds. A writer that is blocked only by readers tries
again for several seconds, which is much longer than a reader holds the lock.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

with suppress(ImportError):
    import fcntl

_HAS_SHARED_LOCKS = os.name == "posix"

_READERS_SECONDS = 5.0
"""Maximum seconds that a writer waits for readers, each of which holds the lock for microseconds."""

_POLL_SECONDS = 0.005
"""Seconds between two attempts of a writer."""


def take_lock(lock: FileLock, patience: float) -> None:
    """Acquire a lock for writing.

    Args:
        lock: the lock.
        patience: seconds to wait for another writer; for readers, and for writers on systems without shared locks, the
            limit is `_READERS_SECONDS`.

    Raises:
        Timeout: another writer, or readers, still hold the lock after the wait.
        OSError: the lock file cannot be created or opened.
    """
    start = time.monotonic()
    while True:
        try:
            lock.acquire(timeout=0)
            return
        except Timeout:
            # Without shared locks, a reader looks like a writer.
            is_writer = _HAS_SHARED_LOCKS and is_taken(Path(lock.lock_file))
            if time.monotonic() - start > (patience if is_writer else _READERS_SECONDS):
                raise
        time.sleep(_POLL_SECONDS)


def is_taken(path: Path, patience: float = 0.0) -> bool:
    """Whether a writer holds the lock file at a path, and still holds it after `patience` seconds.

    Raises:
        OSError: the system refused to open or lock the file.
    """
    start = time.monotonic()
    while _is_taken_now(path):
        if time.monotonic() - start >= patience:
            return True
        time.sleep(_POLL_SECONDS)
    return False


def _is_taken_now(path: Path) -> bool:
    if not _HAS_SHARED_LOCKS:
        return _is_taken_exclusively(path)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):  # the caller reports a path that is not a folder
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        return _is_taken_exclusively(path)  # without flock, filelock's lock is the existence of a file
    finally:
        os.close(handle)  # this releases the lock too
    return False


def _is_taken_exclusively(path: Path) -> bool:
    """Whether another process holds a lock file, tested by a short exclusive lock; for systems without shared locks."""
    if not path.is_file():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=_READERS_SECONDS, poll_interval=_POLL_SECONDS)
    except Timeout:
        return True
    except PermissionError:
        return False  # OUTPUT is not writable, so no run of this user is writing to it
    lock.release()
    return False
