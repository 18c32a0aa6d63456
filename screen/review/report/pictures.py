"""Read the images of result rows from the input shards, and make thumbnails of a limited total size.

In: rows of results. Out: for each row a `Preview`, or the reason why there is no preview. Images of a shard are used
only if the shard is unchanged since it was scored (`find_source`), and if its row ids equal those in the results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa

from export.errors import OodscreenError
from screen.files.paths import name_place
from screen.input.preview import Picture, Preview, PreviewLimits, make_preview, open_pictures
from screen.input.rows import read_chosen_rows
from screen.output.manifest_file import ManifestEntry
from screen.review.results import Results
from screen.review.sources import SourceMismatch, SourceMissing, find_source, first_line
from screen.review.text import clip

CARD_SIDE, SIMILAR_SIDE = 320, 96
"""Maximum width and height in pixels of the thumbnail of a card, and of the thumbnail of a similar image."""

_CARD_BYTES, _SIMILAR_BYTES = 3 * 2**20, 2**20
"""Maximum total size of the thumbnails of the cards, and of the similar images, in bytes; base64 encoding on the page
increases the size by a third."""

_MAX_NOTES = 5

Made = TypeVar("Made")


class InputImages:
    """Reads the images of result rows, shard by shard.

    Args:
        results: results that the rows belong to.
        moved_to: current location of the input shards; None if they were not moved.
        side: minimum width and height in pixels of a JPEG that is decoded at a reduced resolution.
    """

    def __init__(self, results: Results, moved_to: str | None, side: int) -> None:
        self._moved_to = moved_to
        self._columns = results.columns
        shape = None if results.record is None else results.record.image_shape
        self._limits = PreviewLimits(side, results.max_pixels, results.image_root, shape)
        self._problems: list[str] = []
        self._is_missing = False

    def read(
        self, entry: ManifestEntry, rows: Sequence[int], ids: Sequence[str], make: Sequence[Callable[[Picture], Made]]
    ) -> list[Made | str]:
        """For each row, the result of its function in `make` for its picture, or the reason why there is no picture.

        Args:
            entry: manifest entry of the shard.
            rows: positions in the shard, ascending.
            ids: ids of these rows in the results.
            make: for each row, the function to call with its picture.
        """
        try:
            shard = find_source(entry, self._columns, self._moved_to)
        except SourceMismatch as problem:
            self._is_missing |= isinstance(problem, SourceMissing)
            return self._give_up(entry, str(problem), len(rows))
        found: list[Made | str] = []
        try:
            for batch in read_chosen_rows(shard, self._columns, np.asarray(rows, np.int64)):
                if batch.ids != tuple(ids[len(found) : len(found) + batch.count]):
                    return self._give_up(entry, "has different row ids than the results", len(rows))
                for one in open_pictures(batch, self._limits):
                    found.append(clip(one, 200) if isinstance(one, str) else make[len(found)](one))
        except (OodscreenError, OSError, pa.ArrowException) as error:
            return self._give_up(entry, f"cannot be read ({first_line(error)})", len(rows))
        if not shard.is_unchanged():
            return self._give_up(entry, "changed while it was read", len(rows))
        return found

    def notes(self) -> list[str]:
        """Reasons for missing images, one sentence each."""
        notes = self._problems[:_MAX_NOTES]
        if len(self._problems) > _MAX_NOTES:
            notes.append(f"{len(self._problems) - _MAX_NOTES} more input shards have no thumbnails.")
        if self._is_missing:
            wrong = "" if self._moved_to is None else f"; {clip(name_place(self._moved_to), 200)} does not contain them"
            notes.append(f"If the input shards were moved, give their current folder with --input{wrong}.")
        return notes

    def _give_up(self, entry: ManifestEntry, problem: str, rows: int) -> list[Made | str]:
        place = clip(f"{name_place(self._moved_to or entry.root)}/{entry.shard}", 200)
        self._problems.append(f"{place} {problem}: no thumbnails of {rows} rows.")
        return [f"the input shard {problem}"] * rows


class Thumbnails:
    """Makes thumbnails up to a maximum total size; all thumbnails have equal shares of this size.

    Args:
        images: number of thumbnails to make.
        side: maximum width and height in pixels.
        max_bytes: maximum total size in bytes.
    """

    def __init__(self, images: int, side: int, max_bytes: int) -> None:
        self._side, self._bytes_left = side, max_bytes
        self._share = max_bytes // max(images, 1)
        self.left_out = 0

    @classmethod
    def of_cards(cls, images: int) -> Thumbnails:
        """Thumbnails of cards."""
        return cls(images, CARD_SIDE, _CARD_BYTES)

    @classmethod
    def of_similar(cls, images: int) -> Thumbnails:
        """Thumbnails of images that are similar to a card."""
        return cls(images, SIMILAR_SIDE, _SIMILAR_BYTES)

    def make(self, picture: Picture) -> Preview | str:
        """The thumbnail of a picture, or the reason why the thumbnail is left out."""
        preview = make_preview(picture, self._side, self._share)
        if len(preview.data) > self._bytes_left:
            self.left_out += 1
            return "left out to limit the size of the page"
        self._bytes_left -= len(preview.data)
        return preview
