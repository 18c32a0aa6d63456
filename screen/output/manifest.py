"""The manifest of a run: which shards are finished, and which must be scored, and why.

In: OUTPUT, and what decides a run. Out: `_manifest.jsonl` in OUTPUT, as `manifest_file.py` describes it. A
shard's line is appended and synced after the shard has its name; a torn last line, from a killed run, is taken
off by the next.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from export.errors import OutputRefused
from screen.config import fingerprint
from screen.input.shards import ShardRef
from screen.output.manifest_file import (
    FINISHED,
    MANIFEST_NAME,
    PARTS_NAME,
    ManifestEntry,
    ManifestFile,
    part_of,
    refuse_manifest,
)
from screen.output.writer import WrittenShard, is_result
from screen.places import as_place, is_local
from screen.storage import remove_leftovers, write_failed, write_text


class Manifest:
    """The finished shards of one OUTPUT, for one configuration.

    Args:
        output: folder of results; need not exist.
        identity: what decides the results.
        force: `all` starts anew, whatever is there; `quarantined` does shards with unreadable rows again.

    Raises:
        OutputRefused: OUTPUT holds results of another configuration, or files of another origin.
    """

    def __init__(self, output: Path, identity: dict[str, Any], *, force: str | None) -> None:
        self._output = output
        self._path = output / MANIFEST_NAME
        self._header = {"configuration": fingerprint(identity), **identity}
        self._force = force
        self._entries = self._read()

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
            present: the names that INPUT has now.
        """
        missing = sorted(self._entries.keys() - set(present))
        return [name for name in missing if not (as_place(self._entries[name].root) / name).exists()]

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
            self._entries.pop(shard.name, None)
        remove_leftovers(self._output)
        self._write(self._text())

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
        self._entries[shard.name] = entry
        if not is_local(self._output):
            write_text(part_of(self._output, entry), f"{self._header['configuration']}\n{entry.line()}\n")
            return
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(entry.line() + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_failed(self._path, error) from error

    def finish(self) -> None:
        """Put the lines in order, so that a run that was stopped and resumed ends the same, and close them.

        Raises:
            WriteFailed: OUTPUT cannot be written to.
        """
        rows = sum(entry.rows for entry in self._entries.values())
        closing = {FINISHED: {"shards": len(self._entries), "rows": rows}}
        self._write(self._text() + json.dumps(closing) + "\n")

    def entries(self) -> list[ManifestEntry]:
        """All finished shards, in the order of their names."""
        return [self._entries[name] for name in sorted(self._entries)]

    def _write(self, text: str) -> None:
        """Write the whole manifest; parts, which it now holds, go after it."""
        write_text(self._path, text)
        if not is_local(self._output):
            for part in (self._output / PARTS_NAME).glob("*.json"):
                part.unlink(missing_ok=True)

    def _text(self) -> str:
        lines = [json.dumps(self._header, sort_keys=True), *(entry.line() for entry in self.entries())]
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
        header = there.header
        if header.get("configuration") != self._header["configuration"]:
            if self._force == "all":
                return {}
            changed = [key for key in self._header if key != "configuration" and header.get(key) != self._header[key]]
            told = "; ".join(f"{key}: {header.get(key)!r} there, {self._header[key]!r} now" for key in changed)
            raise refuse_manifest(self._path, f"was written with another configuration ({told})")
        return there.entries
