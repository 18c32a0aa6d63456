"""Lock OUTPUT, or one partition of it, for a run; the lock is released when the process of the run ends.

In: OUTPUT, and a partition if the run scores only one. Out: a lock held during a block: the operating system's lock (by
the library filelock) on `_lock` or `_lock.I-of-N` in OUTPUT. A second file, with the ending `.holder`, names the
process that holds the lock. Partitions do not exclude each other, but a whole run and a partition do: each takes its
own lock first and then tests the locks of the other kind, so of two concurrent runs at least one detects the other. In
object stores, the lock is that of `store_lock.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from screen.files.paths import is_local
from screen.files.storage import write_failed
from screen.output.store_lock import LOCK_NAME, describe_process, hold_store, lock_name, locked, refuse_if_store_held
from screen.partition import ShardPartition

_HOLDER_ENDING = ".holder"
_PROBE_SECONDS = 5.0
"""Maximum seconds to wait for a lock in a partitioned OUTPUT, where processes acquire locks briefly to test them."""

__all__ = ["LOCK_NAME", "hold_output", "refuse_if_held"]


@contextmanager
def hold_output(output: Path, partition: ShardPartition | None = None) -> Iterator[str]:
    """Hold OUTPUT, or one partition of it, during the block; a missing folder is created.

    Yields:
        A notice about this lock for the user, or "".

    Raises:
        OutputLocked: another run holds OUTPUT, the same partition or, without `partition`, any partition.
        WriteFailed: the folder cannot be created or written to.
    """
    if not is_local(output):
        with hold_store(output, partition) as note:
            yield note
        return
    name = lock_name(partition)
    holder = output / f"{name}{_HOLDER_ENDING}"
    lock = FileLock(output / name, timeout=_timeout(output))
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        holder.write_text(describe_process(), encoding="utf-8")
    except Timeout as error:
        raise locked(output, partition, _read(holder)) from error
    except OSError as error:
        lock.release()
        raise write_failed(output, error) from error
    try:
        for other in _partition_locks(output) if partition is None else [output / LOCK_NAME]:
            _refuse_if_locked(output, other)
        yield ""
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def refuse_if_held(output: Path) -> None:
    """Raise an error if a run holds OUTPUT or a partition of it now; readers call this instead of acquiring a lock.

    Raises:
        OutputLocked: a running process holds OUTPUT or a partition.
    """
    if not is_local(output):
        refuse_if_store_held(output)
        return
    for lock in (output / LOCK_NAME, *_partition_locks(output)):
        _refuse_if_locked(output, lock)


def _partition_locks(output: Path) -> list[Path]:
    found = output.glob(f"{LOCK_NAME}.*")
    return sorted(path for path in found if ShardPartition.from_name(path.name.removeprefix(f"{LOCK_NAME}.")))


def _timeout(output: Path) -> float:
    """Seconds to wait for a lock: 0 without partitions, because then no process acquires a lock to test it."""
    return _PROBE_SECONDS if _partition_locks(output) else 0.0


def _refuse_if_locked(output: Path, path: Path) -> None:
    if not path.is_file():
        return
    lock = FileLock(path, timeout=_timeout(output))
    try:
        lock.acquire(poll_interval=0.01)
    except Timeout as error:
        partition = ShardPartition.from_name(path.name.removeprefix(f"{LOCK_NAME}."))
        raise locked(output, partition, _read(path.with_name(f"{path.name}{_HOLDER_ENDING}"))) from error
    except OSError:
        return  # OUTPUT is not writable, so no run is writing to it
    lock.release()


def _read(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8") or "another run"
    except OSError:
        return "another run"
