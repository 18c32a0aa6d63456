"""The manifest of a run: which shards are finished, and which must be scored, and why.

In: OUTPUT, what decides a run, and the part if it does only one. Out: `_manifest.jsonl` in OUTPUT, or that of the part,
as `manifest_file.py` describes them. A shard's line is appended and synced after the shard has its name; a torn last
line, from a killed run, is taken off by the next.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from export.errors import OutputRefused
from screen.config import fingerprint
from screen.files.paths import as_path, is_local
from screen.files.storage import remove_stale_staging, write_failed, write_text
from screen.input.shards import ShardRef, UnreadableShard
from screen.output.manifest_file import (
    WITHDRAWN,
    ManifestEntry,
    ManifestFile,
    OneManifest,
    closing_line,
    find_parts,
    kept_lines,
    line_path,
    manifest_path,
    refuse_manifest,
    tell_difference,
)
from screen.output.writer import WrittenShard, is_result
from screen.partition import ShardPartition


class Manifest:
    """The finished shards of one OUTPUT, for one configuration.

    Args:
        output: folder of results; need not exist.
        identity: what decides the results.
        force: `all` starts anew, whatever is there; `quarantined` does shards with unreadable rows again.
        part: the part that the run does; it knows what the others have finished, and writes down its own.

    Raises:
        OutputRefused: OUTPUT holds results of another configuration, or files of another origin, or was begun in
            another number of parts.
    """

    def __init__(
        self, output: Path, identity: dict[str, Any], *, force: str | None, part: ShardPartition | None = None
    ) -> None:
        self._output, self._part = output, part
        self._owner = "" if part is None else part.name
        self._path = manifest_path(output, part)
        self._header = {"configuration": fingerprint(identity), **identity}
        self._force = force
        self._entries = self._read()
        self._own, self._withdrawn = (self._entries, set[str]()) if part is None else self._read_own(part)
        """What this manifest's file holds: all of it, or what the part did, and what it set out to do again."""

    def why_to_do(self, shard: ShardRef) -> str | None:
        """Why a shard must be scored; None where this very content was, and its result is there."""
        entry = self._entries.get(shard.name)
        if self._force == "all":
            return "forced"
        if entry is None:
            return "new"
        if entry.input != shard.fingerprint:
            return "changed since they were scored"
        result = self._output / shard.name
        if not result.is_file():
            return "without their result"
        if result.stat().st_size != entry.size:
            return "with a result of another size than was written"
        if self._force == "quarantined" and entry.bad:
            return "with quarantined rows"
        return None

    def entry(self, shard: ShardRef) -> ManifestEntry:
        """The entry of a finished shard."""
        return self._entries[shard.name]

    def vanished(self, present: Iterable[str]) -> list[str]:
        """Finished shards whose input is not there any more; their results stay.

        Args:
            present: the names that INPUT has now; of a part, those that are its own.
        """
        own = [name for name in self._entries if self._part is None or self._part.has(name)]
        missing = sorted(set(own) - set(present))
        return [name for name in missing if not (as_path(self._entries[name].root) / name).exists()]

    def refuse_foreign(self, shards: Sequence[ShardRef]) -> None:
        """Refuse to replace what is not an earlier result of the same shard, unless everything is forced.

        Raises:
            OutputRefused: a file is in the way that we did not write, or the result of a shard of
                the same name from another INPUT.
        """
        if self._force == "all":
            return
        for shard in shards:
            entry = self._entries.get(shard.name)
            target = self._output / shard.name
            if entry is None and target.exists() and not is_result(target):
                raise OutputRefused(
                    f"{target} exists and is no result of ours.",
                    wanted="a new or empty folder, or one that an earlier run wrote",
                    next_step="choose another OUTPUT, or add --force to overwrite",
                )
            if entry is not None and entry.root != str(shard.root) and entry.input != shard.fingerprint:
                raise OutputRefused(
                    f"{target} is the result of a shard of this name in {entry.root}; INPUT is now {shard.root}.",
                    wanted="one OUTPUT for each INPUT, or shards with names of their own",
                    next_step="choose another OUTPUT, or add --force to overwrite",
                )

    def start(self, todo: Iterable[ShardRef] = ()) -> None:
        """Write the manifest as far as it is known, so that only finished lines follow.

        What killed runs left aside is removed.

        Args:
            todo: shards that are about to be scored: nothing is claimed of them any more.

        Raises:
            WriteFailed: OUTPUT cannot be written to.
        """
        for shard in todo:
            known = self._entries.pop(shard.name, None)
            self._own.pop(shard.name, None)
            if self._part is not None and known is not None:
                self._withdrawn.add(shard.name)
        remove_stale_staging(self._output, self._owner)
        self._write(self._text())
        if self._part is None:
            remove_parts(self._output)

    def finish_shard(self, written: WrittenShard) -> None:
        """Append a shard whose result has its name."""
        shard = written.shard
        entry = ManifestEntry(
            shard.name,
            str(shard.root),
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
            write_text(line_path(self._output, self._part, entry), line, self._owner)
            return
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(entry.line() + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_failed(self._path, error) from error

    def finish(self, unreadable: Sequence[UnreadableShard] = ()) -> None:
        """Put the lines in order, so that a run that was stopped and resumed ends the same, and close them.

        Args:
            unreadable: shards without a result; of a part, who closes the parts puts them into the quarantine table.

        Raises:
            WriteFailed: OUTPUT cannot be written to.
        """
        rows = sum(entry.rows for entry in self._own.values())
        self._write(self._text() + closing_line(len(self._own), rows, unreadable))

    def entries(self) -> list[ManifestEntry]:
        """All finished shards, in the order of their names."""
        return _in_order(self._entries)

    def _write(self, text: str) -> None:
        """Write the whole manifest; objects of single lines, which it now holds, go after it."""
        write_text(self._path, text, self._owner)
        for kept in kept_lines(self._output, self._part):
            kept.unlink(missing_ok=True)

    def _text(self) -> str:
        lines = [json.dumps(self._header, sort_keys=True)]
        if withdrawn := sorted(self._withdrawn - self._own.keys()):
            lines.append(json.dumps({WITHDRAWN: withdrawn}))
        lines += [entry.line() for entry in _in_order(self._own)]
        return "\n".join(lines) + "\n"

    def _read(self) -> dict[str, ManifestEntry]:
        try:
            there = ManifestFile.read(self._output)
        except OutputRefused:
            if self._force == "all":
                return {}
            raise
        if there is None:
            return {}
        if self._part is not None:
            self._refuse_other_count(self._part, there)
        header = there.header
        if header.get("configuration") != self._header["configuration"]:
            if self._force == "all":
                return {}
            told = tell_difference(header, self._header)
            raise refuse_manifest(there.path, f"was written with another configuration ({told})")
        return there.entries

    def _read_own(self, part: ShardPartition) -> tuple[dict[str, ManifestEntry], set[str]]:
        """What the part has done and withdrawn before; nothing that was done with another configuration."""
        try:
            there = OneManifest.read(self._output, part)
        except OutputRefused:
            return {}, set()  # it was refused before, unless all is forced
        if there is None or there.header.get("configuration") != self._header["configuration"]:
            return {}, set()
        return there.entries, set(there.withdrawn)

    def _refuse_other_count(self, part: ShardPartition, there: ManifestFile) -> None:
        count = next((one.count for one in there.parts), part.count)
        if count != part.count:
            raise OutputRefused(
                f"{self._output} was begun in {count} parts, and --part is {part}.",
                wanted="one number of parts until all of them have come to their end",
                next_step=f"give --part I/{count}, or run once without --part: it does what is missing",
            )


def remove_parts(output: Path) -> None:
    """Remove the manifests of all parts; only for the holder of OUTPUT, who has what they say in its own."""
    for part in find_parts(output):
        for kept in kept_lines(output, part):
            kept.unlink(missing_ok=True)
        manifest_path(output, part).unlink(missing_ok=True)


def _in_order(entries: dict[str, ManifestEntry]) -> list[ManifestEntry]:
    return [entries[name] for name in sorted(entries)]
