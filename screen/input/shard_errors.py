"""Errors that concern a single shard, and contain its name.

In: any exception of a library that reads a shard. Out: `InputChanged`, `ReadFailed` or `ShardRefused`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from export.errors import InputChanged, OodscreenError, ReadFailed, ShardRefused
from screen.files.paths import name_place
from screen.input.shards import ShardRef, first_line

SHARD_ERRORS = (InputChanged, ReadFailed, ShardRefused)
"""Errors that concern a single shard."""


@contextmanager
def names_shard(shard: ShardRef) -> Iterator[None]:
    """Turn any exception of a library in the block into an error that names the shard."""
    try:
        yield
    except OodscreenError:
        raise
    except Exception as error:
        raise shard_error(shard, error) from error


def shard_error(shard: ShardRef, error: Exception) -> InputChanged | ReadFailed | ShardRefused:
    """The error for an exception: a changed or damaged shard, a failed system or store, or too little memory."""
    if getattr(error, "errno", None) is not None or isinstance(error, MemoryError):
        return ReadFailed(
            f"{name_place(shard.path)} could not be read: {getattr(error, 'strerror', None) or error}.",
            wanted="a disk or an object store without read errors, and enough memory (unreadable rows of a damaged "
            "file get a status instead)",
            next_step="check the disk, the object store and the memory, then run the command again (`oodscreen run` "
            "skips finished shards)",
        )
    if not shard.is_unchanged():
        return changed_shard(shard)
    kind = "" if isinstance(error, OSError | pa.ArrowException) else f"{type(error).__name__}: "
    return ShardRefused(
        f"{name_place(shard.path)} cannot be read: {kind}{first_line(error).rstrip('. ')}.",
        wanted="a complete Parquet file whose image, id and copied columns are not encrypted",
        next_step="write the shard again, or remove it from INPUT",
    )


def changed_shard(shard: ShardRef) -> InputChanged:
    """The error for a shard that changed, or was removed, since it was found."""
    return InputChanged(
        f"{name_place(shard.path)} changed or was removed after the command started.",
        wanted="shards that do not change while they are read",
        next_step="run the command again when no process writes to INPUT (`oodscreen run` skips finished shards)",
    )
