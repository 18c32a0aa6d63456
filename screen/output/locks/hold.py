"""Lock OUTPUT, or one partition of it, for a run; on a local disk, the end of the process also releases the lock.

In: OUTPUT, and a partition if the run scores only one. Out: a `HeldOutput` during a block: the operating system's lock
(`local.py`) on `_lock` or `_lock.I-of-N` in OUTPUT. A second file, with the ending `.holder`, names the process that
holds the lock. Partitions of one count do not exclude each other. A whole run and a partition exclude each other, and
so do partitions of different counts: each run takes its own lock first, and then tests the locks that exclude it, so at
least one of two concurrent runs detects the other run. In object stores, `store.py` provides the lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from export.errors import OutputLocked
from screen.files.paths import is_local
from screen.files.storage import sync_folder, write_failed
from screen.output.locks.local import is_taken, take_lock
from screen.output.locks.store import (
    LOCK_NAME,
    HeldOutput,
    describe_process,
    excludes,
    hold_store,
    lock_name,
    locked,
    refuse_if_store_held,
)
from screen.partition import ShardPartition

_HOLDER_ENDING = ".holder"
_PROBE_SECONDS = 5.0
"""Maximum seconds to wait for a lock in a partitioned OUTPUT; a partition that ends locks the whole OUTPUT briefly."""

_NOT_SYNCED = (
    "the file system of OUTPUT cannot sync folders, so the last finished shards may be missing after a power failure; "
    "the next run scores them again"
)

__all__ = ["LOCK_NAME", "HeldOutput", "hold_output", "refuse_if_held"]


@contextmanager
def hold_output(output: Path, partition: ShardPartition | None = None) -> Iterator[HeldOutput]:
    """Hold OUTPUT, or one partition of it, during the block; a missing folder is created.

    Yields:
        The lock, with a notice for the user and a method that raises an error once the lock is lost.

    Raises:
        OutputLocked: another run holds OUTPUT, the same partition, a partition of another count or, without
            `partition`, any partition.
        WriteFailed: the folder cannot be created or written to.
    """
    if not is_local(output):
        with hold_store(output, partition) as held:
            yield held
        return
    name = lock_name(partition)
    holder = output / f"{name}{_HOLDER_ENDING}"
    lock = FileLock(output / name)
    try:
        output.mkdir(parents=True, exist_ok=True)
        take_lock(lock, _patience(output))
        holder.write_text(describe_process(), encoding="utf-8")
        is_synced = sync_folder(output)
    except Timeout as error:
        raise locked(output, partition, _read(holder)) from error
    except OSError as error:
        lock.release()
        raise write_failed(output, error) from error
    try:
        for other in (None, *_partitions(output)):
            if excludes(partition, other):
                _refuse_if_locked(output, other)
        yield HeldOutput("" if is_synced else _NOT_SYNCED)
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()


def refuse_if_held(output: Path) -> None:
    """Raise an error if a run holds OUTPUT or a partition of it now.

    Commands that only read call this function, and hold no lock while they read.

    Raises:
        OutputLocked: a running process holds OUTPUT or a partition.
        ReadFailed: the object store failed.
    """
    try:
        if not is_local(output):
            refuse_if_store_held(output)
            return
        for partition in (None, *_partitions(output)):
            _refuse_if_locked(output, partition)
    except OutputLocked as error:
        raise OutputLocked(
            error.found,
            wanted="results that no run is writing",
            next_step="wait until that run ends, then repeat this command",
        ) from error


def _partitions(output: Path) -> list[ShardPartition]:
    """The partitions that have a lock file, held or not."""
    names = (path.name.removeprefix(f"{LOCK_NAME}.") for path in output.glob(f"{LOCK_NAME}.*"))
    return sorted(partition for partition in map(ShardPartition.from_name, names) if partition is not None)


def _patience(output: Path) -> float:
    """Seconds to wait for another writer."""
    return _PROBE_SECONDS if _partitions(output) else 0.0


def _refuse_if_locked(output: Path, partition: ShardPartition | None) -> None:
    name = lock_name(partition)
    with suppress(PermissionError):  # if the lock file cannot be read, its run cannot be detected
        if is_taken(output / name, _patience(output)):
            raise locked(output, partition, _read(output / f"{name}{_HOLDER_ENDING}"))


def _read(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8") or "another run"
    except OSError:
        return "another run"
