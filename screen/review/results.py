"""Open the results of a run, and be sure that they are whole before anything is said of them.

In: RESULTS. Out: a `Results`, whose shards are read in batches or row by row.
"""

from __future__ import annotations

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
from screen.columns import columns_of_format
from screen.files.paths import as_path, is_local, open_parquet
from screen.input.mapping import ColumnMapping
from screen.output.lock import refuse_if_held
from screen.output.manifest_file import MANIFEST_NAME, ManifestEntry, ManifestFile
from screen.output.record import RunRecord
from screen.review.text import clip

_BATCH_ROWS = 8192
_FEW_ROWS = 1024
"""Rows that are read together where lists are read too, which may be long."""

_TOLD = ("configuration", "model", "passes", "seed", "masks", "flag_if", "calibration", "adaptive", "image_column",
         "id_column", "image_root", "max_pixels", "result_format")  # fmt: skip
"""What a manifest says of how the results were made."""


@dataclass(frozen=True)
class Settings:
    """What decided the results.

    Attributes:
        model: SHA-256 of the exported file.
        passes: T.
        seed: of the masks.
        masks: `shared` or `per-row`.
        rule: when a row is flagged.
        calibration: SHA-256 of the calibration; None without one.
        adaptive: whether passes stop where a decision is settled.
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
    """A row of the results.

    Attributes:
        shard: index of the result shard.
        row: position in it.
    """

    shard: int
    row: int


@dataclass(frozen=True)
class Results:
    """The results of one run that came to its end.

    Attributes:
        place: their folder.
        name: how a page calls them.
        identity: what decided them, as in the manifest.
        entries: the result shards, in the order of their names.
        record: what the last run was like; None where that was not recorded.
    """

    place: Path
    name: str
    identity: dict[str, Any]
    entries: tuple[ManifestEntry, ...]
    record: RunRecord | None

    @property
    def settings(self) -> Settings:
        """What decided the results, for people."""
        told = self.identity
        return Settings(
            model=str(told["model"]),
            passes=int(told["passes"]),
            seed=int(told["seed"]),
            masks=str(told["masks"]),
            rule=clip(self.rule, 300),
            calibration=told["calibration"],
            adaptive=bool(told["adaptive"]),
        )

    @property
    def rule(self) -> str:
        """When a row was flagged."""
        return str(self.identity["flag_if"])

    @property
    def calibrated(self) -> bool:
        """Whether a calibration filled `ood_score` and `p_value`."""
        return self.identity["calibration"] is not None

    @property
    def model(self) -> str:
        """Digest of the model."""
        return str(self.identity["model"])

    @property
    def model_version(self) -> str:
        """Model and configuration in a word: other passes of the same model predict otherwise."""
        return f"{self.model[:12]}-{str(self.identity['configuration'])[:8]}"

    @property
    def columns(self) -> ColumnMapping:
        """What to read of the input for people: images and keys."""
        return ColumnMapping(str(self.identity["image_column"]), self.identity["id_column"], (), pa.schema([]))

    @property
    def image_root(self) -> Path | None:
        """Where paths of images were looked up; None where they were not followed."""
        root = self.identity["image_root"]
        return None if root is None else Path(root).resolve()

    @property
    def max_pixels(self) -> int:
        """Images with more were not decoded."""
        return int(self.identity["max_pixels"])

    @property
    def rows(self) -> int:
        """Rows in all."""
        return sum(entry.rows for entry in self.entries)

    @property
    def flagged(self) -> int:
        """Flagged rows in all."""
        return sum(entry.flagged for entry in self.entries)

    def batches(self, entry: ManifestEntry, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of a shard, batch by batch.

        Raises:
            InputRefused: the shard is not the one that was written.
        """
        stored = self._stored(columns)
        with self._open(entry) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=stored):
                yield _select(batch, columns)

    def take(self, entry: ManifestEntry, rows: Sequence[int] | NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """Some columns of some rows of a shard; only the row groups in which they lie are read.

        Args:
            entry: the shard.
            rows: positions, ascending.
            columns: what to read.

        Raises:
            InputRefused: the shard is not the one that was written.
        """
        found = []
        wanted, stored = np.asarray(rows), self._stored(columns)
        with self._open(entry) as file:
            sizes = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
            ends = np.cumsum(sizes)
            for group in np.unique(np.searchsorted(ends, wanted, side="right")).tolist():
                start = int(ends[group]) - sizes[group]
                for batch in file.iter_batches(_FEW_ROWS, row_groups=[group], columns=stored):
                    here = wanted[(wanted >= start) & (wanted < start + batch.num_rows)] - start
                    if len(here):
                        found.append(_select(batch.take(pa.array(here)), columns))
                    start += batch.num_rows
        return pa.concat_tables(found)

    @property
    def _format(self) -> int:
        return int(self.identity["result_format"])

    def _stored(self, columns: Sequence[str]) -> list[str]:
        """The columns to read from a file: format 1 has the reasons of a flag in `flag_reason` alone."""
        renamed = {"flag_reasons": "flag_reason"} if self._format == 1 else {}
        return list(dict.fromkeys(renamed.get(name, name) for name in columns))

    def refuse_if_changed(self) -> None:
        """Go on only if the manifest still is the one that was read.

        Raises:
            InputChanged: a run wrote to these results meanwhile.
        """
        now = ManifestFile.read(self.place)
        if now is None or _in_order(now) != self.entries:
            raise InputChanged(
                f"{self.place} changed while it was read.",
                wanted="results that stay as they are while they are read",
                next_step="run again when no run writes to them",
            )

    @contextmanager
    def _open(self, entry: ManifestEntry) -> Iterator[pq.ParquetFile]:
        path = self.place / entry.shard
        try:
            size = path.stat().st_size
            if size != entry.size:
                raise self._not_whole(entry, f"it has {size} bytes, and {entry.size} were written")
            with open_parquet(path) as file:
                names = [column.name for column in columns_of_format(self._format)]
                missing = [name for name in names if name not in file.schema_arrow.names]
                if missing or file.metadata.num_rows != entry.rows:
                    why = f"no column {missing[0]}" if missing else f"{file.metadata.num_rows} rows"
                    raise self._not_whole(entry, f"it has {why}, and was written otherwise")
                yield file
        except (OSError, pa.ArrowException, KeyError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise self._not_whole(entry, reason) from error

    def _not_whole(self, entry: ManifestEntry, why: str) -> InputRefused:
        return InputRefused(
            f"The result shard {clip(entry.shard)} of {self.place} cannot be used: {clip(why, 300)}.",
            wanted="results as a run wrote them",
            next_step="see what `oodscreen check` finds, remove that file and run again",
        )


_VALUE = r"([A-Za-z_]\w*) (?:-?[0-9.][0-9.eE+-]*|-?inf|nan)"
"""A score with the row's value, in a `flag_reason`."""


def _select(batch: pa.RecordBatch, columns: Sequence[str]) -> pa.Table:
    """The named columns; where `flag_reasons` is not stored (format 1), it is derived from `flag_reason`."""
    table = pa.Table.from_batches([batch])
    if "flag_reasons" in columns and "flag_reasons" not in table.column_names:
        conditions = pc.replace_substring_regex(table["flag_reason"], _VALUE, r"\1")
        table = table.append_column("flag_reasons", pc.split_pattern(conditions, "; "))
    return table.select(list(columns))


def open_results(source: str) -> Results:
    """Open the OUTPUT of a run.

    Raises:
        InputRefused: there are none, or the run that writes them did not come to its end.
        OutputLocked: a run writes them now.
    """
    place = as_path(source)
    wanted = "the OUTPUT of an `oodscreen run`"
    if not place.is_dir():
        what = f"RESULTS {source} is a file." if place.exists() else f"There is no {source}."
        raise InputRefused(what, wanted=wanted, next_step="check the path, or run the model over these rows first")
    try:
        manifest = ManifestFile.read(place)
    except OutputRefused as error:
        raise InputRefused(error.found, wanted="results that are whole", next_step="run again with --force") from error
    if manifest is None:
        raise InputRefused(f"{source} holds no {MANIFEST_NAME}.", wanted=wanted, next_step=_suggest(place))
    entries = _in_order(manifest)
    done = f"{len(entries)} shard(s) with {sum(entry.rows for entry in entries)} rows are finished so far"
    try:
        refuse_if_held(place)
    except OutputLocked as error:
        raise OutputLocked(f"{error.found} {done}.", wanted=error.wanted, next_step=error.next_step) from error
    if not manifest.finished:
        raise InputRefused(
            f"The last run in {source} did not come to its end: {done}.",
            wanted="results of a run that is through",
            next_step="start the same `oodscreen run` again: it goes on behind the finished shards",
        )
    missing = [name for name in _TOLD if name not in manifest.header]
    if missing:
        raise InputRefused(
            f"The manifest of {source} does not say {', '.join(missing)}.",
            wanted="results of this version of oodscreen",
            next_step="run again with --force",
        )
    record = RunRecord.read(place, str(manifest.header["configuration"]))
    return Results(place, clip(place.name or place.resolve().name), dict(manifest.header), entries, record)


def _in_order(manifest: ManifestFile) -> tuple[ManifestEntry, ...]:
    return tuple(manifest.entries[name] for name in sorted(manifest.entries))


def _suggest(output: Path) -> str:
    """What to do where there is no manifest: often it lies one folder deeper."""
    if is_local(output):
        deeper = sorted(str(path.parent) for path in output.glob(f"*/{MANIFEST_NAME}"))
        if deeper:
            return f"give one of {', '.join(deeper[:3])}{', ...' if len(deeper) > 3 else ''}"
    return "check the path, or run the model over these rows first"
