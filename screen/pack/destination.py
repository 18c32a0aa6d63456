"""SHARDS: the folder of the shards, locked during a pack, with the shards that an earlier pack finished.

In: a folder, local or in an object store. Out: the records of the finished shards, or an error if the folder
contains other files. The lock and the summary are in the hidden folder `.pack`, which readers of Parquet folders skip.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.errors import OutputLocked, OutputRefused
from screen.files.entries import Entry, read_folder
from screen.files.failures import raise_if_refused
from screen.files.listed import PACK_FOLDER
from screen.files.paths import as_os_error, name_place
from screen.files.storage import STAGING_PREFIX, remove_stale_staging, write_failed, write_text
from screen.output.locks.hold import HeldOutput, hold_output
from screen.pack.shard_file import NAME, ShardRecord

SUMMARY = "summary.json"
_NAMED = 5


@contextmanager
def hold_shards(shards: Path) -> Iterator[HeldOutput]:
    """Hold the lock of SHARDS in the block, and remove the staging files of killed packs; a missing folder is created.

    Raises:
        OutputLocked: another pack holds SHARDS.
        OutputRefused: SHARDS is not a folder, or contains files that `oodscreen pack` did not write.
        WriteFailed: the folder cannot be created or written to.
    """
    _refuse_others(shards)
    try:
        with hold_output(shards / PACK_FOLDER) as held:
            _refuse_others(shards)
            remove_stale_staging(shards)
            yield held
    except OutputLocked as error:
        raise OutputLocked(
            error.found,
            wanted="at most one pack into SHARDS at a time",
            next_step="wait until the other pack ends, or choose another folder for the shards",
        ) from error


def read_records(shards: Path) -> dict[int, ShardRecord]:
    """The records of the finished shards, by the number of the shard.

    Raises:
        OutputRefused: a file has the name of a shard, but is damaged or was not written by `oodscreen pack`.
        ReadFailed: the system or the store refused to read a shard.
    """
    records = {}
    for entry in _entries(shards):
        match = NAME.fullmatch(entry.name)
        if match:
            records[int(match[1])] = _read_record(entry.path)
    return records


def _read_record(path: Path) -> ShardRecord:
    try:
        record = ShardRecord.read(path)
    except OSError as error:
        raise_if_refused(path, error)
        record = None
    if record is None:
        raise OutputRefused(
            f"{name_place(path)} is damaged, or was not written by this version of `oodscreen pack`.",
            wanted="a folder SHARDS that contains only shards of one pack",
            next_step="delete this file if you do not need it, and run the same command again to write the shard; "
            "or choose another folder for the shards",
        )
    return record


def write_summary(shards: Path, text: str) -> None:
    """Write the summary, which exists only if SHARDS is complete.

    Raises:
        WriteFailed: the file could not be written.
    """
    write_text(shards / PACK_FOLDER / SUMMARY, text)


def remove_summary(shards: Path) -> None:
    """Remove the summary of an earlier pack, before a shard is written.

    Raises:
        WriteFailed: the file could not be removed.
    """
    path = shards / PACK_FOLDER / SUMMARY
    try:
        with as_os_error():
            path.unlink(missing_ok=True)
    except OSError as error:
        raise write_failed(path, error) from error


def _entries(shards: Path) -> list[Entry]:
    try:
        return read_folder(shards)
    except FileNotFoundError:
        return []
    except NotADirectoryError as error:
        raise OutputRefused(
            f"SHARDS {name_place(shards)} is not a folder.",
            wanted="a new or an empty folder, or a folder that the same command has written to",
            next_step="choose another folder for the shards",
        ) from error


def _refuse_others(shards: Path) -> None:
    others = [
        entry.name
        for entry in _entries(shards)
        if not (
            (entry.kind == "file" and not entry.is_link and NAME.fullmatch(entry.name))
            or entry.name == PACK_FOLDER
            or entry.name.startswith(STAGING_PREFIX)
        )
    ]
    if others:
        raise OutputRefused(
            f"SHARDS {name_place(shards)} contains files that `oodscreen pack` did not write: "
            f"{', '.join(others[:_NAMED])}{', ...' if len(others) > _NAMED else ''}.",
            wanted="a new or an empty folder, or a folder that the same command has written to",
            next_step="choose another folder for the shards",
        )
