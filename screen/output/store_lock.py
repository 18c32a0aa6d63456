"""The lock of an OUTPUT in an object store, where the store can create an object only if it is not there.

In: OUTPUT in a store. Out: a lock for the time of a block, as an object `_lock.N` (of a part, `_lock.I-of-N.N`) that
its holder renews. A holder that has not renewed it for five minutes is taken for dead, and the next run creates
`_lock.N+1`: of several that try, the store lets one. Whether the store can do that is tried out, not believed.
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
_DEAD_SECONDS = 300.0


@contextmanager
def hold_store(output: Path, part: ShardPartition | None) -> Iterator[str]:
    """Hold OUTPUT, or one part of it, for the time of the block.

    Yields:
        What a person should know: that the store cannot lock; or "".

    Raises:
        OutputLocked: another run holds it, as far as its last renewal tells.
        WriteFailed: the store refuses to write.
    """
    if not _creates_exclusively(output):
        yield "this store cannot create an object only if it is not there: nothing keeps two runs in OUTPUT apart"
        return
    mine = _take(output, part)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(_RENEW_SECONDS):
            with suppress(Exception):  # a renewal that is missed is tried again; five minutes of them are not
                mine.write_bytes(_stamp())

    thread = threading.Thread(target=renew, name="renew-lock", daemon=True)
    thread.start()
    try:
        for other in _held_parts(output) if part is None else [None]:
            _refuse_newest(output, other)
        yield ""
    finally:
        ended.set()
        thread.join()
        for _, lock in _locks(output, part):
            lock.unlink(missing_ok=True)


def refuse_if_store_held(output: Path) -> None:
    """Go on only if no run holds OUTPUT or a part of it now.

    Raises:
        OutputLocked: a run holds it.
    """
    for part in (None, *_held_parts(output)):
        _refuse_newest(output, part)


def lock_name(part: ShardPartition | None) -> str:
    """What a lock is called in OUTPUT."""
    return LOCK_NAME if part is None else f"{LOCK_NAME}.{part.name}"


def locked(output: Path, part: ShardPartition | None, holder: str) -> OutputLocked:
    """Another run holds OUTPUT or a part of it, as one of our errors."""
    return OutputLocked(
        f"{output} is held by {holder}." if part is None else f"Part {part} of {output} is held by {holder}.",
        wanted="one run at a time in an OUTPUT, or one for each part of it",
        next_step="wait until it ends, or choose another OUTPUT",
    )


def name_myself() -> str:
    """How a holder is named to others."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def _stamp() -> bytes:
    return json.dumps({"holder": name_myself(), "renewed": time.time()}).encode()


def _locks(output: Path, part: ShardPartition | None = None) -> list[tuple[int, Path]]:
    """The locks that are there of OUTPUT or a part, the newest last."""
    found = []
    prefix = f"{lock_name(part)}."
    for lock in output.glob(f"{prefix}*"):
        number = lock.name.removeprefix(prefix)
        if number.isdecimal():
            found.append((int(number), lock))
    return sorted(found, key=lambda one: one[0])


def _held_parts(output: Path) -> list[ShardPartition]:
    """The parts that have a lock, perhaps a dead one."""
    names = (lock.name.removeprefix(f"{LOCK_NAME}.").rpartition(".")[0] for lock in output.glob(f"{LOCK_NAME}.*"))
    return sorted({part for part in map(ShardPartition.of_name, names) if part is not None})


def _take(output: Path, part: ShardPartition | None) -> Path:
    there = _locks(output, part)
    number = 1
    if there:
        number = there[-1][0] + 1
        _refuse_if_alive(output, part, there[-1][1])
    mine = output / f"{lock_name(part)}.{number}"
    try:
        _create(mine, _stamp())
    except FileExistsError as error:
        raise locked(output, part, "a run that was a moment quicker") from error
    return mine


def _refuse_newest(output: Path, part: ShardPartition | None) -> None:
    for _, lock in _locks(output, part)[-1:]:
        _refuse_if_alive(output, part, lock)


def _refuse_if_alive(output: Path, part: ShardPartition | None, lock: Path) -> None:
    try:
        told: dict[str, Any] = json.loads(lock.read_bytes())
        holder, age = str(told["holder"]), time.time() - float(told["renewed"])
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        holder, age = "another run", 0.0
    if age < _DEAD_SECONDS:
        raise locked(output, part, f"{holder}, as it said {max(age, 0):.0f} s ago")


def _create(place: Path, data: bytes) -> None:
    """Create an object, or raise FileExistsError; in stores that cannot, it replaces."""
    place.fs.pipe_file(place.path, data, mode="create")  # type: ignore[attr-defined]


def _creates_exclusively(output: Path) -> bool:
    probe = output / f"_probe.{secrets.token_hex(8)}"
    try:
        with suppress(NotImplementedError, TypeError):  # a store that does not know the mode
            output.mkdir(parents=True, exist_ok=True)
            _create(probe, b"1")
            try:
                _create(probe, b"2")
            except FileExistsError:
                return True
        return False
    except Exception as error:
        told = error if isinstance(error, OSError) else OSError(f"{type(error).__name__}: {error}")
        raise write_failed(output, told) from error
    finally:
        with suppress(Exception):
            probe.unlink(missing_ok=True)
