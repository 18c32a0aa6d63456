"""Find the input shard that a result was made from, or say why it is none any more.

In: a manifest's entry, and perhaps where the input was moved to. Out: a `ShardRef`, never of another file.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from screen.files.paths import as_os_error, as_path
from screen.input.mapping import ColumnMapping
from screen.input.shards import ShardRef, look_at_shard
from screen.output.manifest_file import ManifestEntry
from screen.review.text import clip


class NotAsScored(Exception):
    """A shard is not the one that was scored; the text says how, to stand behind its name."""


class NotThere(NotAsScored):
    """A shard is no more where it was; it may have been moved."""


def find_source(entry: ManifestEntry, columns: ColumnMapping, moved_to: str | None) -> ShardRef:
    """The shard that a result was made from.

    It is known by size, time and footer; a copy, which has a time of its own, by size and footer. The
    ids of its rows are for the caller to compare; where the input has none, a copy must have kept its time.

    Args:
        entry: of the result shard.
        columns: what will be read.
        moved_to: where INPUT is now: a folder or one shard; None: where it was.

    Raises:
        NotThere: it is gone.
        NotAsScored: it cannot be read, or is another.
    """
    try:
        root = as_path(entry.root) if moved_to is None else _folder(as_path(moved_to)).resolve()
        with as_os_error():
            there = (root / entry.shard).exists()
        if not there:
            raise NotThere(f"is not in {clip(str(root), 200)} any more")
        shard = look_at_shard(root, entry.shard)
    except (OSError, pa.ArrowException) as error:
        raise NotAsScored(f"cannot be read: {first_line(error)}") from error
    wanted, now = dict(entry.input), dict(shard.fingerprint)
    if moved_to is not None:
        is_of_another_time = wanted.pop("modified", None) != now.pop("modified", None)
        if wanted == now and is_of_another_time and columns.id_of(shard) is None:
            raise NotAsScored(
                "has another time than the shard that was scored, and no id column by which its rows could be known "
                "(copy shards with their times, as cp -p does)"
            )
    if wanted != now or shard.rows != entry.rows:
        raise NotAsScored("changed since it was scored")
    missing = [name for name in columns.names_of(shard) if shard.schema.names.count(name) != 1]
    if missing:
        raise NotAsScored(f"has no column {clip(missing[0])!r}")
    return shard


def first_line(error: Exception) -> str:
    """What an error says, in one line of bounded length."""
    return clip(str(error).split("\n")[0] or type(error).__name__, 200)


def _folder(source: Path) -> Path:
    """The folder that shards are relative to, where INPUT may be one shard."""
    return source.parent if source.is_file() else source
