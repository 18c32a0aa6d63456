"""Write result shards atomically, one for each input shard.

In: tables of result columns. Out: `OUTPUT/<shard name>`, renamed into place after its last row is written. The end of a
row group depends only on the rows, so that the file does not depend on the batch size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from screen.columns import RESULT_KEY, result_schema
from screen.decide.detectors import ranking_score
from screen.decide.score_counts import ScoreCounts
from screen.files.paths import open_parquet
from screen.files.storage import StagingFile
from screen.input.parquet.row_bytes import value_bytes
from screen.input.row_batch import RowBatch
from screen.input.shards import ShardRef
from screen.version import own_version

_GROUP_ROWS = 8192
"""Maximum number of rows per row group, a multiple of `_MEASURED_ROWS`."""

_GROUP_BYTES = 96 * 2**20
"""Bytes of values at which a row group ends, after a multiple of `_MEASURED_ROWS` rows. A row group reaches this size
before `_GROUP_ROWS` only if copied columns have large values, or if there are more than 1,400 classes."""

_MEASURED_ROWS = 64
"""Number of rows whose bytes are counted together."""


_VERSION_KEY = b"oodscreen.version"
"""Metadata key of the version of oodscreen that wrote a result file.

The version is not part of the identity, so that shards are not scored again after an upgrade."""


@dataclass(frozen=True)
class WrittenShard:
    """A finished result shard.

    Attributes:
        shard: the input shard.
        path: the result file.
        size: size of the file in bytes.
        sha256: digest of the file, as hexadecimal text.
        rows: number of rows.
        flagged: number of flagged rows.
        statuses: number of rows by status.
        scores: counts of the values of the score that ranks the rows by suspicion.
    """

    shard: ShardRef
    path: Path
    size: int
    sha256: str
    rows: int
    flagged: int
    statuses: dict[str, int]
    scores: ScoreCounts = ScoreCounts()


def _holds_floats(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind.value_type if pa.types.is_list(kind) else kind))


def is_result(path: Path) -> bool:
    """Whether a file is a result shard written by oodscreen."""
    try:
        with open_parquet(path) as file:
            return read_identity(file.schema_arrow) is not None
    except (OSError, pa.ArrowException, ValueError):
        return False


def read_identity(schema: pa.Schema) -> dict[str, Any] | None:
    """The identity of a result shard, from its schema; None if the file was not written by oodscreen.

    Raises:
        ValueError: the metadata entry is not a JSON object.
    """
    text = (schema.metadata or {}).get(RESULT_KEY)
    return None if text is None else dict(json.loads(text))


class ShardWriters:
    """Writes batches, given in input order, to one result shard after another.

    Args:
        output: folder of results.
        kept_schema: schema of the copied input columns.
        identity: the configuration, on which the results depend; written to the metadata of each file.
        owner: name of the partition, used in the names of staging files; "" for a run without partitions.
    """

    def __init__(self, output: Path, kept_schema: pa.Schema, identity: dict[str, Any], owner: str = "") -> None:
        self._output, self._owner = output, owner
        self._schema = file_schema(kept_schema, identity)
        self._open: ShardWriter | None = None

    def write(self, pieces: tuple[RowBatch, ...], table: pa.Table) -> Iterator[WrittenShard]:
        """Write rows, and yield each shard after its last row; the staging file of an unreadable shard is removed.

        Args:
            pieces: the rows, consecutive and in input order.
            table: the same rows in result columns.

        Raises:
            WriteFailed: the system refused a write; the staging file is removed.
        """
        start = 0
        for piece in pieces:
            if piece.lost:
                self.abandon()
                continue
            if self._open is None:
                self._open = ShardWriter(piece.shard, self._output / piece.shard.name, self._schema, self._owner)
            self._open.add(table.slice(start, piece.count))
            start += piece.count
            if piece.is_last:
                finished, self._open = self._open, None
                yield finished.finish()

    def abandon(self) -> None:
        """Remove the staging file of the unfinished shard, if any."""
        if self._open is not None:
            self._open.abandon()
            self._open = None


def file_schema(kept_schema: pa.Schema, identity: dict[str, Any]) -> pa.Schema:
    """The schema of a result file, with the identity and the version of oodscreen in its metadata."""
    metadata = {RESULT_KEY: json.dumps(identity, sort_keys=True), _VERSION_KEY: own_version()}
    return result_schema(kept_schema).with_metadata(metadata)


class ShardWriter:
    """Writes one result shard to a staging file.

    Args:
        shard: the input shard.
        path: the result file.
        schema: schema of the file, from `file_schema`.
        owner: name of the partition, used in the name of the staging file; "" for a run without partitions.

    Raises:
        WriteFailed: the system refused a write; also raised by `add` and `finish`; the staging file is removed.
    """

    def __init__(self, shard: ShardRef, path: Path, schema: pa.Schema, owner: str) -> None:
        self._shard, self._schema = shard, schema
        self._waiting: list[pa.Table] = []  # joined when rows are measured or written: joining takes time per piece
        self._waiting_rows = self._waiting_bytes = 0
        self._measured = self._bytes = 0  # the number of measured rows in `_waiting`, and their bytes
        self._rows = self._flagged = 0
        self._statuses: dict[str, int] = {}
        identity = read_identity(schema) or {}
        self._score = ranking_score(str(identity.get("flag_if")), calibrated=identity.get("calibration") is not None)
        self._scores = ScoreCounts()
        self._staging = StagingFile(path, owner)
        with self._staging.writing():
            # Scores hardly repeat, so a dictionary would only add indices. Kept nested columns have no dictionary
            # either: pyarrow identifies them by their leaves only.
            repeating = [field.name for field in schema if not _holds_floats(field.type)]
            repeating.append("flag_reasons.list.element")
            self._file = pq.ParquetWriter(self._staging.path, schema, compression="zstd", use_dictionary=repeating)

    def add(self, table: pa.Table) -> None:
        """Append rows, and write full row groups."""
        self._rows += len(table)
        self._flagged += pc.sum(table.column("flag")).as_py() or 0
        for entry in table.column("status").value_counts().to_pylist():
            self._statuses[entry["values"]] = self._statuses.get(entry["values"], 0) + entry["counts"]
        self._scores += ScoreCounts.of(table.column(self._score).drop_null().to_numpy())
        self._waiting.append(table.replace_schema_metadata(self._schema.metadata))
        self._waiting_rows += len(table)
        self._waiting_bytes += table.nbytes
        while end := self._find_group_end():
            waiting = self._join_waiting()
            self._write(waiting.slice(0, end))
            self._waiting = [waiting.slice(end)]
            self._waiting_rows, self._waiting_bytes = len(self._waiting[0]), self._waiting[0].nbytes
            self._measured = self._bytes = 0

    def finish(self) -> WrittenShard:
        """Write the remaining rows, close, sync and rename the file."""
        if self._waiting_rows:
            self._write(self._join_waiting())
        with self._staging.writing():
            self._file.close()
        content = self._staging.commit()
        statuses = dict(sorted(self._statuses.items()))
        counts = (self._rows, self._flagged, statuses, self._scores)
        return WrittenShard(self._shard, self._staging.target, content.size, content.sha256, *counts)

    def abandon(self) -> None:
        """Remove the staging file."""
        with suppress(OSError):  # writing the footer also fails on a full disk; the file is removed anyway
            self._file.close()
        self._staging.discard()

    def _find_group_end(self) -> int:
        """Number of waiting rows that form the next row group; 0 if there are too few for a full row group."""
        if self._waiting_bytes >= _GROUP_BYTES:  # values never take more memory than their buffers
            while self._measured < _GROUP_ROWS and self._measured + _MEASURED_ROWS <= self._waiting_rows:
                rows = self._join_waiting().slice(self._measured, _MEASURED_ROWS)
                self._bytes += sum(value_bytes(column) for column in rows.columns)
                self._measured += _MEASURED_ROWS
                if self._bytes >= _GROUP_BYTES:
                    return self._measured
        return _GROUP_ROWS if self._waiting_rows >= _GROUP_ROWS else 0

    def _join_waiting(self) -> pa.Table:
        if len(self._waiting) > 1:
            self._waiting = [pa.concat_tables(self._waiting)]
        return self._waiting[0]

    def _write(self, table: pa.Table) -> None:
        with self._staging.writing():
            self._file.write_table(table.combine_chunks(), row_group_size=_GROUP_ROWS)
