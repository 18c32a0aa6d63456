"""Pack the files of SOURCE into shards; shards that an earlier pack finished are skipped.

In: SOURCE, SHARDS and the options. Out: shards, written one after another, and a `PackSummary`. A pack that is
killed at any moment and started again ends with the same files as a pack that was not killed. Memory does not grow with
the number of files, except for the names of the files in one folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, count, islice
from pathlib import Path
from typing import Protocol

from export.errors import InputRefused, OutputRefused
from screen.files.endings import IMAGE_ENDINGS
from screen.files.paths import as_path, name_place, open_parquet
from screen.pack.config import PackConfig
from screen.pack.destination import hold_shards, read_records, remove_summary, write_summary
from screen.pack.findings import Findings
from screen.pack.image_file import ImageFile
from screen.pack.reading import Reader, read_ahead
from screen.pack.shard_file import FilesDigest, ShardFile, ShardRecord, shard_name
from screen.pack.sources.opening import ImageSource, open_source
from screen.pack.sources.path_list import PathList
from screen.pack.sources.webdataset import WebDataset
from screen.pack.summary import LabelCounts, PackSummary
from screen.run.stopping import StopRequest

_FIRST_FILES = 1000
"""Number of first files of SOURCE of which at least one must be readable."""


class Listener(Protocol):
    """Receives the progress of a pack."""

    def noted(self, text: str) -> None:
        """Show a notice."""

    def advanced(self, rows: int, size: int) -> None:
        """Count rows that were packed or compared; their images have `size` bytes in total."""

    def finished(self, shard: str) -> None:
        """Count a shard that was written or skipped."""


def pack_images(
    source: str, shards: str, config: PackConfig, listener: Listener, stop: StopRequest | None = None
) -> PackSummary:
    """Pack images into shards.

    Args:
        source: a folder of images, a list of paths, a WebDataset tar, or a folder of these tars.
        shards: folder of the shards.
        config: the options.
        listener: receives the progress.
        stop: checked before each file; None: nothing stops the pack.

    Raises:
        InputChanged: a file changed while it was packed.
        InputRefused: SOURCE cannot be packed, contains no image, or has changed since an earlier pack.
        Interrupted, Terminated: a signal stopped the pack.
        OutputLocked: another pack holds SHARDS.
        OutputRefused: SHARDS contains other files, or shards of a pack with other options.
        ReadFailed, WriteFailed: the system or a store failed.
    """
    destination = as_path(shards)
    opened = open_source(source, destination, config)
    findings, labels = Findings(), LabelCounts(opened.columns)
    files = _refuse_unreadable(source, opened, opened.files(findings), findings)
    with hold_shards(destination) as held:
        if held.note:
            listener.noted(held.note)
        pack = _Pack(opened, destination, config, read_records(destination), listener)
        stop = stop or StopRequest()
        stop.check_output = held.check
        with read_ahead(labels.counting(files), stop) as reader:
            for number in count():
                if not reader.has_more():
                    break
                pack.add_shard(number, reader)
        pack.refuse_surplus()
        summary = PackSummary(
            name_place(source),
            name_place(destination),
            tuple(pack.done),
            pack.skipped,
            labels.counts,
            findings.passed_over,
            tuple(findings.unread),
            findings.unread_count,
        )
        write_summary(destination, summary.lasting_json())
    return summary


def _refuse_unreadable(
    source: str, opened: ImageSource, files: Iterator[ImageFile], findings: Findings
) -> Iterator[ImageFile]:
    """Return the files; before SHARDS is created, raise an error if none of the first files can be read."""
    first = list(islice(files, _FIRST_FILES))
    if not first:
        raise _refuse_empty(source, opened, findings)
    if all(file.problem for file in first):
        raise InputRefused(
            f"None of the first {len(first)} file(s) of SOURCE {source} can be read; the first is {first[0].name!r}: "
            f"{first[0].problem}.",
            wanted="files that exist, and that this process can read",
            next_step=_correct_paths(first[0].name),
        )
    return chain(first, files)


def _refuse_empty(source: str, opened: ImageSource, findings: Findings) -> InputRefused:
    if isinstance(opened, PathList):
        return InputRefused(
            f"The list {source} contains no rows.",
            wanted="a line of column names, and a row for each image file",
            next_step="check the list",
        )
    besides = findings.passed_over.describe()
    unread = "; ".join(f"{one.name}: {one.reason}" for one in findings.unread)
    return InputRefused(
        f"SOURCE {source} contains no image."
        + (f" Skipped: {besides}." if besides else "")
        + (f" Not read: {unread}." if unread else ""),
        wanted=f"files with the endings of images that a run decodes: {', '.join(IMAGE_ENDINGS)}",
        next_step="check the content of the tars with `tar -tf`"
        if isinstance(opened, WebDataset)
        else "check the path; give a folder of tars itself, not the folder above it; to pack files with other names, "
        "give a list of their paths",
    )


def _correct_paths(name: str) -> str:
    """The next step if none of the first files of SOURCE can be read, from the name of the first file."""
    if "://" in name:
        return (
            "download the files, and write a list of their paths; to pack from an object store, give its address with "
            "--image-root"
        )
    if "\\" in name and "/" not in name:
        return "write the paths with / in place of \\"
    return "check the paths; if the paths of a list are relative to another folder, give this folder with --image-root"


class _Pack:
    """The shards of one pack, finished earlier or now."""

    def __init__(
        self,
        source: ImageSource,
        shards: Path,
        config: PackConfig,
        records: dict[int, ShardRecord],
        listener: Listener,
    ) -> None:
        self.done: list[ShardRecord] = []
        self.skipped = 0
        self._source, self._shards, self._listener = source, shards, listener
        self._columns = source.columns
        self._most_rows, self._most_bytes = config.shard_rows, config.shard_size * 2**20
        self._identity = source.identity | {
            "--shard-rows": str(config.shard_rows),
            "--shard-size": str(config.shard_size),
        }
        self._earlier = records
        for number, record in sorted(records.items()):
            if record.identity != self._identity:
                raise self._refuse_options(number, record)

    def add_shard(self, number: int, reader: Reader) -> None:
        """Write a shard with the next files; if the shard exists, compare it with the next files."""
        earlier = self._earlier.get(number)
        if earlier is not None:
            self._compare(number, earlier, reader)
            self.done.append(earlier)
            self.skipped += 1
        else:
            self.done.append(self._write(number, reader))
        self._listener.finished(shard_name(number))

    def refuse_surplus(self) -> None:
        """Raise an error if SHARDS has more shards than SOURCE has files for."""
        surplus = sorted(number for number in self._earlier if number >= len(self.done))
        if surplus:
            raise self._refuse_changed(surplus[0], "SOURCE has no files left for this shard")

    def _write(self, number: int, reader: Reader) -> ShardRecord:
        remove_summary(self._shards)
        shard = ShardFile(self._shards / shard_name(number), self._columns, self._identity)
        try:
            while reader.has_more() and shard.rows < self._most_rows and shard.size < self._most_bytes:
                file, image = reader.read()
                shard.add(file, image)
                self._listener.advanced(1, len(image.data or b""))
        except BaseException:
            shard.abandon()
            raise
        return shard.finish()

    def _compare(self, number: int, record: ShardRecord, reader: Reader) -> None:
        digest = FilesDigest()
        names: list[str] = []
        while reader.has_more() and len(names) < record.rows:
            file = reader.skip()
            digest.add(file)
            names.append(file.name)
        if digest.text() != record.files:
            raise self._refuse_changed(number, self._find_difference(number, names))
        self._listener.advanced(record.rows, record.size)

    def _find_difference(self, number: int, names: list[str]) -> str:
        """How the files of a shard differ from those of SOURCE, in words."""
        with open_parquet(self._shards / shard_name(number)) as file:
            stored = file.read(columns=["image.path"])["image"].to_pylist()
        for row, (before, now) in enumerate(zip(stored, names, strict=False)):
            if before is not None and before["path"] != now:
                return f"row {row} of the shard is {before['path']!r}, and SOURCE now has {now!r} at this position"
        if len(stored) != len(names):
            return f"the shard has {len(stored)} rows, and SOURCE has only {len(names)} file(s) left"
        return "the names of the files are the same, but the size or the modification time of a file has changed"

    def _refuse_changed(self, number: int, difference: str) -> InputRefused:
        return InputRefused(
            f"SOURCE has changed since {shard_name(number)} in {name_place(self._shards)} was written: {difference}.",
            wanted="the SOURCE of the finished shards, unchanged",
            next_step="to pack the present files, choose a new folder for the shards (or delete the old shards); files "
            "that arrive later can be packed from a folder of their own",
        )

    def _refuse_options(self, number: int, record: ShardRecord) -> OutputRefused:
        names = sorted(
            name
            for name in record.identity.keys() | self._identity.keys()
            if record.identity.get(name) != self._identity.get(name)
        )
        before, now = (
            ", ".join(f"{name} {identity.get(name, 'none')}" for name in names)
            for identity in (record.identity, self._identity)
        )
        return OutputRefused(
            f"{shard_name(number)} in {name_place(self._shards)} was packed with {before}; this pack has {now}.",
            wanted="the same kind of SOURCE and the same options for all shards of a folder",
            next_step="give the same options again, or choose a new folder for the shards",
        )
