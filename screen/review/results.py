"""Open the results of a finished run, and read result rows in batches or by position.

In: RESULTS. Out: a `Results`. Each result shard is compared with its manifest entry when the shard is opened.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from export.errors import InputChanged, InputRefused, OutputLocked, OutputRefused
from screen.columns import SCORES_OF_ALL_FORMATS, columns_of_format
from screen.files.failures import raise_if_refused
from screen.files.paths import as_path, base_name, is_local, open_parquet
from screen.input.mapping import ColumnMapping
from screen.output.locks.hold import refuse_if_held
from screen.output.manifest_file import MANIFEST_NAME, ManifestEntry, ManifestFile
from screen.output.record import RunRecord
from screen.review.text import clip

_BATCH_ROWS = 8192
_LIST_BATCH_ROWS = 1024
"""Rows per batch in `Results.take`, whose columns may include long lists."""

_REQUIRED_SETTINGS = (
    "configuration", "model", "passes", "seed", "masks", "flag_if", "calibration", "adaptive", "image_column",
    "id_column", "image_root", "max_pixels", "result_format",
)  # fmt: skip
"""Settings that the manifest header must record."""


@dataclass(frozen=True)
class Settings:
    """The settings of a run, for display.

    Attributes:
        model: SHA-256 of the exported model.
        passes: number of passes T.
        seed: seed for the dropout masks.
        masks: `shared`, `per-row` or `none`.
        rule: the flag rule, as text.
        calibration: SHA-256 of the calibration; None without a calibration.
        adaptive: whether the run used early exit.
    """

    model: str
    passes: int
    seed: int
    masks: str
    rule: str
    calibration: str | None
    adaptive: bool


@dataclass(frozen=True, slots=True)
class RowPosition:
    """Position of a row in the results.

    Attributes:
        shard: index of the result shard.
        row: position in the shard.
    """

    shard: int
    row: int


@dataclass(frozen=True)
class Results:
    """The results of one finished run.

    Attributes:
        folder: folder of the results.
        name: name for display.
        identity: settings of the run, as recorded in the manifest.
        entries: manifest entries of the result shards, sorted by name.
        record: record of the last run; None if the record is missing, unreadable or of another configuration.
        given_names: class names that replace the recorded ones; empty if none were given.
    """

    folder: Path
    name: str
    identity: dict[str, Any]
    entries: tuple[ManifestEntry, ...]
    record: RunRecord | None
    given_names: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names that were given, else those in the record of the run; empty if there are none."""
        return self.given_names or (() if self.record is None else self.record.class_names)

    @property
    def settings(self) -> Settings:
        """The settings of the run, for display."""
        identity = self.identity
        return Settings(
            model=str(identity["model"]),
            passes=int(identity["passes"]),
            seed=int(identity["seed"]),
            masks=str(identity["masks"]),
            rule=clip(self.rule, 300),
            calibration=identity["calibration"],
            adaptive=bool(identity["adaptive"]),
        )

    @property
    def rule(self) -> str:
        """The flag rule."""
        return str(self.identity["flag_if"])

    @property
    def calibrated(self) -> bool:
        """Whether the run used a calibration, which is required for `ood_score` and `p_value`."""
        return self.identity["calibration"] is not None

    @property
    def model(self) -> str:
        """SHA-256 of the model."""
        return str(self.identity["model"])

    @property
    def model_version(self) -> str:
        """Shortened digests of the model and the configuration, because predictions depend on both."""
        return f"{self.model[:12]}-{str(self.identity['configuration'])[:8]}"

    @property
    def columns(self) -> ColumnMapping:
        """The input columns for review: images and row ids."""
        return ColumnMapping(str(self.identity["image_column"]), self.identity["id_column"], (), pa.schema([]))

    @property
    def image_root(self) -> Path | None:
        """Base folder of the image paths; None if the run did not read images by path."""
        root = self.identity["image_root"]
        return None if root is None else Path(root).resolve()

    @property
    def max_pixels(self) -> int:
        """Maximum pixels of a decoded image."""
        return int(self.identity["max_pixels"])

    @property
    def rows(self) -> int:
        """Number of rows in all shards."""
        return sum(entry.rows for entry in self.entries)

    @property
    def flagged(self) -> int:
        """Number of flagged rows in all shards."""
        return sum(entry.flagged for entry in self.entries)

    def batches(self, entry: ManifestEntry, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The given columns of all rows of a shard, batch by batch.

        Raises:
            InputRefused: the shard was changed or damaged after the run.
        """
        stored = self._stored(columns)
        with self._open(entry) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=stored):
                yield _select(batch, columns)

    def take(self, entry: ManifestEntry, rows: Sequence[int] | NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """The given columns of the given rows of a shard; only the row groups that contain these rows are read.

        Args:
            entry: manifest entry of the shard.
            rows: positions in the shard, ascending.
            columns: names of the columns.

        Raises:
            InputRefused: the shard was changed or damaged after the run.
        """
        found = []
        wanted, stored = np.asarray(rows), self._stored(columns)
        with self._open(entry) as file:
            sizes = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
            ends = np.cumsum(sizes)
            for group in np.unique(np.searchsorted(ends, wanted, side="right")).tolist():
                start = int(ends[group]) - sizes[group]
                last = wanted[wanted < ends[group]][-1]
                for batch in file.iter_batches(_LIST_BATCH_ROWS, row_groups=[group], columns=stored):
                    here = wanted[(wanted >= start) & (wanted < start + batch.num_rows)] - start
                    if len(here):
                        found.append(_select(batch.take(pa.array(here)), columns))
                    start += batch.num_rows
                    if start > last:
                        break
        return pa.concat_tables(found)

    @property
    def _format(self) -> int:
        return int(self.identity["result_format"])

    def _stored(self, columns: Sequence[str]) -> list[str]:
        """Names of the columns to read from a result shard, without columns that the format of the results lacks.

        In format 1, the reasons of a flag are only in `flag_reason`.
        """
        renamed = {"flag_reasons": "flag_reason"} if self._format == 1 else {}
        lacking = {column.name for column in SCORES_OF_ALL_FORMATS}
        lacking -= {column.name for column in columns_of_format(self._format)}
        return list(dict.fromkeys(renamed.get(name, name) for name in columns if name not in lacking))

    def refuse_if_changed(self) -> None:
        """Raise an error if the manifest changed since it was read.

        Raises:
            InputChanged: the manifest changed.
        """
        now = ManifestFile.read(self.folder)
        if now is None or _in_order(now) != self.entries:
            raise InputChanged(
                f"{self.folder} changed while it was read.",
                wanted="results that no run is writing",
                next_step="wait until the run has finished, then repeat this command",
            )

    @contextmanager
    def _open(self, entry: ManifestEntry) -> Iterator[pq.ParquetFile]:
        path = self.folder / entry.shard
        try:
            size = path.stat().st_size
            if size != entry.size:
                raise self._damaged(entry, f"the file has {size} bytes, but the run wrote {entry.size}")
            with open_parquet(path) as file:
                names = [column.name for column in columns_of_format(self._format)]
                missing = [name for name in names if name not in file.schema_arrow.names]
                if missing or file.metadata.num_rows != entry.rows:
                    rows = f"{file.metadata.num_rows} rows, but the run wrote {entry.rows}"
                    raise self._damaged(entry, f"the file has {f'no column {missing[0]}' if missing else rows}")
                yield file
        except (OSError, pa.ArrowException, KeyError) as error:
            raise_if_refused(self.folder / entry.shard, error)
            reason = str(getattr(error, "strerror", None) or error) or type(error).__name__
            raise self._damaged(entry, reason.splitlines()[0]) from error

    def _damaged(self, entry: ManifestEntry, why: str) -> InputRefused:
        return InputRefused(
            f"The result shard {clip(entry.shard)} of {self.folder} cannot be used: {clip(why, 300).rstrip('.')}.",
            wanted="unchanged results of a run",
            next_step=f"run `oodscreen forget {shlex.quote(str(self.folder))} --damaged`, then repeat the "
            "`oodscreen run`, which scores the shard again if its input still exists",
        )


_VALUE = r"([A-Za-z_]\w*) (?:-?[0-9.][0-9.eE+-]*|-?inf|nan)"
"""Regular expression of a score and its value in `flag_reason`, for example `entropy 0.71`."""


def _select(batch: pa.RecordBatch, columns: Sequence[str]) -> pa.Table:
    """The named columns; where `flag_reasons` is not stored (format 1), it is derived from `flag_reason`.

    A score that the format of the file lacks is null.
    """
    table = pa.Table.from_batches([batch])
    if "flag_reasons" in columns and "flag_reasons" not in table.column_names:
        conditions = pc.replace_substring_regex(table["flag_reason"], _VALUE, r"\1")
        table = table.append_column("flag_reasons", pc.split_pattern(conditions, "; "))
    return add_missing_scores(table, columns).select(list(columns))


def add_missing_scores(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The table with an additional null column for each score in `columns` that the format of the results lacks."""
    for column in SCORES_OF_ALL_FORMATS:
        if column.name in columns and column.name not in table.column_names:
            table = table.append_column(column.name, pa.nulls(len(table), column.type))
    return table


def open_results(source: str) -> Results:
    """The results in the OUTPUT folder of a run.

    Raises:
        InputRefused: the source contains no readable manifest, or the last run did not finish.
        OutputLocked: a run is writing the results.
    """
    folder = as_path(source)
    wanted = "the OUTPUT folder of an `oodscreen run`"
    if not folder.is_dir():
        found = f"RESULTS {source} is a file." if folder.exists() else f"RESULTS {source} does not exist."
        raise InputRefused(found, wanted=wanted, next_step="check the path, or score the rows with `oodscreen run`")
    try:
        manifest = ManifestFile.read(folder)
    except OutputRefused as error:
        step = "repeat the `oodscreen run` with --force"
        raise InputRefused(error.found, wanted="undamaged results", next_step=step) from error
    if manifest is None:
        raise InputRefused(f"{source} contains no {MANIFEST_NAME}.", wanted=wanted, next_step=_suggest(folder))
    entries = _in_order(manifest)
    done = f"{len(entries)} shard(s) with {sum(entry.rows for entry in entries)} rows are finished so far"
    try:
        refuse_if_held(folder)
    except OutputLocked as error:
        raise OutputLocked(f"{error.found} {done}.", wanted=error.wanted, next_step=error.next_step) from error
    if not manifest.finished:
        raise InputRefused(
            f"The last run in {source} did not finish: {done}.",
            wanted="results of a finished run",
            next_step="start the same `oodscreen run` again, which skips finished shards",
        )
    missing = [name for name in _REQUIRED_SETTINGS if name not in manifest.header]
    if missing:
        raise InputRefused(
            f"The manifest of {source} does not record {', '.join(missing)}.",
            wanted="results of this version of oodscreen",
            next_step="repeat the `oodscreen run` with --force",
        )
    record = RunRecord.read(folder, str(manifest.header["configuration"]))
    return Results(folder, clip(base_name(folder) or folder.resolve().name), dict(manifest.header), entries, record)


def _in_order(manifest: ManifestFile) -> tuple[ManifestEntry, ...]:
    return tuple(manifest.entries[name] for name in sorted(manifest.entries))


def _suggest(output: Path) -> str:
    """The next step for a folder without a manifest: give a subfolder that has a manifest, or check the path."""
    if is_local(output):
        deeper = sorted(str(path.parent) for path in output.glob(f"*/{MANIFEST_NAME}"))
        if deeper:
            return f"give one of {', '.join(deeper[:3])}{', ...' if len(deeper) > 3 else ''}"
    return "check the path, or score the rows with `oodscreen run`"
