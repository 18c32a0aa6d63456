"""Close a run that was done in parts: of the jobs of an array, the last one to end makes one result of all.

In: OUTPUT with the manifests of its parts. Out: one manifest and one quarantine table, the same that a run without
parts writes. Whoever closes holds the whole OUTPUT; each part tries when it has given up its own lock, so the
last one finds all others ended.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from export.errors import OutputLocked
from screen.files.storage import remove_stale_staging, write_text
from screen.output.lock import hold_output
from screen.output.manifest import remove_parts
from screen.output.manifest_file import ManifestFile, closing_line, manifest_path
from screen.output.quarantine import write_quarantine
from screen.partition import ShardPartition

_TRIES = 20
_WAIT_SECONDS = 0.5


def close_parts(output: Path, configuration: str | None = None) -> tuple[ShardPartition, ...]:
    """Make one manifest of those of the parts, if all have come to their end.

    Args:
        output: folder of results.
        configuration: fingerprint of the parts; those of another one have still to be replaced.

    Returns:
        The parts that have not; none if it is done, be it by another part.

    Raises:
        OutputLocked: all have, but a run holds OUTPUT or a part of it for longer than closing takes.
        WriteFailed: OUTPUT cannot be written to; the parts are as they were.
    """
    for left in reversed(range(_TRIES)):
        missing, is_closed = _look_twice(output, configuration)
        if missing or is_closed:
            return missing
        try:
            with hold_output(output):
                there = ManifestFile.read(output, configuration)
                missing = _open_parts(there)
                if there is not None and not missing and not _is_closed(there):
                    _close(output, there)
                return missing
        except OutputLocked:
            if not left:
                raise
            time.sleep(_WAIT_SECONDS)
    raise AssertionError("the last try returns or raises")


def _look_twice(output: Path, configuration: str | None) -> tuple[tuple[ShardPartition, ...], bool]:
    """The parts that have not come to their end, and whether nothing is to be closed.

    Read twice: another part may be closing them just now.
    """
    first = ManifestFile.read(output, configuration)
    second = ManifestFile.read(output, configuration)
    return tuple(sorted({*_open_parts(first)} & {*_open_parts(second)})), _is_closed(second)


def _open_parts(there: ManifestFile | None) -> tuple[ShardPartition, ...]:
    """The parts that have not come to their end."""
    return () if there is None or there.finished else there.missing


def _is_closed(there: ManifestFile | None) -> bool:
    """Whether nothing is to be closed, though parts that found nothing to do may have left their manifests.

    They stay until all have: a part may still come that does find something, and then waits for none of these.
    """
    return there is None or not there.parts or (there.finished and bool(there.missing))


def _close(output: Path, there: ManifestFile) -> None:
    entries = [there.entries[name] for name in sorted(there.entries)]
    unreadable = [shard for one in there.parts.values() for shard in one.unreadable]
    remove_stale_staging(output)
    write_quarantine(output, entries, sorted(unreadable, key=lambda shard: shard.name))
    lines = [json.dumps(there.header, sort_keys=True), *(entry.line() for entry in entries)]
    closing = closing_line(len(entries), sum(entry.rows for entry in entries), unreadable)
    write_text(manifest_path(output, None), "\n".join(lines) + "\n" + closing)
    remove_parts(output)
