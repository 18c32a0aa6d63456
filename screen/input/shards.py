"""Find, sort and fingerprint the input shards.

In: the argument INPUT. Out: `ShardRef`s with row groups, schema and fingerprint, and `UnreadableShard`s.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from export.addresses import without_secrets
from export.errors import InputRefused
from screen.files.hive import folder_values
from screen.files.kinds import recognise_files
from screen.files.listed import ListedFile, Listing
from screen.files.listing import list_shards
from screen.files.paths import file_version, name_place, open_bytes, open_parquet
from screen.input.parquet.footer import read_footer
from screen.partition import ShardPartition

_MAX_ROWS = 2**20
"""Maximum number of rows of a shard that has fewer bytes than rows."""


@dataclass(frozen=True)
class ShardRef:
    """One readable input shard.

    Attributes:
        root: the folder of INPUT, resolved.
        path: path of the file.
        name: path relative to INPUT, with `/`; the shard's name in the results.
        size: size of the file, in bytes.
        modified: modification time in ns; in an object store the version from `file_version`.
        footer: SHA-256 of the Parquet footer, as hexadecimal text.
        row_groups: number of rows in each row group.
        schema: Arrow schema, with INT96 timestamps in ns.
        int96: paths of the INT96 leaf columns, as in the Parquet schema.
    """

    root: Path
    path: Path
    name: str
    size: int
    modified: int | str
    footer: str
    row_groups: tuple[int, ...]
    schema: pa.Schema
    int96: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Total number of rows."""
        return sum(self.row_groups)

    @property
    def column_names(self) -> list[str]:
        """Names of the columns of the file, followed by the keys of its Hive folders that are not columns."""
        keys = dict.fromkeys(key for key, _ in folder_values(self.name))
        return [*self.schema.names, *(key for key in keys if key not in self.schema.names)]

    def folder_values(self, column: str) -> list[str | None]:
        """Values of the Hive folders with the key `column` in the shard's name; empty if the file has this column."""
        if column in self.schema.names:
            return []
        return [value for key, value in folder_values(self.name) if key == column]

    def column_type(self, column: str) -> pa.DataType:
        """The type of a column; the values of a Hive folder are text.

        Raises:
            KeyError: the shard does not have the column.
        """
        return pa.string() if self.folder_values(column) else self.schema.field(column).type

    @property
    def fingerprint(self) -> dict[str, int | str]:
        """Size, version and footer digest of the file, from which a change of its content is detected."""
        return {"size": self.size, "modified": self.modified, "footer": self.footer}

    def is_unchanged(self) -> bool:
        """Whether the file still has the fingerprint of this object."""
        try:
            now = (*file_version(self.path), _digest_footer(self.path))
            return now == (self.size, self.modified, self.footer)
        except OSError:
            return False


@dataclass(frozen=True)
class UnreadableShard:
    """A file whose footer cannot be read, or a folder or entry that cannot be listed or read.

    Attributes:
        source: path of the file or folder, as text.
        name: path relative to INPUT.
        reason: why the file or folder cannot be read.
    """

    source: str
    name: str
    reason: str


def find_shards(source: str, partition: ShardPartition | None = None) -> tuple[list[ShardRef], list[UnreadableShard]]:
    """Find the shards of INPUT, sorted by name.

    Args:
        source: a file, a folder or a glob.
        partition: partition whose shards are opened; the partition may have no shards. None: all shards.

    Returns:
        The readable shards, and the unreadable shards.

    Raises:
        InputRefused: INPUT has no shard, or `partition` is None and no shard can be read.
    """
    return open_shards(list_shards(source), partition)


def open_shards(
    listing: Listing, partition: ShardPartition | None = None
) -> tuple[list[ShardRef], list[UnreadableShard]]:
    """Open the shards of a listing, as `find_shards` does.

    Returns:
        The readable shards, and the unreadable shards, which include folders and entries that could not be listed.

    Raises:
        InputRefused: `partition` is None, and no shard can be read.
    """
    shards: list[ShardRef] = []
    unreadable = _unlisted(listing, partition)
    for file in listing.files:
        if partition is not None and not partition.contains(_printable(file.name)):
            continue
        found = _open_or_report(listing.root, file)
        if isinstance(found, ShardRef):
            shards.append(found)
        else:
            unreadable.append(found)
    if not shards and partition is None:
        raise _nothing_readable(listing, unreadable)
    return shards, sorted(unreadable, key=lambda shard: shard.name)


def open_shard(root: Path, name: str) -> ShardRef:
    """The `ShardRef` of one shard in its current state.

    Args:
        root: the folder of INPUT, resolved.
        name: path relative to `root`.

    Raises:
        OSError, ArrowException: the shard cannot be read, or does not exist.
    """
    return _open_footer(root, root / name, name)


def open_first_shard(listing: Listing) -> ShardRef:
    """The first readable shard of a listing; its schema is compared with those of the shards of every partition.

    Raises:
        InputRefused: INPUT has no shard that can be read.
    """
    unreadable = _unlisted(listing)
    for file in listing.files:
        found = _open_or_report(listing.root, file)
        if isinstance(found, ShardRef):
            return found
        unreadable.append(found)
    raise _nothing_readable(listing, unreadable)


def _unlisted(listing: Listing, partition: ShardPartition | None = None) -> list[UnreadableShard]:
    return [
        UnreadableShard(one.path, _printable(one.name), one.reason)
        for one in listing.unlisted
        if partition is None or partition.contains(_printable(one.name))
    ]


def _nothing_readable(listing: Listing, unreadable: list[UnreadableShard]) -> InputRefused:
    first, wanted = unreadable[0], "Parquet shards with an image column"
    known = recognise_files([file.path for file in listing.files], listing.root)
    if known is not None:
        others = f"; none of the {len(listing.files)} files can be read as Parquet" if len(listing.files) > 1 else ""
        return InputRefused(f"{known.found}{others}.", wanted=wanted, next_step=known.next_step)
    return InputRefused(
        f"None of the {len(unreadable)} file(s) of {listing.source} can be read as Parquet; "
        f"{first.name}: {first.reason}",
        wanted=wanted,
        next_step="check that the files are complete Parquet files and that their permissions allow reading",
    )


def _open_or_report(root: Path, file: ListedFile) -> ShardRef | UnreadableShard:
    place, name = name_place(file.path), file.name
    try:
        name.encode()
        return _open_footer(root.resolve(), file.path, name)
    except UnicodeEncodeError:
        return UnreadableShard(ascii(place), ascii(name), "the name is not UTF-8")
    except (OSError, pa.ArrowException) as error:
        return UnreadableShard(place, name, without_secrets(first_line(error), str(file.path)))


def first_line(error: Exception) -> str:
    """The first line of an error's message; the name of the error's type if the message is empty."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _printable(name: str) -> str:
    """The name; if the name is not valid UTF-8, its ASCII form with escapes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return ascii(name)
    return name


def _open_footer(root: Path, path: Path, name: str) -> ShardRef:
    version = file_version(path)
    with open_parquet(path) as file:
        groups = _count_rows(file.metadata, version[0])
        schema = file.schema_arrow
        leaves = (file.metadata.schema.column(index) for index in range(file.metadata.num_columns))
        int96 = tuple(leaf.path for leaf in leaves if leaf.physical_type == "INT96")
    return ShardRef(root, path, name, *version, _digest_footer(path), groups, schema, int96)


def _count_rows(metadata: pq.FileMetaData, size: int) -> tuple[int, ...]:
    """Number of rows in each row group, checked for plausibility.

    A damaged footer can state any number of rows, and each of these rows would get a result. Columns are not examined:
    pyarrow aborts the process at an encrypted column.

    Args:
        metadata: the footer.
        size: size of the file in bytes.

    Raises:
        ArrowInvalid: the row counts in the footer are inconsistent, or more than the file can plausibly have.
    """
    rows = tuple(metadata.row_group(index).num_rows for index in range(metadata.num_row_groups))
    if min(rows, default=0) < 0 or sum(rows) != metadata.num_rows:
        raise pa.ArrowInvalid(f"The footer states {metadata.num_rows} rows, but {sum(rows)} for its row groups.")
    if sum(rows) > max(_MAX_ROWS, size):
        raise pa.ArrowInvalid(f"The footer states {sum(rows)} rows, but the file has only {size} bytes.")
    return rows


def _digest_footer(path: Path) -> str:
    with open_bytes(path) as file:
        return hashlib.sha256(read_footer(file)).hexdigest()
