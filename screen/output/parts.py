"""Close a partitioned run: the last partition to finish merges the manifests of all partitions.

In: OUTPUT with the manifests of its partitions. Out: one manifest and one quarantine table, identical to those of a run
without partitions, and a record of all partitions. The process that closes the run holds the lock of the whole OUTPUT.
Each partition finishes its manifest and releases its own lock before it tries to close the run, so the last partition
to finish finds the complete manifests of all other partitions.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from export.errors import OutputLocked
from screen.files.storage import remove_stale_staging, write_text
from screen.output.class_names import rename_classes
from screen.output.history import close_parts, latest_nights
from screen.output.locks.hold import hold_output
from screen.output.manifest import remove_partitions
from screen.output.manifest_file import ManifestFile, closing_line, manifest_path, manifest_text
from screen.output.quarantine import write_quarantine
from screen.output.record import RunRecord
from screen.output.stored import remove_results
from screen.partition import ShardPartition

_TRIES = 20
"""Maximum number of attempts to lock OUTPUT."""

_WAIT_SECONDS = 0.5
"""Seconds between two attempts."""


def close_partitions(
    output: Path, configuration: str | None = None, record: RunRecord | None = None
) -> tuple[ShardPartition, ...]:
    """Merge the manifests of the partitions into one, if all partitions have finished.

    Args:
        output: folder of results.
        configuration: fingerprint of the partitions; a partition of another configuration counts as unfinished.
        record: record of the run of the partition that ends now; None to write no record.

    Returns:
        The unfinished partitions; empty if this or another partition has closed the run.

    Raises:
        OutputLocked: all partitions have finished, but after `_TRIES` attempts a run still holds OUTPUT or a partition.
        WriteFailed: OUTPUT cannot be written to; the manifests of the partitions are unchanged.
    """
    for tries_left in reversed(range(_TRIES)):
        missing, is_closed = _read_twice(output, configuration)
        if missing or is_closed:
            return missing
        try:
            with hold_output(output):
                manifest = ManifestFile.read(output, configuration)
                missing = _open_partitions(manifest)
                if manifest is not None and not missing and not _is_closed(manifest):
                    _close(output, manifest, record)
                return missing
        except OutputLocked:
            if not tries_left:
                raise
            time.sleep(_WAIT_SECONDS)
    raise AssertionError("the last try returns or raises")


def _read_twice(output: Path, configuration: str | None) -> tuple[tuple[ShardPartition, ...], bool]:
    """The unfinished partitions, and whether there is nothing to close.

    The manifests are read twice, because another partition may be closing the run at this moment.
    """
    first = ManifestFile.read(output, configuration)
    second = ManifestFile.read(output, configuration)
    return tuple(sorted({*_open_partitions(first)} & {*_open_partitions(second)})), _is_closed(second)


def _open_partitions(manifest: ManifestFile | None) -> tuple[ShardPartition, ...]:
    """The unfinished partitions; empty without a manifest, or if the run is closed."""
    return () if manifest is None or manifest.finished else manifest.missing


def _is_closed(manifest: ManifestFile | None) -> bool:
    """Whether there is nothing to close.

    If a partition of a closed run is run again and has no shards to score, its manifest stays in OUTPUT until all
    partitions have run again. If another partition has shards to score, the run can then be closed, and the partitions
    that had no shards to score need not run again.
    """
    return manifest is None or not manifest.partitions or (manifest.finished and bool(manifest.missing))


def _close(output: Path, manifest: ManifestFile, record: RunRecord | None) -> None:
    entries = [manifest.entries[name] for name in sorted(manifest.entries)]
    unreadable = [shard for one in manifest.partitions.values() for shard in one.unreadable]
    remove_stale_staging(output)
    remove_results(output, manifest.forgotten)
    write_quarantine(output, entries, sorted(unreadable, key=lambda shard: shard.name))
    close_parts(output)
    if record is not None:
        _write_record(output, record)
    closing = closing_line(len(entries), sum(entry.rows for entry in entries), unreadable)
    write_text(manifest_path(output, None), manifest_text(manifest.header, manifest.entries) + closing)
    remove_partitions(output)


def _write_record(output: Path, record: RunRecord) -> None:
    """Write the record of all partitions, or only replace the class names in the record.

    Only the names are replaced if no partition scored a shard since the record was written.

    The numbers of shards and rows, and the time from the start of the first to the end of the last partition, are taken
    from the history. The stages of the partitions are not recorded.
    """
    night = next(latest_nights(output), None)
    earlier = RunRecord.read(output, record.configuration)
    is_new = night is not None and night.configuration == record.configuration
    if night is None or not is_new or (earlier is not None and night.finished <= earlier.finished):
        rename_classes(output, record.configuration, record.class_names)
        return
    seconds = datetime.fromisoformat(night.finished) - datetime.fromisoformat(night.started)
    replace(
        record,
        finished=night.finished,
        seconds=round(seconds.total_seconds(), 3),
        stages=(),
        shards=night.shards,
        rows=night.rows,
    ).write(output)
