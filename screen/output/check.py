"""Prove that results are whole: what the manifest promises is there, row by row, and nothing else.

In: RESULTS, and INPUT if it is given. Out: a `CheckReport` with every problem found. Every result is read
through once: digest, footer, schema, each row's place, status and flag, and the counts of the manifest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from export.errors import ExitCode, InputRefused
from screen.columns import IDENTITY, SCORES, STATUSES, columns_of_format
from screen.config import fingerprint
from screen.files.paths import open_parquet
from screen.files.storage import FileContent, find_stale_staging
from screen.input.shards import UnreadableShard, find_shards
from screen.output.manifest_file import MANIFEST_NAME, ManifestEntry, ManifestFile
from screen.output.quarantine import QUARANTINE_NAME, QUARANTINE_SCHEMA, UNREADABLE_SHARD, read_bad_rows
from screen.output.writer import read_identity

_BROKEN = (OSError, pa.ArrowException, ValueError, KeyError)


@dataclass(frozen=True)
class CheckReport:
    """What was found.

    Attributes:
        output: folder of results.
        shards: result shards that the manifest names.
        rows: rows that they should hold.
        bad: of these, rows that could not be scored.
        problems: one sentence each; none if all holds.
        notes: what is worth knowing but not wrong.
        open_parts: parts of the run that have not come to their end.
    """

    output: str
    shards: int
    rows: int
    bad: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    open_parts: tuple[str, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """What the process should end with."""
        return ExitCode.FAILED if self.problems else ExitCode.DONE

    def to_json(self) -> str:
        """In one line."""
        return json.dumps({"exit_code": int(self.exit_code), **asdict(self)})

    def to_text(self) -> str:
        """For people."""
        lines = [f"{self.rows} rows in {self.shards} shard(s), {self.bad} of them not scored"]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"problem: {problem}" for problem in self.problems]
        if self.problems:
            lines.append(f"{len(self.problems)} problem(s): {self.output} is not what its manifest says")
            if self.open_parts:
                lines.append(
                    f"  next:   run the missing parts: --part {', --part '.join(self.open_parts)}; then check again"
                )
            else:
                lines.append(
                    "  next:   remove the files that are named and run again: a shard without its result is new"
                )
        else:
            lines.append("all of it holds")
        return "\n".join(lines)


def check_results(output: Path, source: str | None = None) -> CheckReport:
    """Read all results through.

    Args:
        output: what a run wrote.
        source: INPUT, to be compared; None checks the results alone.

    Raises:
        InputRefused: there are no results to check, or INPUT cannot be read.
        OutputRefused: the manifest cannot be read.
    """
    manifest = ManifestFile.read(output)
    if manifest is None:
        raise InputRefused(
            f"{output} holds no {MANIFEST_NAME}.",
            wanted="the OUTPUT of an `oodscreen run`",
            next_step="check the path",
        )
    entries = [manifest.entries[name] for name in sorted(manifest.entries)]
    problems: list[str] = []
    notes: list[str] = []
    identity = {key: value for key, value in manifest.header.items() if key != "configuration"}
    if fingerprint(identity) != manifest.header.get("configuration"):
        problems.append(f"{MANIFEST_NAME}: the configuration is not the one that its fingerprint was made of")
    for entry in entries:
        problems += [f"{entry.shard!r}: {problem}" for problem in _check_shard(output, entry, identity)]
    unreadable: list[UnreadableShard] = []
    if source is not None:
        unreadable = _compare_input(source, manifest, problems, notes)
    if manifest.finished:
        problems += _check_quarantine(output, entries, unreadable)
    else:
        problems.append(_tell_unfinished(manifest))
    problems += [f"{path.relative_to(output)}: left aside by a killed run" for path in find_stale_staging(output)]
    known = set(manifest.entries)
    for path in sorted(output.rglob("*.parquet")):
        name = path.relative_to(output).as_posix()
        if name not in known and path.is_file():
            problems.append(f"{name!a}: a Parquet file that the manifest does not know")
    rows, bad = sum(entry.rows for entry in entries), sum(entry.bad for entry in entries)
    open_parts = () if manifest.finished else tuple(map(str, manifest.missing))
    return CheckReport(str(output), len(entries), rows, bad, tuple(problems), tuple(notes), open_parts)


def _tell_unfinished(manifest: ManifestFile) -> str:
    if manifest.missing:
        return f"not done yet: part(s) {', '.join(map(str, manifest.missing))}; run them"
    if manifest.parts:
        return "all parts are done, but none of them has closed them; run any of them again"
    return "the last run did not come to its end; run it again"


def _check_shard(output: Path, entry: ManifestEntry, identity: dict[str, Any]) -> Iterator[str]:
    path = output / entry.shard
    try:
        content = FileContent.of(path)
        if content != FileContent(entry.size, entry.sha256):
            yield f"{content.size} bytes with SHA-256 {content.sha256[:12]}..., not the {entry.size} that were written"
        with open_parquet(path) as file:
            if read_identity(file.schema_arrow) != identity:
                yield "written by another configuration than the manifest's"
            wrong = _compare_schema(file.schema_arrow, identity)
            if wrong:
                yield wrong
                return
            yield from _check_rows(file, entry)
    except _BROKEN as error:
        yield f"cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}"


def _compare_schema(schema: pa.Schema, identity: dict[str, Any]) -> str:
    columns = columns_of_format(int(identity.get("result_format", 0)))
    own = [column.name for column in columns]
    names = [*own[: len(IDENTITY)], *identity.get("keep", []), *own[len(IDENTITY) :]]
    if schema.names != names:
        return f"columns {', '.join(schema.names)}, wanted {', '.join(names)}"
    for column in columns:
        if schema.field(column.name).type != column.type:
            return f"column {column.name} is of type {schema.field(column.name).type}, wanted {column.type}"
    return ""


def _check_rows(file: pq.ParquetFile, entry: ManifestEntry) -> Iterator[str]:
    """What the rows themselves say: their place, and that a status goes with its flag, scores and error."""
    rows = flagged = 0
    statuses: dict[str, int] = {}
    wrong: set[str] = set()
    scores = [column.name for column in SCORES]
    for batch in file.iter_batches(columns=["shard", "row", *scores, "flag", "passes", "status", "error"]):
        table = pa.Table.from_batches([batch])
        places = pa.chunked_array([pa.array(range(rows, rows + len(table)), pa.int64())])
        if not table["row"].equals(places) or set(table["shard"].unique().to_pylist()) - {entry.shard}:
            wrong.add("rows are not those of the shard in their order")
        rows += len(table)
        flagged += pc.sum(table["flag"]).as_py() or 0
        for counted in table["status"].value_counts().to_pylist():
            statuses[counted["values"]] = statuses.get(counted["values"], 0) + counted["counts"]
        is_ok = pc.equal(table["status"], "ok")
        good, bad = table.filter(is_ok), table.filter(pc.invert(is_ok))
        if not pc.all(bad["flag"], min_count=0).as_py() or bad["error"].null_count or pc.sum(bad["passes"]).as_py():
            wrong.add("a row that could not be scored has no flag, no error, or passes")
        if any(bad[name].null_count != len(bad) for name in scores):
            wrong.add("a row that could not be scored has scores")
        if good["error"].null_count != len(good) or good["mean"].null_count:
            wrong.add("a scored row has an error, or no scores")
    yield from sorted(wrong)
    if rows != entry.rows:
        yield f"{rows} rows, wanted {entry.rows}"
    if (flagged, statuses) != (entry.flagged, entry.statuses):
        yield f"{flagged} flagged and statuses {statuses}, wanted {entry.flagged} and {entry.statuses}"
    if statuses.keys() - STATUSES.keys():
        yield f"unknown statuses: {sorted(map(str, statuses.keys() - STATUSES.keys()))}"


def _compare_input(source: str, manifest: ManifestFile, problems: list[str], notes: list[str]) -> list[UnreadableShard]:
    """Rows in are rows out: every readable shard of INPUT has its result, made from what it is now."""
    shards, unreadable = find_shards(source)
    for shard in shards:
        entry = manifest.entries.get(shard.name)
        if entry is None:
            problems.append(f"{shard.name!r}: in INPUT, but without a result")
        elif entry.input != shard.fingerprint:
            problems.append(f"{shard.name!r}: changed since it was scored")
        elif entry.rows != shard.rows:
            problems.append(f"{shard.name!r}: {shard.rows} rows in, {entry.rows} rows out")
    present = {shard.name for shard in shards} | {shard.name for shard in unreadable}
    notes += [f"{name!r}: has results, but is not in INPUT" for name in sorted(manifest.entries.keys() - present)]
    notes += [f"{shard.name!r}: in quarantine, cannot be read: {shard.reason}" for shard in unreadable]
    return unreadable


def _check_quarantine(output: Path, entries: list[ManifestEntry], unreadable: list[UnreadableShard]) -> Iterator[str]:
    try:
        with open_parquet(output / QUARANTINE_NAME) as file:
            listed = file.read()
        is_shard = pc.equal(listed["status"], UNREADABLE_SHARD)
        expected = pa.concat_tables([QUARANTINE_SCHEMA.empty_table(), *read_bad_rows(output, entries)])
        if not listed.filter(pc.invert(is_shard)).equals(expected):
            yield f"{QUARANTINE_NAME}: does not list the rows that could not be scored"
        missing = {shard.name for shard in unreadable} - set(listed.filter(is_shard)["shard"].to_pylist())
        if missing:
            yield f"{QUARANTINE_NAME}: does not list the unreadable shard(s) {', '.join(map(repr, sorted(missing)))}"
    except _BROKEN as error:
        yield f"{QUARANTINE_NAME}: cannot be compared: {str(error).splitlines()[0] if str(error) else error!r}"
