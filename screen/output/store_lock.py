"""The lock of an OUTPUT in an object store, where the store can create an object only if it is not there.

In: OUTPUT in a store. Out: a lock for the time of a block, as an object `_lock.N` that its holder renews. A
holder that has not renewed it for five minutes is taken for dead, and the next run creates `_lock.N+1`: of
several that try, the store lets one. Whether the store can do that is tried out, not believed.
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
from screen.storage import write_failed

_PREFIX = "_lock."
_RENEW_SECONDS = 30.0
_DEAD_SECONDS = 300.0


@contextmanager
def hold_store(output: Path) -> Iterator[str]:
    """Hold OUTPUT for the time of the block.

    Yields:
        What a person should know: that the store cannot lock; or "".

    Raises:
        OutputLocked: another run holds it, as far as its last renewal tells.
        WriteFailed: the store refuses to write.
    """
    if not _creates_exclusively(output):
        yield "this store cannot create an object only if it is not there: nothing keeps two runs in OUTPUT apart"
        return
    mine = _take(output)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(_RENEW_SECONDS):
            with suppress(Exception):  # a renewal that is missed is tried again; five minutes of them are not
                mine.write_bytes(_stamp())

    thread = threading.Thread(target=renew, name="renew-lock", daemon=True)
    thread.start()
    try:
        yield ""
    finally:
        ended.set()
        thread.join()
        for _, lock in _locks(output):
            lock.unlink(missing_ok=True)


def refuse_if_store_held(output: Path) -> None:
    """Go on only if no run holds OUTPUT now.

    Raises:
        OutputLocked: a run holds it.
    """
    for _, lock in _locks(output)[-1:]:
        _refuse_if_alive(output, lock)


def locked(output: Path, holder: str) -> OutputLocked:
    """Another run holds OUTPUT, as one of our errors."""
    return OutputLocked(
        f"{output} is held by {holder}.",
        wanted="one run at a time in an OUTPUT",
        next_step="wait until it ends, or choose another OUTPUT",
    )


def name_myself() -> str:
    """How a holder is named to others."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def _stamp() -> bytes:
    return json.dumps({"holder": name_myself(), "renewed": time.time()}).encode()


def _locks(output: Path) -> list[tuple[int, Path]]:
    """The locks that are there, the newest last."""
    found = []
    for lock in output.glob(_PREFIX + "*"):
        number = lock.name.removeprefix(_PREFIX)
        if number.isdecimal():
            found.append((int(number), lock))
    return sorted(found, key=lambda one: one[0])


def _take(output: Path) -> Path:
    there = _locks(output)
    number = 1
    if there:
        number = there[-1][0] + 1
        _refuse_if_alive(output, there[-1][1])
    mine = output / f"{_PREFIX}{number}"
    try:
        _create(mine, _stamp())
    except FileExistsError as error:
        raise locked(output, "a run that was a moment quicker") from error
    return mine


def _refuse_if_alive(output: Path, lock: Path) -> None:
    try:
        told: dict[str, Any] = json.loads(lock.read_bytes())
        holder, age = str(told["holder"]), time.time() - float(told["renewed"])
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        holder, age = "another run", 0.0
    if age < _DEAD_SECONDS:
        raise locked(output, f"{holder}, as it said {max(age, 0):.0f} s ago")


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
