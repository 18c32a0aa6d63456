"""Remove result shards together with their manifest entries.

In: OUTPUT and a selection of shards. Out: OUTPUT without their results, and a `ForgetReport`. One atomic write of the
manifest removes the entries of the selected shards, and lists these shards as forgotten. Then the result files are
removed, the quarantine table is written, and the list is removed from the manifest. If the process is killed between
these steps, the next `forget` or run of this OUTPUT removes the remaining files.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from export.errors import ExitCode, InputRefused, OptionRefused, OutputRefused
from screen.files.paths import as_path, is_within, modified_at
from screen.files.storage import remove_stale_staging, write_text
from screen.output.locks.hold import hold_output, refuse_if_held
from screen.output.manifest import remove_partitions
from screen.output.manifest_file import (
    ManifestEntry,
    ManifestFile,
    OneManifest,
    closing_line,
    kept_lines,
    manifest_path,
    manifest_text,
)
from screen.output.quarantine import write_quarantine
from screen.output.stored import has_input, is_intact, refuse_if_store_failed, remove_results
from screen.output.writer import is_result

_NAMED = 5
"""Maximum number of names in the text for the terminal; a dry run prints all names."""


@dataclass(frozen=True)
class Forgotten:
    """The results to remove; exactly one field is set.

    Attributes:
        vanished: whether to remove the results whose input shards no longer exist.
        damaged: whether to remove the results that are missing, or differ from the files that the run wrote.
        before: date or time, ISO 8601, in UTC unless an offset is given; results that were written earlier are removed.
        shards: names of the results to remove.
    """

    vanished: bool = False
    damaged: bool = False
    before: str | None = None
    shards: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that exactly one field is set.

        Raises:
            OptionRefused: no field or several fields are set, or `before` is not a date or time.
        """
        given = [self.vanished, self.damaged, self.before is not None, bool(self.shards)]
        if given.count(True) != 1:
            raise OptionRefused(
                f"{given.count(True) or 'None'} of the options --vanished, --damaged, --before and --shard "
                f"{'are' if any(given) else 'is'} given.",
                wanted="exactly one of these options",
                next_step="give one of these options; with --dry-run, the command prints the selected results, and "
                "removes nothing",
            )
        _ = self.limit

    @property
    def limit(self) -> datetime | None:
        """`before` as a time with an offset; None if `before` is None."""
        if self.before is None:
            return None
        try:
            time = datetime.fromisoformat(self.before)
        except ValueError as error:
            raise OptionRefused(
                f"--before is {self.before!r}.",
                wanted="a date or time in ISO 8601, for example 2026-01-31 or 2026-01-31T12:00+01:00",
                next_step="give --before a date or time in this format",
            ) from error
        return time if time.tzinfo else time.replace(tzinfo=UTC)


@dataclass(frozen=True)
class ForgetReport:
    """The removed results; after a dry run, the selected results.

    Attributes:
        output: folder of results.
        shards: names of the results, sorted.
        rows: number of rows in the results, according to their manifest entries.
        in_input: names of the results whose input shards still exist; the next run scores these shards again.
        dry_run: whether the results were selected without being removed.
    """

    output: str
    shards: tuple[str, ...]
    rows: int
    in_input: tuple[str, ...]
    dry_run: bool

    def to_json(self) -> str:
        """The report as one line of JSON."""
        values: dict[str, Any] = {
            "exit_code": int(ExitCode.DONE),
            "meaning": ExitCode.DONE.meaning,
            "output": self.output,
            "dry_run": self.dry_run,
            "shards": self.shards,
            "rows": self.rows,
            "in_input": self.in_input,
        }
        return json.dumps(values)

    def to_text(self) -> str:
        """The report as text for the terminal."""
        done = "selected, not removed (--dry-run)" if self.dry_run else "removed"
        limit = len(self.shards) if self.dry_run else _NAMED
        lines = [f"{done}: {_name_some(self.shards, limit)} with {self.rows} rows"]
        if self.in_input:
            lines.append(
                f"note: the next run scores these shards again, because INPUT still contains them: "
                f"{_name_some(self.in_input, limit)}"
            )
        return "\n".join(lines)


def forget_results(output: Path, selection: Forgotten, *, dry_run: bool = False) -> ForgetReport:
    """Remove the selected results and their manifest entries.

    Args:
        output: folder that `oodscreen run` wrote.
        selection: the results to remove.
        dry_run: whether to select the results without removing them.

    Raises:
        InputRefused: OUTPUT has no manifest or, with `vanished`, the folder of INPUT is missing or empty.
        OptionRefused: a named shard has no result.
        OutputRefused: the manifest cannot be read, or, without `dry_run`, a partitioned run has not been closed.
        OutputLocked: a run holds OUTPUT.
        WriteFailed: OUTPUT cannot be written to; the command can be repeated.
    """
    manifest = ManifestFile.require(output)  # before the lock, which creates a missing folder
    if dry_run:
        refuse_if_held(output)
        return _report(output, manifest, _select(output, manifest, selection), dry_run=True)
    with hold_output(output):
        manifest = ManifestFile.require(output)
        if manifest.partitions and not manifest.finished:
            raise OutputRefused(
                f"The partitioned run in {output} has not finished.",
                wanted="the results of a run without unfinished parts",
                next_step=f"run `oodscreen run` with --part {' and with --part '.join(map(str, manifest.missing))}"
                if manifest.missing
                else "repeat the `oodscreen run` of any part, which merges the manifests",
            )
        names = _select(output, manifest, selection)
        report = _report(output, manifest, names, dry_run=False)
        if names or manifest.forgotten:
            _remove(output, manifest, names)
    return report


def _remove(output: Path, manifest: ManifestFile, names: set[str]) -> None:
    whole, path = OneManifest.read(output, None), manifest_path(output, None)
    unreadable = () if whole is None else whole.unreadable

    def text(entries: dict[str, ManifestEntry], forgotten: set[str]) -> str:
        rows = sum(entry.rows for entry in entries.values())
        closing = closing_line(len(entries), rows, unreadable) if manifest.finished else ""
        return manifest_text(manifest.header, entries, forgotten) + closing

    remove_stale_staging(output)
    if manifest.partitions or next(kept_lines(output, None), None) is not None:
        write_text(path, text(manifest.entries, set(manifest.forgotten)))  # from now on, all entries are in one file
        for kept in kept_lines(output, None):
            kept.unlink(missing_ok=True)
        remove_partitions(output)
    remaining = {name: entry for name, entry in manifest.entries.items() if name not in names}
    forgotten = names | manifest.forgotten
    write_text(path, text(remaining, forgotten))
    remove_results(output, sorted(forgotten))
    if manifest.finished:
        write_quarantine(output, [remaining[name] for name in sorted(remaining)], unreadable)
    write_text(path, text(remaining, set()))


def _select(output: Path, manifest: ManifestFile, selection: Forgotten) -> set[str]:
    entries = manifest.entries.values()
    if selection.shards:
        for name in selection.shards:
            _refuse_unknown(output, manifest, name)
        return set(selection.shards)
    if selection.vanished:
        vanished = {entry.shard for entry in entries if not has_input(entry)}
        for root in sorted({manifest.entries[name].root for name in vanished}):
            _refuse_unreachable(root)
        return vanished
    if selection.damaged:
        return {entry.shard for entry in entries if not is_intact(output, entry)}
    return set(_written_before(output, manifest, selection.limit))


def _written_before(output: Path, manifest: ManifestFile, limit: datetime | None) -> Iterator[str]:
    """Names of the results that were written before a time; missing results have no time, and are not selected."""
    for name in manifest.entries:
        try:
            if limit is not None and modified_at(output / name) < limit:
                yield name
        except OSError as error:
            refuse_if_store_failed(output, error)


def _refuse_unknown(output: Path, manifest: ManifestFile, name: str) -> None:
    """Raise an error unless the manifest lists a name, as finished or forgotten, or OUTPUT has a result with this name.

    Raises:
        OptionRefused: OUTPUT has no result with this name.
    """
    is_known = name in manifest.entries or name in manifest.forgotten
    if not is_within((output / name).parent.resolve(), output.resolve()) or not (is_known or is_result(output / name)):
        raise OptionRefused(
            f"--shard is {name!r}, which is not a result in {output}.",
            wanted="the name of a shard as in the column `shard` of the results, for example sub/a.parquet",
            next_step=f"run `oodscreen check {shlex.quote(str(output))}`, which names damaged and unlisted results",
        )


def _refuse_unreachable(root: str) -> None:
    """Raise an error if the folder of INPUT is missing or empty, for example because its disk is not mounted.

    Raises:
        InputRefused: the folder is missing or empty.
    """
    folder = as_path(root)
    if not folder.is_dir() or next(folder.iterdir(), None) is None:
        raise InputRefused(
            f"INPUT {root} {'is empty' if folder.is_dir() else 'does not exist'}, so every shard in it has vanished.",
            wanted="the INPUT of the run, with its remaining shards",
            next_step="mount or restore INPUT; if it was removed on purpose, select the results by --before or --shard",
        )


def _report(output: Path, manifest: ManifestFile, names: set[str], *, dry_run: bool) -> ForgetReport:
    listed = [manifest.entries[name] for name in sorted(names) if name in manifest.entries]
    in_input = tuple(entry.shard for entry in listed if has_input(entry))
    rows = sum(entry.rows for entry in listed)
    return ForgetReport(str(output), tuple(sorted(names)), rows, in_input, dry_run)


def _name_some(names: tuple[str, ...], limit: int) -> str:
    """The number of shards and the first `limit` names, on one line."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    shown = ", ".join(name if name.isprintable() else repr(name) for name in names[:limit])
    return f"{len(names)} shard(s){': ' if names else ''}{shown}{more}"
