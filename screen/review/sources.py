"""Find the input shard of a result shard, and verify that the input shard is unchanged since it was scored.

In: a manifest entry, and optionally the new location of the input. Out: a `ShardRef` of the input shard, or an error.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from export.addresses import without_secrets
from export.errors import OptionRefused
from screen.files.paths import as_os_error, as_path, name_place
from screen.input.mapping import ColumnMapping
from screen.input.shards import ShardRef, open_shard
from screen.output.manifest_file import ManifestEntry
from screen.review.text import clip


class SourceMismatch(Exception):
    """The input shard is unavailable, or differs from the shard that was scored.

    The message is a predicate: the name of the shard is its subject.
    """


class SourceMissing(SourceMismatch):
    """The input shard no longer exists at its location; it may have been moved."""


def find_source(entry: ManifestEntry, columns: ColumnMapping, moved_to: str | None) -> ShardRef:
    """The input shard of a result shard.

    The shard is identified by size, modification time (in an object store, the entity tag) and footer. If INPUT was
    moved, the modification time may differ, because copying can change it: the caller must then compare the row ids.
    Without an id column, the modification time must be equal.

    Args:
        entry: manifest entry of the result shard.
        columns: input columns that the shard must have.
        moved_to: current location of INPUT, a folder or one shard; None if it was not moved.

    Raises:
        SourceMissing: the shard does not exist.
        SourceMismatch: the shard cannot be read, lacks a column, or is not the shard that was scored.
    """
    try:
        root = as_path(entry.root) if moved_to is None else _folder(as_path(moved_to)).resolve()
        with as_os_error():
            exists = (root / entry.shard).exists()
        if not exists:
            raise SourceMissing(f"does not exist in {clip(name_place(root), 200)}")
        shard = open_shard(root, entry.shard)
    except OptionRefused as error:  # an address may need a password, which is not recorded
        raise SourceMissing(first_line(error)) from error
    except (OSError, pa.ArrowException) as error:
        raise SourceMismatch(f"cannot be read: {first_line(error)}") from error
    scored, current = dict(entry.input), dict(shard.fingerprint)
    if moved_to is not None:
        has_other_time = scored.pop("modified", None) != current.pop("modified", None)
        if scored == current and has_other_time and columns.id_of(shard) is None:
            raise SourceMismatch(
                "has a different modification time than the scored shard, and no id column to verify its rows "
                "(preserve modification times when copying, for example with cp -p)"
            )
    if scored != current or shard.rows != entry.rows:
        raise SourceMismatch("changed since it was scored")
    missing = [name for name in columns.names_of(shard) if shard.schema.names.count(name) != 1]
    if missing:
        raise SourceMismatch(f"has no column {clip(missing[0])!r}")
    return shard


def first_line(error: Exception) -> str:
    """First line of an error's text, cut to 200 characters."""
    return clip(without_secrets(str(error).split("\n")[0]) or type(error).__name__, 200)


def _folder(source: Path) -> Path:
    """The folder that shard names are relative to: INPUT, or the folder of INPUT if INPUT is a file."""
    return source.parent if source.is_file() else source
