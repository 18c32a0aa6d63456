"""Find the input shards, put them in order, and know each by its fingerprint.

In: INPUT as the user gave it. Out: `ShardRef`s, each with its row groups and the columns to read.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from export.errors import InputRefused
from screen.files.paths import look_at_version, open_bytes, open_parquet
from screen.files.storage import list_shards
from screen.partition import ShardPartition

_COLUMNS_COMPARED = 8
_TAIL = 8  # Parquet ends in the footer's length (4 bytes) and the magic number


@dataclass(frozen=True)
class ShardRef:
    """One readable input shard.

    Attributes:
        root: the folder of INPUT, resolved.
        path: where it is.
        name: relative to INPUT, with `/`: what results call it.
        size: bytes.
        modified: modification time in ns; in an object store the entity tag.
        footer: SHA-256 of the Parquet footer.
        row_groups: rows in each row group.
        schema: its Arrow schema.
    """

    root: Path
    path: Path
    name: str
    size: int
    modified: int | str
    footer: str
    row_groups: tuple[int, ...]
    schema: pa.Schema

    @property
    def rows(self) -> int:
        """Rows in all."""
        return sum(self.row_groups)

    @property
    def fingerprint(self) -> dict[str, int | str]:
        """What tells this content from another under the same name."""
        return {"size": self.size, "modified": self.modified, "footer": self.footer}

    def is_unchanged(self) -> bool:
        """Whether the file is still the one that was found."""
        try:
            now = (*look_at_version(self.path), _digest_footer(self.path))
            return now == (self.size, self.modified, self.footer)
        except OSError:
            return False


@dataclass(frozen=True)
class UnreadableShard:
    """A file that ends like a shard but has no readable footer.

    Attributes:
        source: its path, as text.
        name: relative to INPUT.
        reason: what was wrong.
    """

    source: str
    name: str
    reason: str


def find_shards(source: str, part: ShardPartition | None = None) -> tuple[list[ShardRef], list[UnreadableShard]]:
    """Find the shards of INPUT, in the order of their names.

    Args:
        source: a file, a folder or a glob.
        part: the part whose shards are wanted; the others are not opened. It may have none.

    Returns:
        The readable shards, and those whose footer could not be read.

    Raises:
        InputRefused: nothing is there, or, where it is not a part, none of it can be read.
    """
    root, paths = list_shards(source)
    shards: list[ShardRef] = []
    unreadable: list[UnreadableShard] = []
    for path in paths:
        if part is not None and not part.has(path.relative_to(root).as_posix()):
            continue
        found = _look_at(root, path)
        if isinstance(found, ShardRef):
            shards.append(found)
        else:
            unreadable.append(found)
    if not shards and part is None:
        raise _nothing_readable(source, unreadable)
    return shards, unreadable


def look_at_shard(root: Path, name: str) -> ShardRef:
    """One shard as it is now.

    Args:
        root: the folder of INPUT, resolved.
        name: relative to it.

    Raises:
        OSError, ArrowException: it cannot be read, or is not there.
    """
    return _open_footer(root, root / name, name)


def find_first_shard(source: str) -> ShardRef:
    """The first shard of INPUT that can be read: the one that all parts compare theirs with.

    Raises:
        InputRefused: nothing is there, or none of it can be read.
    """
    root, paths = list_shards(source)
    unreadable = []
    for path in paths:
        found = _look_at(root, path)
        if isinstance(found, ShardRef):
            return found
        unreadable.append(found)
    raise _nothing_readable(source, unreadable)


def _nothing_readable(source: str, unreadable: list[UnreadableShard]) -> InputRefused:
    first = unreadable[0]
    return InputRefused(
        f"None of the {len(unreadable)} file(s) of {source} can be read as Parquet; {first.name}: {first.reason}",
        wanted="Parquet shards with an image column",
        next_step="check that these are finished Parquet files",
    )


def _look_at(root: Path, path: Path) -> ShardRef | UnreadableShard:
    name = path.relative_to(root).as_posix()
    try:
        name.encode()
        return _open_footer(root.resolve(), path, name)
    except UnicodeEncodeError:
        return UnreadableShard(ascii(str(path)), ascii(name), "the name is not UTF-8")
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return UnreadableShard(str(path), name, reason)


def _open_footer(root: Path, path: Path, name: str) -> ShardRef:
    version = look_at_version(path)
    with open_parquet(path) as file:
        groups = _count_rows(file.metadata)
        schema = file.schema_arrow
    return ShardRef(root, path, name, *version, _digest_footer(path), groups, schema)


def _count_rows(metadata: pq.FileMetaData) -> tuple[int, ...]:
    """Rows of each row group, as far as the footer agrees with itself.

    A damaged footer can claim any number of rows, and every claimed row would get a result.

    Raises:
        ArrowInvalid: it does not.
    """
    flat = [index for index in range(metadata.num_columns) if metadata.schema.column(index).max_repetition_level == 0]
    rows = []
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        values = {group.column(column).num_values for column in flat[:_COLUMNS_COMPARED]}
        if group.num_rows < 0 or values - {group.num_rows}:
            told = ", ".join(str(count) for count in sorted(values))
            raise pa.ArrowInvalid(f"The footer claims {group.num_rows} rows in row group {index}, its columns {told}.")
        rows.append(group.num_rows)
    if sum(rows) != metadata.num_rows:
        raise pa.ArrowInvalid(f"The footer claims {metadata.num_rows} rows, its row groups {sum(rows)}.")
    return tuple(rows)


def _digest_footer(path: Path) -> str:
    with open_bytes(path) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - _TAIL))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(0, end - _TAIL - length))
        return hashlib.sha256(file.read()).hexdigest()
