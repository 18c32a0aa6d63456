"""One run at a time in an OUTPUT: a lock that a dead holder does not keep.

In: OUTPUT. Out: a lock for the time of a block. The lock is the operating system's, on `_lock` in
OUTPUT (by the library filelock), so it is gone with its process; who holds it stands in the file beside it.
In an object store it is that of `store_lock.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from screen.output.store_lock import hold_store, locked, name_myself, refuse_if_store_held
from screen.places import is_local
from screen.storage import write_failed

LOCK_NAME = "_lock"
_HOLDER_NAME = "_lock.holder"


@contextmanager
def hold_output(output: Path) -> Iterator[str]:
    """Hold OUTPUT for the time of the block; the folder is made if missing.

    Yields:
        What a person should know about this lock, or "".

    Raises:
        OutputLocked: another living process holds it.
        WriteFailed: the folder cannot be made or written to.
    """
    if not is_local(output):
        with hold_store(output) as note:
            yield note
        return
    holder = output / _HOLDER_NAME
    lock = FileLock(output / LOCK_NAME, timeout=0)
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        holder.write_text(name_myself(), encoding="utf-8")
    except Timeout as error:
        raise locked(output, _read(holder)) from error
    except OSError as error:
        lock.release()
        raise write_failed(output, error) from error
    try:
        yield ""
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def refuse_if_held(output: Path) -> None:
    """Go on only if no run holds OUTPUT now; for readers, which need no lock of their own.

    Raises:
        OutputLocked: a living process holds it.
    """
    if not is_local(output):
        refuse_if_store_held(output)
        return
    if not (output / LOCK_NAME).is_file():
        return
    lock = FileLock(output / LOCK_NAME, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise locked(output, _read(output / _HOLDER_NAME)) from error
    except OSError:
        return  # results that cannot be written to are not being written
    lock.release()


def _read(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8") or "another run"
    except OSError:
        return "another run"
