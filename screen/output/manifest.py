"""The manifest of a run: list the finished shards, and determine why a shard must be scored.

In: OUTPUT, the configuration, and the partition if the run scores only one. Out: `_manifest.jsonl` in OUTPUT, or the
partition's manifest, in the format of `manifest_file.py`. A shard's line is appended and synced after its result is
renamed into place; if a killed run left an incomplete last line, the next run removes that line.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from export.errors import OutputRefused
from screen.columns import RETRIED_STATUS
from screen.config import fingerprint
from screen.files.paths import is_local, name_place
from screen.files.storage import remove_stale_staging, write_failed, write_text
from screen.input.shards import ShardRef, UnreadableShard
from screen.output.manifest_file import (
    ManifestEntry,
    ManifestFile,
    OneManifest,
    closing_line,
    describe_difference,
    find_partitions,
    kept_lines,
    line_path,
    manifest_path,
    manifest_text,
    refuse_manifest,
)
from screen.output.quarantine import bad_rows
from screen.output.stored import has_input, remove_results
from screen.output.writer import WrittenShard, is_result
from screen.partition import ShardPartition


class Manifest:
    """The finished shards of one OUTPUT, for one configuration.

    Args:
        output: folder of results, which need not exist.
        identity: the configuration, on which the results depend.
        force: None to score shards that are new, changed or without a valid result, and shards with images that took
            too much time; `quarantined` to also score finished shards with unreadable rows; `all` to score all shards,
            and to replace any files with their names in OUTPUT.
        partition: the partition that the run scores; None for a run without partitions. The entries of all partitions
            are read, and those of this partition are written.

    Raises:
        OutputRefused: OUTPUT was started with another number of partitions or, unless `force` is `all`, holds results
            of another configuration or has an unreadable manifest.
    """

    def __init__(
        self, output: Path, identity: dict[str, Any], *, force: str | None, partition: ShardPartition | None = None
    ) -> None:
        self._output, self._partition = output, partition
        self._owner = "" if partition is None else partition.name
        self._path = manifest_path(output, partition)
        self._header = {"configuration": fingerprint(identity), **identity}
        self._force = force
        self._forgotten: frozenset[str] = frozenset()
        self._replaced: frozenset[str] = frozenset()
        """Names of shards with results of another configuration; their entries are not copied into the new manifest."""
        self._entries = self._read()
        self._own, self._withdrawn = (self._entries, set[str]()) if partition is None else self._read_own(partition)
        """Entries in the file at `_path`, and the shards that the partition scores again."""

    def reason_to_score(self, shard: ShardRef) -> str | None:
        """Reason why a shard must be scored, as text; None if the shard is finished and `force` does not select it."""
        entry = self._entries.get(shard.name)
        if self._force == "all":
            return "forced"
        if entry is None:
            return "new"
        if entry.input != shard.fingerprint:
            return "changed since they were scored"
        if damage := self._find_damage(entry):
            return damage
        if entry.statuses.get(RETRIED_STATUS):
            return "with images that took too much time"
        if self._force == "quarantined" and entry.bad:
            return "with quarantined rows"
        return None

    def _find_damage(self, entry: ManifestEntry) -> str | None:
        """The damage to a result, as text; None if it has the recorded size and its unreadable rows can be read."""
        result = self._output / entry.shard
        if not result.is_file():
            return "with a missing result"
        if result.stat().st_size != entry.size:
            return "with a result of the wrong size"
        return "with a damaged result" if bad_rows(self._output, entry) is None else None

    def entry(self, shard: ShardRef) -> ManifestEntry:
        """The entry of a finished shard."""
        return self._entries[shard.name]

    def vanished(self, present: Iterable[str], root: Path) -> list[str]:
        """Names of finished shards whose input no longer exists; their results stay.

        Args:
            present: names of the shards in INPUT; for a partition, only those of its own shards.
            root: resolved path of the folder of INPUT.
        """
        own = [name for name in self._entries if self._partition is None or self._partition.contains(name)]
        missing = sorted(set(own) - set(present))
        return [name for name in missing if not has_input(self._entries[name], root)]

    def gone(self, vanished: Iterable[str]) -> list[str]:
        """Names of the vanished shards whose results are missing or damaged; no run can write these results again."""
        return [name for name in vanished if self._find_damage(self._entries[name])]

    def left_over(self, todo: Sequence[ShardRef]) -> list[str]:
        """Names of the shards whose results have another configuration, and that the run does not score again."""
        names = self._replaced.difference(shard.name for shard in todo)
        return sorted(name for name in names if (self._output / name).is_file())

    def refuse_foreign(self, shards: Sequence[ShardRef]) -> None:
        """Raise an error if a file to be replaced is not an earlier result of the same shard, unless `force` is `all`.

        Raises:
            OutputRefused: the file at a result's path was not written by oodscreen, or is the result of a shard with
                the same name in another INPUT. For every `force`: the path is that of a folder, or a file is in place
                of the folder of the result.
        """
        for shard in shards:
            _refuse_blocked(self._output, shard.name)
        if self._force == "all":
            return
        for shard in shards:
            entry = self._entries.get(shard.name)
            target = self._output / shard.name
            if entry is None and target.exists() and not is_result(target):
                raise OutputRefused(
                    f"{target} exists and was not written by oodscreen.",
                    wanted="a new or empty folder, or the OUTPUT of an earlier run",
                    next_step="choose another OUTPUT, or add --force to overwrite the file",
                )
            if entry is not None and entry.root != name_place(shard.root) and entry.input != shard.fingerprint:
                raise OutputRefused(
                    f"{target} is the result of a shard with this name in {entry.root}, but INPUT is {shard.root}.",
                    wanted="a separate OUTPUT for each INPUT, or shards with different names",
                    next_step="choose another OUTPUT, or add --force to overwrite the result",
                )

    def start(self, todo: Iterable[ShardRef] = ()) -> None:
        """Write the manifest with the entries of finished shards, and remove stale staging files.

        `finish_shard` appends to this manifest.

        Args:
            todo: shards about to be scored; their earlier entries are removed.

        Raises:
            WriteFailed: OUTPUT cannot be written to.
        """
        for shard in todo:
            known = self._entries.pop(shard.name, None)
            self._own.pop(shard.name, None)
            if self._partition is not None and known is not None:
                self._withdrawn.add(shard.name)
        remove_stale_staging(self._output, self._owner)
        if self._partition is None:
            remove_results(self._output, self._forgotten - self._entries.keys())
        self._write(self._text())
        if self._partition is None:
            remove_partitions(self._output)

    def finish_shard(self, written: WrittenShard) -> None:
        """Append the entry of a shard whose result has been renamed into place."""
        shard = written.shard
        entry = ManifestEntry(
            shard.name,
            name_place(shard.root),
            shard.fingerprint,
            written.size,
            written.sha256,
            written.rows,
            written.flagged,
            written.statuses,
        )
        self._entries[shard.name] = self._own[shard.name] = entry
        if not is_local(self._output):
            line = f"{self._header['configuration']}\n{entry.line()}\n"
            write_text(line_path(self._output, self._partition, entry), line, self._owner)
            return
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(entry.line() + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_failed(self._path, error) from error

    def lose_shard(self, lost: UnreadableShard) -> None:
        """Remove the earlier result of a shard that could not be read; `start` has removed its manifest entry.

        A file that oodscreen did not write is not removed.

        Raises:
            WriteFailed: the result could not be removed.
        """
        if is_result(self._output / lost.name):
            remove_results(self._output, [lost.name])

    def finish(self, unreadable: Sequence[UnreadableShard] = ()) -> None:
        """Sort the lines, and append the closing line.

        Because the lines are sorted, the manifest of a resumed run equals the manifest of an undisturbed run.

        Args:
            unreadable: input shards that could not be read; recorded in the closing line. The unreadable shards of a
                partition are added to the quarantine table when the run is closed.

        Raises:
            WriteFailed: OUTPUT cannot be written to.
        """
        rows = sum(entry.rows for entry in self._own.values())
        self._write(self._text() + closing_line(len(self._own), rows, unreadable))

    def entries(self) -> list[ManifestEntry]:
        """Entries of all finished shards, sorted by name."""
        return _in_order(self._entries)

    def _write(self, text: str) -> None:
        """Write the whole manifest, then remove the objects in `kept_lines`, whose lines the manifest now contains."""
        write_text(self._path, text, self._owner)
        for kept in kept_lines(self._output, self._partition):
            kept.unlink(missing_ok=True)

    def _text(self) -> str:
        return manifest_text(self._header, self._own, self._withdrawn - self._own.keys())

    def _read(self) -> dict[str, ManifestEntry]:
        try:
            manifest = ManifestFile.read(self._output)
        except OutputRefused:
            if self._force == "all":
                return {}
            raise
        if manifest is None:
            return {}
        self._forgotten = manifest.forgotten
        if self._partition is not None:
            self._refuse_other_count(self._partition, manifest)
        header = manifest.header
        if header.get("configuration") != self._header["configuration"]:
            if self._force == "all":
                self._replaced = frozenset(manifest.entries)
                return {}
            difference = describe_difference(header, self._header)
            raise refuse_manifest(manifest.path, f"was written with another configuration ({difference})")
        return manifest.entries

    def _read_own(self, partition: ShardPartition) -> tuple[dict[str, ManifestEntry], set[str]]:
        """Entries and withdrawn shards from the partition's earlier runs with the same configuration."""
        try:
            manifest = OneManifest.read(self._output, partition)
        except OutputRefused:
            return {}, set()  # only with `force="all"`: otherwise `_read` has raised
        if manifest is None or manifest.header.get("configuration") != self._header["configuration"]:
            return {}, set()
        return manifest.entries, set(manifest.withdrawn)

    def _refuse_other_count(self, partition: ShardPartition, manifest: ManifestFile) -> None:
        count = next((one.count for one in manifest.partitions), partition.count)
        if count != partition.count:
            raise OutputRefused(
                f"{self._output} was started with {count} parts, but --part is {partition}.",
                wanted="the same number of parts until all parts have finished",
                next_step=f"give --part I/{count}, or start one run without --part, which scores all remaining shards",
            )


def remove_partitions(output: Path) -> None:
    """Remove the manifests of all partitions; the caller holds OUTPUT and has merged their entries."""
    for partition in find_partitions(output):
        for kept in kept_lines(output, partition):
            kept.unlink(missing_ok=True)
        manifest_path(output, partition).unlink(missing_ok=True)


def _refuse_blocked(output: Path, name: str) -> None:
    """Raise an error if the path of a result is a folder, or if a file is in place of the folder of the result.

    Raises:
        OutputRefused: the result cannot be written.
    """
    path = output / name
    folders = list(path.relative_to(output).parents)[:-1]
    file = next((output / folder for folder in folders if (output / folder).is_file()), None)
    if path.is_dir() or file is not None:
        raise OutputRefused(
            f"The result {path} cannot be written: {file or path} is a {'file' if file else 'folder'}.",
            wanted="an OUTPUT in which this path is free",
            next_step=f"move or delete {file or path}, then run the same command again",
        )


def _in_order(entries: dict[str, ManifestEntry]) -> list[ManifestEntry]:
    return [entries[name] for name in sorted(entries)]
