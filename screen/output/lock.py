"""One run at a time in an OUTPUT: a lock that a dead holder does not keep.

In: OUTPUT. Out: a lock for the time of a block. The lock is the operating system's, on `_lock` in
OUTPUT (by the library filelock), so it is gone with its process; who holds it stands in the file beside it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from export.errors import OutputLocked
from screen.storage import write_failed

LOCK_NAME = "_lock"
_HOLDER_NAME = "_lock.holder"


@contextmanager
def hold_output(output: Path) -> Iterator[None]:
    """Hold OUTPUT for the time of the block; the folder is made if missing.

    Raises:
        OutputLocked: another living process holds it.
        WriteFailed: the folder cannot be made or written to.
    """
    holder = output / _HOLDER_NAME
    lock = FileLock(output / LOCK_NAME, timeout=0)
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    except Timeout as error:
        raise OutputLocked(
            f"{output} is held by {_read(holder)}.",
            wanted="one run at a time in an OUTPUT",
            next_step="wait until it ends, or choose another OUTPUT",
        ) from error
    except OSError as error:
        lock.release()
        raise write_failed(output, error) from error
    try:
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _read(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8") or "another run"
    except OSError:
        return "another run"
