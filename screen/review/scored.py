"""Finished results, as reviewers read them: what a run wrote, whole and not being written.

In: RESULTS. Out: `ScoredResults`, and tables of the columns asked for, shard by shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from export.errors import InputChanged, InputRefused
from screen.columns import COLUMNS
from screen.output.lock import refuse_if_held
from screen.output.manifest_file import MANIFEST_NAME, ManifestEntry, ManifestFile
from screen.places import as_place, is_local, open_parquet

_BATCH_ROWS = 8192


@dataclass(frozen=True)
class ScoredResults:
    """The results of a run that came to its end.

    Attributes:
        output: their folder.
        entries: the finished shards, in the order of their names.
        configuration: fingerprint of what decided the results.
        model: digest of the model.
        rule: when a row was flagged.
        calibrated: whether a calibration filled `ood_score` and `p_value`.
        image_column: column of the input with the images.
        id_column: column of the input with the keys; None: `id`, where there is one.
        image_root: where paths were looked up; None where they were not followed.
        max_pixels: images with more were not decoded.
    """

    output: Path
    entries: tuple[ManifestEntry, ...]
    configuration: str
    model: str
    rule: str
    calibrated: bool
    image_column: str
    id_column: str | None
    image_root: str | None
    max_pixels: int

    @property
    def rows(self) -> int:
        """Rows in all."""
        return sum(entry.rows for entry in self.entries)

    @property
    def flagged(self) -> int:
        """Flagged rows in all."""
        return sum(entry.flagged for entry in self.entries)

    @property
    def model_version(self) -> str:
        """Model and configuration in a word: other passes of the same model predict otherwise."""
        return f"{self.model[:12]}-{self.configuration[:8]}"

    def tables(self, entry: ManifestEntry, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of one shard, in tables of a few thousand rows.

        Raises:
            InputRefused: the result is not what the manifest says.
        """
        yield from (pa.Table.from_batches([batch]) for batch in self._batches(entry, columns, None))

    def rows_at(self, entry: ManifestEntry, columns: Sequence[str], places: NDArray[np.int64]) -> pa.Table:
        """Some rows of one shard; only the row groups in which they lie are read.

        Args:
            entry: the shard.
            columns: which columns.
            places: positions in the shard, ascending.

        Raises:
            InputRefused: the result is not what the manifest says.
        """
        found = []
        start = 0
        for batch in self._batches(entry, columns, places):
            if isinstance(batch, int):
                start += batch
                continue
            here = places[(places >= start) & (places < start + len(batch))] - start
            found.append(pa.Table.from_batches([batch]).take(pa.array(here)))
            start += len(batch)
        return pa.concat_tables(found)

    def refuse_if_changed(self) -> None:
        """Go on only if the manifest still is the one that was read.

        Raises:
            InputChanged: a run wrote to these results meanwhile.
        """
        now = ManifestFile.read(self.output)
        if now is None or tuple(now.entries[name] for name in sorted(now.entries)) != self.entries:
            raise InputChanged(
                f"{self.output} changed while it was read.",
                wanted="results that stay as they are while they are read",
                next_step="run again when no run writes to them",
            )

    def _batches(self, entry: ManifestEntry, columns: Sequence[str], places: NDArray[np.int64] | None) -> Iterator[Any]:
        """Record batches; where places are given, the number of rows in place of a row group without any of them."""
        path = self.output / entry.shard
        try:
            with open_parquet(path) as file:
                missing = [column.name for column in COLUMNS if column.name not in file.schema_arrow.names]
                if missing or file.metadata.num_rows != entry.rows:
                    raise _not_as_said(path, f"lacks {missing[0]}" if missing else f"has {file.metadata.num_rows} rows")
                start = 0
                for group in range(file.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    if places is None or bool(np.any((places >= start) & (places < start + rows))):
                        yield from file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=list(columns))
                    else:
                        yield rows
                    start += rows
        except (OSError, pa.ArrowException) as error:
            raise _not_as_said(path, str(error).splitlines()[0] if str(error) else type(error).__name__) from error


def open_results(source: str) -> ScoredResults:
    """Open RESULTS.

    Raises:
        InputRefused: there are none, or the run did not come to its end.
        OutputLocked: a run is writing to them.
        OutputRefused: the manifest cannot be read.
    """
    output = as_place(source)
    refuse_if_held(output)
    manifest = ManifestFile.read(output)
    if manifest is None:
        raise InputRefused(
            f"{source} holds no {MANIFEST_NAME}." if output.exists() else f"There is no {source}.",
            wanted="the OUTPUT of an `oodscreen run`",
            next_step=_suggest(output),
        )
    if not manifest.finished:
        raise InputRefused(
            f"The last run in {source} did not come to its end.",
            wanted="results of a run that is through",
            next_step="start the same `oodscreen run` again: it goes on behind the finished shards",
        )
    header = manifest.header
    try:
        return ScoredResults(
            output=output,
            entries=tuple(manifest.entries[name] for name in sorted(manifest.entries)),
            configuration=str(header["configuration"]),
            model=str(header["model"]),
            rule=str(header["flag_if"]),
            calibrated=header["calibration"] is not None,
            image_column=str(header["image_column"]),
            id_column=header["id_column"],
            image_root=header["image_root"],
            max_pixels=int(header["max_pixels"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _not_as_said(output / MANIFEST_NAME, f"has no usable {error}") from error


def _suggest(output: Path) -> str:
    """What to do where there is no manifest: often it lies one folder deeper."""
    if is_local(output) and output.is_dir():
        deeper = sorted(str(path.parent) for path in output.glob(f"*/{MANIFEST_NAME}"))
        if deeper:
            return f"give one of {', '.join(deeper[:3])}{', ...' if len(deeper) > 3 else ''}"
    return "check the path, or run the model over these rows first"


def _not_as_said(path: Path, what: str) -> InputRefused:
    return InputRefused(
        f"{path} is not the result that the manifest names: it {what}.",
        wanted="results as `oodscreen run` wrote them",
        next_step="`oodscreen check` says what is wrong; remove the file and run again",
    )
