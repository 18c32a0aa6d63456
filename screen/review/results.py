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
import pyarrow.parquet as pq

from export.errors import InputRefused, OutputLocked, OutputRefused
from screen.output.lock import refuse_if_held
from screen.output.manifest_file import MANIFEST_NAME, ManifestEntry, ManifestFile
from screen.output.record import RunRecord
from screen.places import as_place, open_parquet
from screen.review.findings import Settings, clip

_BATCH_ROWS = 65_536
_FEW_ROWS = 1024
"""Rows that are read together where lists are read too, which may be long."""


@dataclass(frozen=True)
class Results:
    """The results of one run that came to its end.

    Attributes:
        place: their folder.
        name: how the page calls them.
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
        """What decided the results."""
        told = self.identity
        return Settings(
            model=str(told["model"]),
            passes=int(told["passes"]),
            seed=int(told["seed"]),
            masks=str(told["masks"]),
            rule=clip(str(told["flag_if"]), 300),
            calibration=told["calibration"],
            adaptive=bool(told["adaptive"]),
        )

    def batches(self, entry: ManifestEntry, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of a shard, batch by batch.

        Raises:
            InputRefused: the shard is not the one that was written.
        """
        rows = 0
        with self._open(entry) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns)):
                rows += batch.num_rows
                yield pa.Table.from_batches([batch]).select(list(columns))
        if rows != entry.rows:
            raise self._not_whole(entry, f"it has {rows} rows, and {entry.rows} were written")

    def take(self, entry: ManifestEntry, rows: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """Some columns of some rows of a shard.

        Args:
            entry: the shard.
            rows: positions, ascending.
            columns: what to read.

        Raises:
            InputRefused: the shard is not the one that was written.
        """
        found = []
        wanted = np.asarray(rows)
        with self._open(entry) as file:
            sizes = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
            ends = np.cumsum(sizes)
            for group in np.unique(np.searchsorted(ends, wanted, side="right")).tolist():
                start = int(ends[group]) - sizes[group]
                for batch in file.iter_batches(_FEW_ROWS, row_groups=[group], columns=list(columns)):
                    here = wanted[(wanted >= start) & (wanted < start + batch.num_rows)] - start
                    if len(here):
                        found.append(pa.Table.from_batches([batch]).select(list(columns)).take(pa.array(here)))
                    start += batch.num_rows
        return pa.concat_tables(found)

    @contextmanager
    def _open(self, entry: ManifestEntry) -> Iterator[pq.ParquetFile]:
        path = self.place / entry.shard
        try:
            size = path.stat().st_size
            if size != entry.size:
                raise self._not_whole(entry, f"it has {size} bytes, and {entry.size} were written")
            with open_parquet(path) as file:
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


def open_results(source: str) -> Results:
    """Open the OUTPUT of a run.

    Raises:
        InputRefused: there are none, or the run that writes them did not come to its end.
        OutputLocked: a run writes them now.
        OutputRefused: the manifest cannot be read.
    """
    place = as_place(source)
    next_step = "give the OUTPUT of an `oodscreen run`"
    if not place.is_dir():
        what = "is a file" if place.exists() else "does not exist"
        raise InputRefused(f"RESULTS {source} {what}.", wanted="the folder of a run's results", next_step=next_step)
    try:
        manifest = ManifestFile.read(place)
    except OutputRefused as error:
        raise InputRefused(error.found, wanted="results that are whole", next_step="run again with --force") from error
    if manifest is None:
        raise InputRefused(
            f"{source} holds no {MANIFEST_NAME}.", wanted="the folder of a run's results", next_step=next_step
        )
    entries = tuple(manifest.entries[name] for name in sorted(manifest.entries))
    done = f"{len(entries)} shard(s) with {sum(entry.rows for entry in entries)} rows are finished so far"
    try:
        refuse_if_held(place)
    except OutputLocked as error:
        raise OutputLocked(f"{error.found} {done}.", wanted=error.wanted, next_step=error.next_step) from error
    if not manifest.finished:
        raise InputRefused(
            f"The results in {source} are not all there: {done}, and the run did not come to its end.",
            wanted="results of a run that did",
            next_step="start that run again; it goes on where it stopped",
        )
    missing = {"model", "passes", "seed", "masks", "flag_if", "calibration", "adaptive"} - manifest.header.keys()
    if missing:
        raise InputRefused(
            f"The manifest of {source} does not say {', '.join(sorted(missing))}.",
            wanted="results of this version of oodscreen",
            next_step="run again with --force",
        )
    identity = {key: value for key, value in manifest.header.items() if key != "configuration"}
    record = RunRecord.read(place, str(manifest.header.get("configuration")))
    name = place.name or place.resolve().name
    return Results(place, clip(name), identity, entries, record)
