"""Find the pictures of result rows in the input shards, and never another image.

In: rows of results. Out: for each a `Preview`, or why there is none. A shard is opened only if its fingerprint is the
one that was scored, and a row is shown only if its key is the one in the results.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from export.errors import OodscreenError
from screen.input.preview import Preview, PreviewLimits, preview_rows
from screen.input.rows import read_chosen_rows
from screen.output.manifest_file import ManifestEntry
from screen.review.results import Results
from screen.review.sources import NotAsScored, NotThere, find_source, first_line
from screen.review.text import clip

_SIDE = 96
"""Of a picture, in pixels."""

_MOST_BYTES = 4 * 2**20
"""Of all pictures together: what is on the page as base64 is a third more."""

_MOST_NOTES = 5


class PictureFinder:
    """Finds pictures, shard by shard, until they are too many bytes.

    Args:
        results: whose rows.
        moved_to: where the input shards are now; None: where they were.
    """

    def __init__(self, results: Results, moved_to: str | None) -> None:
        self._moved_to = moved_to
        self._columns = results.columns
        shape = None if results.record is None else results.record.image_shape
        self._limits = PreviewLimits(_SIDE, results.max_pixels, results.image_root, shape)
        self._room = _MOST_BYTES
        self._without = 0
        self._problems: list[str] = []
        self._is_gone = False

    def find(self, entry: ManifestEntry, rows: Sequence[int], ids: Sequence[str]) -> list[Preview | str]:
        """Pictures of some rows of one shard.

        Args:
            entry: the shard.
            rows: positions in it, ascending.
            ids: the keys that the results have for them.
        """
        try:
            shard = find_source(entry, self._columns, self._moved_to)
        except NotAsScored as problem:
            self._is_gone |= isinstance(problem, NotThere)
            return self._give_up(entry, str(problem), len(rows))
        found: list[Preview | str] = []
        try:
            for batch in read_chosen_rows(shard, self._columns, np.asarray(rows, np.int64)):
                found += preview_rows(batch, self._limits)
                if batch.ids != tuple(ids[len(found) - batch.count : len(found)]):
                    return self._give_up(entry, "has other keys than the results", len(rows))
        except (OodscreenError, OSError, pa.ArrowException) as error:
            return self._give_up(entry, f"cannot be read ({first_line(error)})", len(rows))
        if not shard.is_unchanged():  # while it was read
            return self._give_up(entry, "is being written to", len(rows))
        return [self._fit(one) for one in found]

    def notes(self) -> tuple[str, ...]:
        """Why pictures are missing, one sentence each."""
        told = self._problems[:_MOST_NOTES]
        if len(self._problems) > _MOST_NOTES:
            told.append(f"and {len(self._problems) - _MOST_NOTES} more shards without pictures.")
        if self._is_gone:
            wrong = "" if self._moved_to is None else f", which is not {clip(self._moved_to, 200)}"
            told.append(f"If the input shards were moved, name the folder where they are now by --input{wrong}.")
        if self._without:
            told.append(
                f"{self._without} pictures were left out: all together they would have made the page too large."
            )
        return tuple(told)

    def _give_up(self, entry: ManifestEntry, problem: str, rows: int) -> list[Preview | str]:
        self._problems.append(
            f"{clip(f'{self._moved_to or entry.root}/{entry.shard}', 200)} {problem}: no pictures of {rows} rows."
        )
        return [f"the input shard {problem}"] * rows

    def _fit(self, one: Preview | str) -> Preview | str:
        if isinstance(one, str):
            return clip(one, 200)
        if len(one.data) > self._room:
            self._without += 1
            return "left out, to keep the page small"
        self._room -= len(one.data)
        return one
