"""Check that the results of a run are complete, agree with the manifest, and are the only Parquet files in OUTPUT.

In: RESULTS, and INPUT if it is given. Out: a `CheckReport` with every problem found. The check computes the digest of
each result shard, reads its schema and all its rows, and compares them with the manifest.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from export.errors import ExitCode
from screen.columns import IDENTITY, SCORES_OF_ALL_FORMATS, STATUSES, columns_of_format
from screen.config import fingerprint
from screen.files.listing import list_shards
from screen.files.paths import name_place, open_parquet
from screen.files.storage import find_stale_staging
from screen.input.shards import UnreadableShard, open_shards
from screen.output.history import HISTORY_FOLDER, read_history
from screen.output.manifest_file import MANIFEST_NAME, ManifestEntry, ManifestFile, OneManifest
from screen.output.names import split_usable
from screen.output.quarantine import QUARANTINE_NAME, QUARANTINE_SCHEMA, UNREADABLE_SHARD, bad_rows
from screen.output.stored import has_input, is_intact
from screen.output.writer import is_result, read_identity

_BROKEN = (OSError, pa.ArrowException, ValueError, KeyError, TypeError)


@dataclass(frozen=True)
class CheckReport:
    """Findings about the results of a run.

    Attributes:
        output: the checked folder.
        shards: number of result shards in the manifest.
        rows: number of rows in these result shards, according to the manifest.
        bad: number of rows that could not be scored; these rows are included in `rows`.
        problems: one text for each problem; empty if the results are complete.
        notes: observations that are not problems.
        open_parts: unfinished partitions of the run.
        next_steps: actions that resolve the problems, in the order in which to take them.
    """

    output: str
    shards: int
    rows: int
    bad: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    open_parts: tuple[str, ...] = ()
    next_steps: tuple[str, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """Exit code of the process."""
        return ExitCode.FAILED if self.problems else ExitCode.DONE

    def to_json(self) -> str:
        """The report as one line of JSON."""
        return json.dumps({"exit_code": int(self.exit_code), **asdict(self)})

    def to_text(self) -> str:
        """The report as text for the terminal."""
        lines = [f"{self.rows} rows in {self.shards} shard(s), {self.bad} rows not scored"]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"problem: {problem}" for problem in self.problems]
        if self.problems:
            lines.append(f"{len(self.problems)} problem(s) with the results in {self.output}")
            lines.append(f"  next:   {'; then '.join(self.next_steps)}")
        else:
            lines.append("no problems: the results agree with the manifest")
        return "\n".join(lines)


def check_results(output: Path, source: str | None = None) -> CheckReport:
    """Check the results of a run against its manifest, and against INPUT if given.

    Args:
        output: folder that `oodscreen run` wrote.
        source: INPUT to compare with; None to check only OUTPUT.

    Raises:
        InputRefused: the folder contains no manifest, or INPUT cannot be read.
        OutputRefused: the manifest cannot be read.
    """
    manifest = ManifestFile.require(output)
    entries = [manifest.entries[name] for name in sorted(manifest.entries)]
    problems: list[str] = []
    notes: list[str] = []
    identity = {key: value for key, value in manifest.header.items() if key != "configuration"}
    if fingerprint(identity) != manifest.header.get("configuration"):
        problems.append(f"{MANIFEST_NAME}: the configuration does not match its fingerprint")
    forget = f"oodscreen forget {shlex.quote(str(output))}"
    steps: list[str] = []
    for entry in entries:
        intact = is_intact(output, entry)
        found = [] if intact else ["missing, or not the file that the run wrote (its size or SHA-256 differs)"]
        if intact or (output / entry.shard).is_file():
            found += _check_shard(output, entry, identity)
        if found:
            steps.append(f"`{forget} --damaged`" if not intact else f"`{forget} --shard {shlex.quote(entry.shard)}`")
            if not has_input(entry):
                found[-1] += "; the input shard no longer exists, so no run can score it again"
        problems += [f"{entry.shard!r}: {problem}" for problem in found]
    unreadable: list[UnreadableShard] = []
    if source is not None:
        unreadable = _compare_input(output, source, manifest, problems, notes)
    if manifest.finished:
        problems += _check_quarantine(output, entries, unreadable)
    else:
        problems.append(_describe_unfinished(manifest))
    problems += [
        f"{path.relative_to(output)}: stale staging file of a killed run" for path in find_stale_staging(output)
    ]
    if manifest.forgotten:
        problems.append(
            f"{len(manifest.forgotten)} forgotten result(s) that a killed `oodscreen forget` did not remove"
        )
    known = manifest.entries.keys() | manifest.forgotten
    for path in sorted(output.rglob("*.parquet")):
        name = path.relative_to(output).as_posix()
        if name not in known and path.is_file():
            problems.append(f"{name!a}: a Parquet file that the manifest does not list")
            listed = f"`{forget} --shard {shlex.quote(name)}`" if is_result(path) else f"delete or move {name!a}"
            steps.append(listed)
    notes += [
        f"{HISTORY_FOLDER}/{name} cannot be read, so its run is not in the history"
        for name in read_history(output).damaged
    ]
    rows, bad = sum(entry.rows for entry in entries), sum(entry.bad for entry in entries)
    open_parts = () if manifest.finished else tuple(map(str, manifest.missing))
    if open_parts:
        steps.append(f"run the unfinished parts: --part {', --part '.join(open_parts)}; then check again")
    elif problems:
        steps.append("repeat the `oodscreen run`, which scores each shard that is new, changed or without a result")
    next_steps = tuple(dict.fromkeys(steps))
    return CheckReport(
        name_place(output), len(entries), rows, bad, tuple(problems), tuple(notes), open_parts, next_steps
    )


def _describe_unfinished(manifest: ManifestFile) -> str:
    if manifest.missing:
        return f"unfinished part(s): {', '.join(map(str, manifest.missing))}; run them"
    if manifest.partitions:
        return "all parts are finished, but their manifests are not merged; repeat the `oodscreen run` of any part"
    return "the last run did not finish; repeat it"


def _check_shard(output: Path, entry: ManifestEntry, identity: dict[str, Any]) -> Iterator[str]:
    path = output / entry.shard
    try:
        with open_parquet(path) as file:
            if read_identity(file.schema_arrow) != identity:
                yield "written with a configuration other than that of the manifest"
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
    """Problems of the rows: wrong positions or counts, unknown statuses, or statuses that contradict other columns."""
    rows = flagged = 0
    statuses: dict[str, int] = {}
    wrong: set[str] = set()
    stored = set(file.schema_arrow.names)
    scores = [column.name for column in SCORES_OF_ALL_FORMATS if column.name in stored]
    for batch in file.iter_batches(columns=["shard", "row", *scores, "flag", "passes", "status", "error"]):
        table = pa.Table.from_batches([batch])
        positions = pa.chunked_array([pa.array(range(rows, rows + len(table)), pa.int64())])
        if not table["row"].equals(positions) or set(table["shard"].unique().to_pylist()) - {entry.shard}:
            wrong.add("rows are not the shard's rows in input order")
        rows += len(table)
        flagged += pc.sum(table["flag"]).as_py() or 0
        for counted in table["status"].value_counts().to_pylist():
            statuses[counted["values"]] = statuses.get(counted["values"], 0) + counted["counts"]
        is_ok = pc.equal(table["status"], "ok")
        good, bad = table.filter(is_ok), table.filter(pc.invert(is_ok))
        if not pc.all(bad["flag"], min_count=0).as_py() or bad["error"].null_count or pc.sum(bad["passes"]).as_py():
            wrong.add("an unreadable row is not flagged, has no error, or has passes")
        if any(bad[name].null_count != len(bad) for name in scores):
            wrong.add("an unreadable row has scores")
        if good["error"].null_count != len(good) or good["mean"].null_count:
            wrong.add("a scored row has an error, or no scores")
    yield from sorted(wrong)
    if rows != entry.rows:
        yield f"{rows} rows, wanted {entry.rows}"
    if (flagged, statuses) != (entry.flagged, entry.statuses):
        yield f"{flagged} rows flagged, statuses {statuses}; wanted {entry.flagged} and {entry.statuses}"
    if statuses.keys() - STATUSES.keys():
        yield f"unknown statuses: {sorted(map(str, statuses.keys() - STATUSES.keys()))}"


def _compare_input(
    output: Path, source: str, manifest: ManifestFile, problems: list[str], notes: list[str]
) -> list[UnreadableShard]:
    """Check that each readable shard of INPUT has a result of its current content with the same number of rows."""
    listing = list_shards(source)
    shards, unreadable = open_shards(listing)
    shards, unusable = split_usable(output, listing, shards, manifest.entries)
    unreadable += unusable
    whole = OneManifest.read(output, None)
    lost = {} if whole is None else {shard.name: shard for shard in whole.unreadable}
    for shard in shards:
        entry = manifest.entries.get(shard.name)
        if entry is None and shard.name in lost:  # the footer of the shard can be read, but not its rows
            unreadable.append(lost[shard.name])
        elif entry is None:
            problems.append(f"{shard.name!r}: in INPUT, but without a result")
        elif entry.input != shard.fingerprint:
            problems.append(f"{shard.name!r}: changed since it was scored")
        elif entry.rows != shard.rows:
            problems.append(f"{shard.name!r}: {shard.rows} rows in INPUT, but {entry.rows} in the result")
    present = {shard.name for shard in shards} | {shard.name for shard in unreadable}
    notes += [f"{name!r}: has a result, but is not in INPUT" for name in sorted(manifest.entries.keys() - present)]
    besides = listing.passed_over.describe()
    notes += [f"skipped in INPUT: {besides}"] * bool(besides)
    notes += [f"{shard.name!r}: quarantined: {shard.reason}" for shard in unreadable]
    return unreadable


def _check_quarantine(output: Path, entries: list[ManifestEntry], unreadable: list[UnreadableShard]) -> Iterator[str]:
    try:
        with open_parquet(output / QUARANTINE_NAME) as file:
            listed = file.read()
        is_shard = pc.equal(listed["status"], UNREADABLE_SHARD)
        found = {entry.shard: bad_rows(output, entry) for entry in entries}
        expected = pa.concat_tables(
            [QUARANTINE_SCHEMA.empty_table(), *(one for many in found.values() for one in many or ())]
        )
        damaged = pa.array([name for name, tables in found.items() if tables is None], pa.string())
        ignored = pc.or_(is_shard, pc.is_in(listed["shard"], damaged))  # damaged results are separate problems
        if not listed.filter(pc.invert(ignored)).equals(expected):
            yield f"{QUARANTINE_NAME}: does not list exactly the rows that could not be scored"
        missing = {shard.name for shard in unreadable} - set(listed.filter(is_shard)["shard"].to_pylist())
        if missing:
            yield f"{QUARANTINE_NAME}: does not list the unreadable shard(s) {', '.join(map(repr, sorted(missing)))}"
    except _BROKEN as error:
        yield (
            f"{QUARANTINE_NAME}: cannot be compared with the results: "
            f"{str(error).splitlines()[0] if str(error) else error!r}"
        )
