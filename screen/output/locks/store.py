"""Lock of an OUTPUT in an object store that can refuse to create an object that exists.

In: OUTPUT in a store. Out: a lock held during a block: the newest of the objects `_lock.K` (for a partition
`_lock.I-of-N.K`). No object is overwritten. To renew its lock, the holder creates the object with the next number, and
removes the object with the number K. To release its lock, the holder creates an empty object with the next number. A
run that finds a released lock, or a lock that was not renewed for five minutes, takes the lock by creating the next
object. The store accepts only one of two requests for the same object, so the next renewal of a suspended holder fails
if another run has taken the lock. The empty object of a released lock stays, so no number is used twice, and a run
removes only objects that it created or superseded. The age of a lock is the difference of two times that the store
wrote; the clock of the machine is used only if the store refuses to write. Each run tests whether the store refuses to
create an object that exists; in a store that does not refuse, OUTPUT is not locked.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from export.errors import OutputLocked
from screen.files.failures import raise_if_refused
from screen.files.paths import as_os_error
from screen.files.storage import write_failed
from screen.partition import ShardPartition

LOCK_NAME = "_lock"
_RENEW_SECONDS = 30.0
"""Seconds between renewals of a lock."""

_DEAD_SECONDS = 300.0
"""Seconds without a renewal after which a lock is stale: its holder is assumed to have ended."""

_SAFE_SECONDS = 240.0
"""Seconds after a renewal in which writes can start; the difference from `_DEAD_SECONDS` allows for a long write."""

_READS = 20
"""Maximum number of attempts to read the newest object of a lock, which the holder may replace meanwhile."""


@dataclass
class HeldOutput:
    """A lock on OUTPUT or a partition that this process holds.

    Attributes:
        note: a notice for the user, or "".
    """

    note: str = ""

    def check(self) -> None:
        """Raise an error if the lock was lost; called before each write. Locks on a local disk are never lost."""


@contextmanager
def hold_store(output: Path, partition: ShardPartition | None) -> Iterator[HeldOutput]:
    """Hold OUTPUT, or one partition of it, during the block.

    Yields:
        The lock; if the store cannot refuse to create an object that exists, a `HeldOutput` with a notice.

    Raises:
        OutputLocked: another run holds this lock, or a lock that excludes this run.
        WriteFailed: the store refused to list or write.
    """
    with _explained(output):
        lock = _StoreLock.take(output, partition) if _creates_exclusively(output) else None
    if lock is None:
        yield HeldOutput(
            "OUTPUT is not locked, because this store cannot refuse to create an object that exists; "
            "do not start a second run in OUTPUT"
        )
        return
    thread = threading.Thread(target=lock.keep_renewing, name="renew-lock", daemon=True)
    thread.start()
    try:
        with _explained(output):
            for other, numbers in _find_locks(output).items():
                if excludes(partition, other):
                    _refuse_newest(output, other, numbers)
        yield lock
    finally:
        lock.ended.set()
        thread.join()
        lock.release()


def refuse_if_store_held(output: Path) -> None:
    """Raise an error if a run holds OUTPUT or a partition of it now.

    Raises:
        OutputLocked: a run holds OUTPUT or a partition.
        ReadFailed: the store failed.
    """
    try:
        with as_os_error():
            for partition, numbers in _find_locks(output).items():
                _refuse_newest(output, partition, numbers)
    except OSError as error:
        raise_if_refused(output, error)
        raise


def excludes(mine: ShardPartition | None, other: ShardPartition | None) -> bool:
    """Whether two runs exclude each other: a whole run and a partition, or partitions of different counts.

    Two whole runs, or two runs of one partition, use the same lock, which already excludes one of them.
    """
    if mine is None or other is None:
        return mine != other
    return mine.count != other.count


def lock_name(partition: ShardPartition | None) -> str:
    """Name of the lock of OUTPUT or of a partition."""
    return LOCK_NAME if partition is None else f"{LOCK_NAME}.{partition.name}"


def locked(output: Path, partition: ShardPartition | None, holder: str) -> OutputLocked:
    """The `OutputLocked` for an OUTPUT, or a partition of it, that another run holds."""
    return OutputLocked(
        f"{'' if partition is None else f'Part {partition} of '}{output} is in use by {holder}.",
        wanted="one run in an OUTPUT at a time, or one run for each part I/N, with the same N in all these runs",
        next_step="wait until that run ends, or choose another OUTPUT",
    )


def describe_process() -> str:
    """Text that names this process and its machine as the holder of a lock."""
    return f"process {os.getpid()} on {socket.gethostname()}"


class _StoreLock(HeldOutput):
    """The lock of OUTPUT or of a partition, held by this process.

    Args:
        output: folder of results.
        partition: the partition; None for the whole OUTPUT.
        number: number of the object that this process created.
        superseded: numbers of older objects, to be removed.
        confirmed: time before the object was created, in seconds of `_clock`.
    """

    def __init__(
        self, output: Path, partition: ShardPartition | None, number: int, superseded: list[int], confirmed: float
    ) -> None:
        super().__init__()
        self.ended = threading.Event()
        self._output, self._partition = output, partition
        self._number, self._superseded, self._confirmed = number, superseded, confirmed
        self._content = json.dumps({"holder": describe_process(), "token": secrets.token_hex(16)}).encode()
        self._lost: OutputLocked | None = None
        self._guard = threading.Lock()

    @classmethod
    def take(cls, output: Path, partition: ShardPartition | None) -> _StoreLock:
        """Create the next object of the lock.

        Raises:
            OutputLocked: another run holds the lock.
        """
        started, older = _clock(), _find_locks(output).get(partition, {})
        _refuse_newest(output, partition, older)
        lock = cls(output, partition, max(older, default=0) + 1, list(older), started)
        if not _create(lock._path(lock._number), lock._content):
            raise locked(output, partition, "another run, which started at the same moment")
        return lock

    def keep_renewing(self) -> None:
        """Renew the lock until `ended` is set, or the lock is lost."""
        while not self.ended.wait(_RENEW_SECONDS) and self._lost is None:
            with suppress(Exception):  # a failed renewal is repeated at the next interval; a lost lock is recorded
                self._renew()

    def check(self) -> None:
        """Raise an error if the lock is lost, or may be lost because it was not renewed for `_SAFE_SECONDS`.

        Raises:
            OutputLocked: another run has taken the lock over, for example after this process was suspended.
            WriteFailed: the store did not accept a renewal for `_SAFE_SECONDS`.
        """
        if self._lost is None and _clock() - self._confirmed > 2 * _RENEW_SECONDS:
            try:
                with as_os_error():
                    self._renew()
            except OSError as error:
                if _clock() - self._confirmed > _SAFE_SECONDS:
                    raise write_failed(self._output, error) from error
        if self._lost is not None:
            raise self._lost

    def release(self) -> None:
        """Mark the lock as released, and remove its other objects; errors of the store are ignored.

        A lock that is not marked expires, and objects that are not removed have no effect.
        """
        with suppress(Exception):
            if self._lost is None:
                _create(self._path(self._number + 1), b"")
        with suppress(Exception):
            self._remove([*self._superseded, self._number])

    def _renew(self) -> None:
        with self._guard:
            started = _clock()
            was_late = started - self._confirmed > _SAFE_SECONDS
            following = self._number + 1
            # The object exists if an earlier renewal created it, but the answer of the store was lost.
            if self._newest() not in (self._number, following) or not _create(self._path(following), self._content):
                self._lose()
                return
            self._superseded.append(self._number)
            self._number = following
            # Another run may have taken, released and cleaned up the lock between two requests of a suspended process.
            if (was_late or _clock() - started > _SAFE_SECONDS) and self._newest() != following:
                self._lose()
                return
            self._confirmed = started
            with suppress(Exception):  # repeated at the next renewal
                self._remove(self._superseded)

    def _lose(self) -> None:
        error = locked(self._output, self._partition, "another run, which took the lock over")
        self._lost = OutputLocked(
            f"{error.found} This process was suspended, or could not renew the lock, for "
            f"{_clock() - self._confirmed:.0f} s.",
            wanted=error.wanted,
            next_step="wait until the other run ends, then run the command again; without --force, it skips finished "
            "shards",
        )

    def _newest(self) -> int:
        return max(_find_locks(self._output).get(self._partition, {}), default=0)

    def _path(self, number: int) -> Path:
        return _path(self._output, self._partition, number)

    def _remove(self, numbers: list[int]) -> None:
        for number in list(numbers):
            self._path(number).unlink(missing_ok=True)
            if number in self._superseded:
                self._superseded.remove(number)


def _clock() -> float:
    """Seconds of a clock that also runs while the machine sleeps, where the system has one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _path(output: Path, partition: ShardPartition | None, number: int) -> Path:
    return output / f"{lock_name(partition)}.{number}"


def _find_locks(output: Path) -> dict[ShardPartition | None, dict[int, int]]:
    """Sizes in bytes of the objects of each lock, by partition (None: the whole OUTPUT) and number of the object."""
    found: dict[ShardPartition | None, dict[int, int]] = {}
    pattern = f"{output.path.rstrip('/')}/{LOCK_NAME}.*"  # type: ignore[attr-defined]
    for address, info in output.fs.glob(pattern, detail=True).items():  # type: ignore[attr-defined]
        name, _, number = address.rpartition("/")[2].rpartition(".")
        partition = ShardPartition.from_name(name.removeprefix(f"{LOCK_NAME}."))
        if number.isdecimal() and name == lock_name(partition):
            found.setdefault(partition, {})[int(number)] = int(info.get("size") or 0)
    return found


def _refuse_newest(output: Path, partition: ShardPartition | None, numbers: dict[int, int]) -> None:
    """Raise an error if a lock is neither released nor stale.

    Args:
        output: folder of results.
        partition: the partition; None for the whole OUTPUT.
        numbers: sizes of the objects of the lock, by number, from `_find_locks`.

    Raises:
        OutputLocked: the lock is neither released nor stale.
    """
    holder, age = "another run", 0.0
    for _ in range(_READS):
        if not numbers or numbers[max(numbers)] == 0:
            return
        newest = _path(output, partition, max(numbers))
        try:
            content = newest.read_bytes()
            age = (_store_time(output) - newest.fs.modified(newest.path)).total_seconds()  # type: ignore[attr-defined]
        except FileNotFoundError:  # renewed or released since it was listed
            numbers = _find_locks(output).get(partition, {})
            continue
        except NotImplementedError:
            raise locked(output, partition, f"a run that may have ended; if it has ended, delete {newest}") from None
        with suppress(ValueError, KeyError, TypeError):
            holder = str(json.loads(content)["holder"])
        break
    if age < _DEAD_SECONDS:
        raise locked(output, partition, f"{holder}, which renewed its lock {max(age, 0):.0f} s ago")


def _store_time(output: Path) -> datetime:
    """The time that the store writes for a new object; the time of this machine if the store refuses to write."""
    probe = output / f"_probe.{secrets.token_hex(8)}"
    try:
        _create(probe, b"1")
        written: datetime = probe.fs.modified(probe.path)  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001  a command that only reads may lack permission to write
        return datetime.now(UTC)
    finally:
        with suppress(Exception):
            probe.unlink(missing_ok=True)
    return written


def _create(path: Path, data: bytes) -> bool:
    """Create an object, and return whether this process created it.

    If the answer of the store was lost and the client repeated the request, the store reports an existing object: the
    object is then recognised by the token in its content.

    Raises:
        Exception: the store failed and the object could not be read, or the store does not support exclusive creation.
    """
    try:
        path.fs.pipe_file(path.path, data, mode="create")  # type: ignore[attr-defined]
    except (NotImplementedError, TypeError):  # the store does not support the mode
        raise
    except Exception as error:  # noqa: BLE001  any answer may hide that the object was created
        try:
            there = path.read_bytes()
        except Exception:  # noqa: BLE001
            raise error from None
        return there == data
    return True


def _creates_exclusively(output: Path) -> bool:
    """Whether the store refuses to create an object that exists."""
    probe = output / f"_probe.{secrets.token_hex(8)}"
    try:
        with suppress(NotImplementedError, TypeError):
            output.mkdir(parents=True, exist_ok=True)
            return _create(probe, b"1") and not _create(probe, b"2")
        return False
    finally:
        with suppress(Exception):
            probe.unlink(missing_ok=True)


@contextmanager
def _explained(output: Path) -> Iterator[None]:
    """Raise `WriteFailed` in place of any exception of the store in the block."""
    try:
        with as_os_error():
            yield
    except OSError as error:
        raise write_failed(output, error) from error
