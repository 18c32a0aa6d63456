"""Make thumbnails of result rows from the images in the input shards.

In: rows of results. Out: for each row a `Preview`, or the reason why there is no thumbnail. A shard is read only if it
is unchanged since it was scored (`find_source`), and only if the keys of its rows equal those in the results.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from export.errors import OodscreenError
from screen.files.paths import name_place
from screen.input.preview import Preview, PreviewLimits, preview_rows
from screen.input.rows import read_chosen_rows
from screen.output.manifest_file import ManifestEntry
from screen.review.results import Results
from screen.review.sources import SourceMismatch, SourceMissing, find_source, first_line
from screen.review.text import clip

_SIDE = 96
"""Maximum width and height of a thumbnail, in pixels."""

_MAX_BYTES = 4 * 2**20
"""Maximum total size of the thumbnails, in bytes; base64 encoding on the page increases the size by a third."""

_MAX_NOTES = 5


class PictureFinder:
    """Makes thumbnails shard by shard, up to a maximum total size.

    Args:
        results: results that the rows belong to.
        moved_to: current location of the input shards; None if they were not moved.
    """

    def __init__(self, results: Results, moved_to: str | None) -> None:
        self._moved_to = moved_to
        self._columns = results.columns
        shape = None if results.record is None else results.record.image_shape
        self._limits = PreviewLimits(_SIDE, results.max_pixels, results.image_root, shape)
        self._bytes_left = _MAX_BYTES
        self._left_out = 0
        self._problems: list[str] = []
        self._is_missing = False

    def find(self, entry: ManifestEntry, rows: Sequence[int], ids: Sequence[str]) -> list[Preview | str]:
        """For each of some rows of one shard, the thumbnail, or the reason why there is none.

        Args:
            entry: manifest entry of the shard.
            rows: positions in the shard, ascending.
            ids: keys of these rows in the results.
        """
        try:
            shard = find_source(entry, self._columns, self._moved_to)
        except SourceMismatch as problem:
            self._is_missing |= isinstance(problem, SourceMissing)
            return self._give_up(entry, str(problem), len(rows))
        found: list[Preview | str] = []
        try:
            for batch in read_chosen_rows(shard, self._columns, np.asarray(rows, np.int64)):
                found += preview_rows(batch, self._limits)
                if batch.ids != tuple(ids[len(found) - batch.count : len(found)]):
                    return self._give_up(entry, "has different row ids than the results", len(rows))
        except (OodscreenError, OSError, pa.ArrowException) as error:
            return self._give_up(entry, f"cannot be read ({first_line(error)})", len(rows))
        if not shard.is_unchanged():
            return self._give_up(entry, "changed while it was read", len(rows))
        return [self._fit(one) for one in found]

    def notes(self) -> tuple[str, ...]:
        """Reasons for missing thumbnails, one sentence each."""
        notes = self._problems[:_MAX_NOTES]
        if len(self._problems) > _MAX_NOTES:
            notes.append(f"{len(self._problems) - _MAX_NOTES} more input shards have no thumbnails.")
        if self._is_missing:
            wrong = "" if self._moved_to is None else f"; {clip(name_place(self._moved_to), 200)} does not contain them"
            notes.append(f"If the input shards were moved, give their current folder with --input{wrong}.")
        if self._left_out:
            notes.append(f"{self._left_out} thumbnails were left out to limit the size of the page.")
        return tuple(notes)

    def _give_up(self, entry: ManifestEntry, problem: str, rows: int) -> list[Preview | str]:
        place = clip(f"{name_place(self._moved_to or entry.root)}/{entry.shard}", 200)
        self._problems.append(f"{place} {problem}: no thumbnails of {rows} rows.")
        return [f"the input shard {problem}"] * rows

    def _fit(self, one: Preview | str) -> Preview | str:
        if isinstance(one, str):
            return clip(one, 200)
        if len(one.data) > self._bytes_left:
            self._left_out += 1
            return "left out to limit the size of the page"
        self._bytes_left -= len(one.data)
        return one
