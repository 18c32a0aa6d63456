"""Lock of an OUTPUT in an object store that can create an object only if it does not exist.

In: OUTPUT in a store. Out: a lock held during a block: an object `_lock.K` (for a partition `_lock.I-of-N.K`) that the
holder renews. A lock that was not renewed for five minutes is stale, and the next run creates the object with the
number K + 1; if several runs try to create the object, the store accepts only one. Each run first tests whether the
store supports this exclusive creation; without it, OUTPUT is not locked.
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
from pathlib import Path
from typing import Any

from export.errors import OutputLocked
from screen.files.storage import write_failed
from screen.partition import ShardPartition

LOCK_NAME = "_lock"
_RENEW_SECONDS = 30.0
"""Seconds between renewals of a lock."""

_DEAD_SECONDS = 300.0
"""Seconds without a renewal after which a lock is stale: its holder is assumed to have ended."""


@contextmanager
def hold_store(output: Path, partition: ShardPartition | None) -> Iterator[str]:
    """Hold OUTPUT, or one partition of it, during the block.

    Yields:
        A notice for the user that the store cannot lock, or "".

    Raises:
        OutputLocked: another run renewed its lock less than `_DEAD_SECONDS` ago.
        WriteFailed: the store refused to write.
    """
    if not _creates_exclusively(output):
        yield (
            "OUTPUT is not locked, because this store cannot create an object only if it does not exist; "
            "do not start a second run in OUTPUT"
        )
        return
    mine = _take(output, partition)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(_RENEW_SECONDS):
            with suppress(Exception):  # a failed renewal is retried at the next interval
                mine.write_bytes(_stamp())

    thread = threading.Thread(target=renew, name="renew-lock", daemon=True)
    thread.start()
    try:
        for other in _held_partitions(output) if partition is None else [None]:
            _refuse_newest(output, other)
        yield ""
    finally:
        ended.set()
        thread.join()
        for _, lock in _locks(output, partition):
            lock.unlink(missing_ok=True)


def refuse_if_store_held(output: Path) -> None:
    """Raise an error if a run holds OUTPUT or a partition of it now.

    Raises:
        OutputLocked: a run holds OUTPUT or a partition.
    """
    for partition in (None, *_held_partitions(output)):
        _refuse_newest(output, partition)


def lock_name(partition: ShardPartition | None) -> str:
    """Name of the lock of OUTPUT or of a partition."""
    return LOCK_NAME if partition is None else f"{LOCK_NAME}.{partition.name}"


def locked(output: Path, partition: ShardPartition | None, holder: str) -> OutputLocked:
    """The `OutputLocked` for an OUTPUT, or a partition of it, that another run holds."""
    return OutputLocked(
        f"{output} is held by {holder}." if partition is None else f"Part {partition} of {output} is held by {holder}.",
        wanted="one run at a time in an OUTPUT, or one for each part of it",
        next_step="wait until that run ends, or choose another OUTPUT",
    )


def describe_process() -> str:
    """Text that names this process and its machine as the holder of a lock."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def _stamp() -> bytes:
    return json.dumps({"holder": describe_process(), "renewed": time.time()}).encode()


def _locks(output: Path, partition: ShardPartition | None = None) -> list[tuple[int, Path]]:
    """Number and path of all locks of OUTPUT or of a partition, the newest last."""
    found = []
    prefix = f"{lock_name(partition)}."
    for lock in output.glob(f"{prefix}*"):
        number = lock.name.removeprefix(prefix)
        if number.isdecimal():
            found.append((int(number), lock))
    return sorted(found, key=lambda one: one[0])


def _held_partitions(output: Path) -> list[ShardPartition]:
    """The partitions that have a lock, including stale locks."""
    names = (lock.name.removeprefix(f"{LOCK_NAME}.").rpartition(".")[0] for lock in output.glob(f"{LOCK_NAME}.*"))
    return sorted({partition for partition in map(ShardPartition.from_name, names) if partition is not None})


def _take(output: Path, partition: ShardPartition | None) -> Path:
    locks = _locks(output, partition)
    number = 1
    if locks:
        number = locks[-1][0] + 1
        _refuse_if_alive(output, partition, locks[-1][1])
    mine = output / f"{lock_name(partition)}.{number}"
    try:
        _create(mine, _stamp())
    except FileExistsError as error:
        raise locked(output, partition, "another run, which started at the same moment") from error
    return mine


def _refuse_newest(output: Path, partition: ShardPartition | None) -> None:
    for _, lock in _locks(output, partition)[-1:]:
        _refuse_if_alive(output, partition, lock)


def _refuse_if_alive(output: Path, partition: ShardPartition | None, lock: Path) -> None:
    try:
        content: dict[str, Any] = json.loads(lock.read_bytes())
        holder, age = str(content["holder"]), time.time() - float(content["renewed"])
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        holder, age = "another run", 0.0
    if age < _DEAD_SECONDS:
        raise locked(output, partition, f"{holder}, which renewed its lock {max(age, 0):.0f} s ago")


def _create(path: Path, data: bytes) -> None:
    """Create an object, or raise FileExistsError; a store without exclusive creation replaces an existing object."""
    path.fs.pipe_file(path.path, data, mode="create")  # type: ignore[attr-defined]


def _creates_exclusively(output: Path) -> bool:
    probe = output / f"_probe.{secrets.token_hex(8)}"
    try:
        with suppress(NotImplementedError, TypeError):  # the store does not support the mode
            output.mkdir(parents=True, exist_ok=True)
            _create(probe, b"1")
            try:
                _create(probe, b"2")
            except FileExistsError:
                return True
        return False
    except Exception as error:
        os_error = error if isinstance(error, OSError) else OSError(f"{type(error).__name__}: {error}")
        raise write_failed(output, os_error) from error
    finally:
        with suppress(Exception):
            probe.unlink(missing_ok=True)
