"""Choose the unit in which a shard's INT96 timestamps are read, so that no value changes.

In: a `ShardRef` and the names of the columns to read. Out: "ns" or "us". INT96 is the timestamp type in older files
of Spark, Hive and Impala: a day in a range of millions of years, and the nanosecond in this day. Values outside 1677 to
2262 wrap without an error if they are read as Arrow's `timestamp[ns]`: 9999-12-31, a usual end of open intervals,
becomes a day in 1816.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa

from export.errors import ReadFailed, ShardRefused
from screen.files.paths import open_parquet
from screen.input.shards import ShardRef

_ROWS = 2**16
"""Maximum rows per table that is compared."""


def timestamp_unit(shard: ShardRef, names: Sequence[str]) -> str:
    """Unit in which the INT96 timestamps of some columns are read: "ns", or "us" if a value is outside 1677 to 2262.

    Args:
        shard: the shard.
        names: names of the columns that are read together.

    Raises:
        ShardRefused: no unit represents all values: some are outside 1677 to 2262, and some have fractions of 1 us.
        ReadFailed: the system or the store failed.
    """
    leaves = [leaf for leaf in shard.int96 if any(leaf == name or leaf.startswith(f"{name}.") for name in names)]
    distant = [leaf for leaf in leaves if _examine(shard, leaf).is_distant]
    precise = [leaf for leaf in leaves if _examine(shard, leaf).is_precise]
    if distant and precise:
        raise ShardRefused(
            f"The INT96 timestamps of {shard.name} contain dates outside 1677 to 2262 ({', '.join(distant)}), "
            f"and times with fractions of 1 us ({', '.join(precise)}).",
            wanted="one unit in which all these timestamps are exact: ns (only from 1677 to 2262) or us",
            next_step="leave out the columns in one of these two lists (--keep, --id-column), or write all of these "
            "columns as text",
        )
    return "us" if distant else "ns"


@dataclass(frozen=True)
class _Values:
    """Properties of the INT96 values of a column, which decide the unit.

    Attributes:
        is_distant: whether a value is outside 1677 to 2262, the range of ns.
        is_precise: whether a value has a fraction of 1 us.
    """

    is_distant: bool
    is_precise: bool


@lru_cache(maxsize=256)
def _examine(shard: ShardRef, leaf: str) -> _Values:
    is_distant = is_precise = False
    for in_ns, in_us in _read_both(shard, leaf):
        try:
            in_us.cast(in_ns.schema)
        except pa.ArrowInvalid:
            is_distant = True
        # Values outside the range wrap in the same way in both tables, so that only fractions of 1 us differ.
        is_precise = is_precise or not in_us.cast(in_ns.schema, safe=False).equals(in_ns)
    return _Values(is_distant, is_precise)


def _read_both(shard: ShardRef, leaf: str) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield tables with the values of a column in ns and in us; row groups that cannot be read are left out."""
    try:
        with open_parquet(shard.path) as in_ns, open_parquet(shard.path, "us") as in_us:
            for group in range(len(shard.row_groups)):
                read = [file.iter_batches(_ROWS, row_groups=[group], columns=[leaf]) for file in (in_ns, in_us)]
                try:
                    for one, other in zip(*read, strict=True):
                        yield pa.Table.from_batches([one]), pa.Table.from_batches([other])
                except (OSError, pa.ArrowException) as error:
                    if getattr(error, "errno", None) is not None:  # from the system or the store
                        raise
    except (OSError, pa.ArrowException) as error:
        raise ReadFailed(
            f"The INT96 timestamps of {shard.path} could not be read: {error}.",
            wanted="a disk or an object store without read errors, and shards that do not change while they are read",
            next_step="check the disk or the object store, then run the command again",
        ) from error
