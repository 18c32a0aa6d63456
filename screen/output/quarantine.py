"""The quarantine table: every row that could not be scored, and every shard that could not be read.

In: the finished shards and the unreadable shards. Out: `_quarantine.pq` in OUTPUT, a Parquet table with source,
position, status and error of each row or shard. Each run writes the table again at its end, from the results. The file
name does not end in `.parquet`, so that a glob over the result shards does not match it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from screen.files.paths import open_parquet
from screen.files.storage import StagingFile
from screen.input.shards import UnreadableShard
from screen.output.manifest_file import ManifestEntry
from screen.output.stored import refuse_if_store_failed

QUARANTINE_STEM = "_quarantine."
QUARANTINE_NAME = f"{QUARANTINE_STEM}pq"
UNREADABLE_SHARD = "unreadable_shard"
_COPIED = ["shard", "row", "id", "status", "error"]

QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), metadata={"description": "Path of the input shard."}),
        pa.field("shard", pa.string(), metadata={"description": "Name of the input shard, relative to INPUT."}),
        pa.field(
            "row", pa.int64(), metadata={"description": "Position of the row in the shard; null for a whole shard."}
        ),
        pa.field("id", pa.string(), metadata={"description": "Key of the row; null for a whole shard."}),
        pa.field(
            "status", pa.string(), metadata={"description": f"Status of the row in the results, or {UNREADABLE_SHARD}."}
        ),
        pa.field("error", pa.string(), metadata={"description": "Error of the row or of the shard."}),
    ]
)


def read_bad_rows(output: Path, entries: Sequence[ManifestEntry]) -> Iterator[pa.Table]:
    """Yield the rows that could not be scored, shard by shard, as tables with the schema of the quarantine.

    Missing and damaged results are left out; `oodscreen run` and `oodscreen check` print the names of these results.

    Raises:
        ReadFailed: the object store failed.
    """
    for entry in entries:
        yield from bad_rows(output, entry) or ()


def bad_rows(output: Path, entry: ManifestEntry) -> list[pa.Table] | None:
    """The rows of one result that could not be scored; None if the result is missing or damaged.

    If, according to the manifest entry, all rows were scored, the result is not opened.

    Raises:
        ReadFailed: the object store failed.
    """
    if not entry.bad:
        return []
    source = f"{entry.root}/{entry.shard}"
    found = []
    try:
        with open_parquet(output / entry.shard) as file:
            for batch in file.iter_batches(columns=_COPIED):
                table = pa.Table.from_batches([batch])
                bad = table.filter(pc.not_equal(table["status"], "ok"))
                columns = [pa.array([source] * len(bad), pa.string()), *(bad[name] for name in _COPIED)]
                found.append(pa.Table.from_arrays(columns, schema=QUARANTINE_SCHEMA))
    except OSError as error:
        refuse_if_store_failed(output, error)
        return None
    except (pa.ArrowException, ValueError, KeyError, TypeError):
        return None
    return found


def write_quarantine(output: Path, entries: Sequence[ManifestEntry], unreadable: Sequence[UnreadableShard]) -> None:
    """Write the quarantine table; it replaces an earlier table.

    Args:
        output: folder of results.
        entries: all finished shards; only the results that have unreadable rows are opened.
        unreadable: input shards that could not be read.

    Raises:
        WriteFailed: the operating system refused to write; an earlier table is unchanged.
    """
    staging = StagingFile(output / QUARANTINE_NAME)
    with staging.writing(), pq.ParquetWriter(staging.path, QUARANTINE_SCHEMA, compression="zstd") as file:
        if unreadable:
            file.write_table(_whole_shards(unreadable))
        for table in read_bad_rows(output, entries):
            file.write_table(table)
    staging.commit()


def _whole_shards(unreadable: Sequence[UnreadableShard]) -> pa.Table:
    nulls = [None] * len(unreadable)
    columns = [
        [shard.source for shard in unreadable],
        [shard.name for shard in unreadable],
        nulls,
        nulls,
        [UNREADABLE_SHARD] * len(unreadable),
        [shard.reason for shard in unreadable],
    ]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, QUARANTINE_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=QUARANTINE_SCHEMA)
