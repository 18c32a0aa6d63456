"""The manifest: which shards are finished, and what they were made from.

In: OUTPUT, and what decides a run. Out: `_manifest.jsonl` in OUTPUT, whose first line is the
configuration and whose other lines are finished shards. A line is appended and synced after its
shard has its name; a torn last line, from a killed run, is taken off by the next.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.errors import OutputRefused
from screen.config import fingerprint
from screen.input.shards import ShardRef
from screen.output.writer import WrittenShard, is_result
from screen.storage import remove_leftovers, write_failed, write_text

MANIFEST_NAME = "_manifest.jsonl"


@dataclass(frozen=True)
class ManifestEntry:
    """One finished shard."""

    shard: str
    root: str
    input: dict[str, int | str]
    size: int
    rows: int
    flagged: int
    statuses: dict[str, int]

    def line(self) -> str:
        """As JSON."""
        return json.dumps(self.__dict__, sort_keys=True)


class Manifest:
    """The finished shards of one OUTPUT, for one configuration.

    Args:
        output: folder of results; need not exist.
        identity: what decides the results.
        force: start anew, whatever is there.

    Raises:
        OutputRefused: OUTPUT holds results of another configuration, or files of another origin.
    """

    def __init__(self, output: Path, identity: dict[str, Any], *, force: bool) -> None:
        self._output = output
        self._path = output / MANIFEST_NAME
        self._header = {"configuration": fingerprint(identity), **identity}
        self._entries: dict[str, ManifestEntry] = {}
        if not force:
            self._read()

    def is_done(self, shard: ShardRef) -> bool:
        """Whether this very content was scored, and its result is there."""
        entry = self._entries.get(shard.name)
        if entry is None or entry.input != shard.fingerprint:
            return False
        result = self._output / shard.name
        return result.is_file() and result.stat().st_size == entry.size

    def refuse_foreign(self, shards: list[ShardRef]) -> None:
        """Refuse to replace what is not an earlier result of the same shard.

        Raises:
            OutputRefused: a file is in the way that we did not write, or the result of a shard of
                the same name from another INPUT.
        """
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

    def start(self) -> None:
        """Write the manifest as far as it is known, so that only finished lines follow.

        What killed runs left aside is removed.

        Raises:
            WriteFailed: OUTPUT cannot be written to.
        """
        remove_leftovers(self._output)
        lines = [json.dumps(self._header, sort_keys=True)]
        lines += [self._entries[name].line() for name in sorted(self._entries)]
        write_text(self._path, "\n".join(lines) + "\n")

    def finish_shard(self, written: WrittenShard) -> None:
        """Append a shard whose result has its name."""
        size = written.path.stat().st_size
        shard = written.shard
        entry = ManifestEntry(
            shard.name, str(shard.root), shard.fingerprint, size, written.rows, written.flagged, written.statuses
        )
        self._entries[shard.name] = entry
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(entry.line() + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_failed(self._path, error) from error

    def finish(self) -> None:
        """Put the lines in order, so that a run that was stopped and resumed ends the same."""
        self.start()

    def _read(self) -> None:
        try:
            lines = self._path.read_text(encoding="utf-8").split("\n")[:-1]
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            raise self._refuse(f"cannot be read ({error})") from error
        try:
            header = dict(json.loads(lines[0]))
            entries = [ManifestEntry(**json.loads(line)) for line in lines[1:]]
        except (ValueError, IndexError, TypeError) as error:
            raise self._refuse(f"is damaged ({error})") from error
        if header.get("configuration") != self._header["configuration"]:
            changed = [key for key in self._header if key != "configuration" and header.get(key) != self._header[key]]
            told = "; ".join(f"{key}: {header.get(key)!r} there, {self._header[key]!r} now" for key in changed)
            raise self._refuse(f"was written with another configuration ({told})")
        self._entries = {entry.shard: entry for entry in entries}

    def _refuse(self, what: str) -> OutputRefused:
        return OutputRefused(
            f"The manifest {self._path} {what}.",
            wanted="results of one configuration in one OUTPUT",
            next_step="choose another OUTPUT, or add --force to do every shard again",
        )
