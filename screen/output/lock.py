"""One run at a time in an OUTPUT, or one for each part: locks that a dead holder does not keep.

In: OUTPUT, and a part if the run does only one. Out: a lock for the time of a block. The lock is the operating
system's, on `_lock` in OUTPUT or on `_lock.I-of-N` (by the library filelock), so it is gone with its process; who
holds it stands in the file beside it. Parts do not keep each other out, but a whole run and any part do: each takes
its own lock first and looks at those of the other kind then, so of two at the same time at least one sees the other.
In an object store it is that of `store_lock.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from screen.files.paths import is_local
from screen.files.storage import write_failed
from screen.output.store_lock import LOCK_NAME, hold_store, lock_name, locked, name_myself, refuse_if_store_held
from screen.partition import ShardPartition

_HOLDER_ENDING = ".holder"
_LOOK_SECONDS = 5.0
"""Where there are parts, they look at each other's locks and hold them for that moment; a run holds its for longer."""

__all__ = ["LOCK_NAME", "hold_output", "refuse_if_held"]


@contextmanager
def hold_output(output: Path, part: ShardPartition | None = None) -> Iterator[str]:
    """Hold OUTPUT, or one part of it, for the time of the block; the folder is made if missing.

    Yields:
        What a person should know about this lock, or "".

    Raises:
        OutputLocked: another living process holds it.
        WriteFailed: the folder cannot be made or written to.
    """
    if not is_local(output):
        with hold_store(output, part) as note:
            yield note
        return
    name = lock_name(part)
    holder = output / f"{name}{_HOLDER_ENDING}"
    lock = FileLock(output / name, timeout=_patience(output))
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        holder.write_text(name_myself(), encoding="utf-8")
    except Timeout as error:
        raise locked(output, part, _read(holder)) from error
    except OSError as error:
        lock.release()
        raise write_failed(output, error) from error
    try:
        for other in _part_locks(output) if part is None else [output / LOCK_NAME]:
            _refuse_if_locked(output, other)
        yield ""
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def refuse_if_held(output: Path) -> None:
    """Go on only if no run holds OUTPUT or a part of it now; for readers, which need no lock of their own.

    Raises:
        OutputLocked: a living process holds it.
    """
    if not is_local(output):
        refuse_if_store_held(output)
        return
    for lock in (output / LOCK_NAME, *_part_locks(output)):
        _refuse_if_locked(output, lock)


def _part_locks(output: Path) -> list[Path]:
    found = output.glob(f"{LOCK_NAME}.*")
    return sorted(path for path in found if ShardPartition.of_name(path.name.removeprefix(f"{LOCK_NAME}.")))


def _patience(output: Path) -> float:
    """Seconds to wait for a lock: none where nobody but its holder would take it."""
    return _LOOK_SECONDS if _part_locks(output) else 0.0


def _refuse_if_locked(output: Path, path: Path) -> None:
    if not path.is_file():
        return
    lock = FileLock(path, timeout=_patience(output))
    try:
        lock.acquire(poll_interval=0.01)
    except Timeout as error:
        part = ShardPartition.of_name(path.name.removeprefix(f"{LOCK_NAME}."))
        raise locked(output, part, _read(path.with_name(f"{path.name}{_HOLDER_ENDING}"))) from error
    except OSError:
        return  # results that cannot be written to are not being written
    lock.release()


def _read(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8") or "another run"
    except OSError:
        return "another run"
