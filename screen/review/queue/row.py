"""A row of a review queue, and the columns of a queue.

In: a row of the results with its image. Out: a `QueueRow`, and the Arrow schema of a queue.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from screen.columns import DECISION, IDENTITY, SCORES_OF_ALL_FORMATS, Column
from screen.input.parquet.value_text import as_json_values

ADDED_COLUMNS = (
    Column(
        "rank",
        pa.int64(),
        "",
        "1 and up",
        "Position in the order of review: 1 is the most suspicious; audit rows come last.",
    ),
    Column("key", pa.string(), "", "", "SHA-256 of the image's bytes; identical images have the same key."),
    Column("source", pa.string(), "", "", "`flagged`, or `audit` for the random sample of unflagged rows."),
    Column(
        "suspicion", pa.float64(), "", "any", "The score that orders the queue, negated if low values are suspicious."
    ),
    Column("predicted", pa.string(), "", "", "Name of the predicted class; several labels are joined by `, `."),
    Column("model_version", pa.string(), "", "", "Short digests of the model and of the run's configuration."),
    Column(
        "input_footer",
        pa.string(),
        "",
        "",
        "Digest of the input shard's footer; identifies the version of the shard.",
    ),
)
"""Columns that a queue adds to the columns of the results."""

QUEUE_COLUMNS = (*ADDED_COLUMNS, *IDENTITY, *SCORES_OF_ALL_FORMATS, *DECISION)
RESULT_COLUMNS = tuple(column.name for column in (*IDENTITY, *SCORES_OF_ALL_FORMATS, *DECISION))

IMAGE_FIELD = pa.field(
    "image",
    pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    metadata={"description": "The image from the input, in the Hugging Face layout."},
)

IMAGE_PATH = Column(
    "image_path", pa.string(), "", "", "Path of the image in the input; null if the input contains only the bytes."
)
"""Column of a CSV queue in place of `image`."""

_ADDED_BY_REVIEWERS = ("label", "annotator")
_ADDED_BY_FORMATS = ("image", IMAGE_PATH.name, "file_name", "oodscreen_key", "reason")
_TAKEN = frozenset([*(column.name for column in QUEUE_COLUMNS), *_ADDED_BY_FORMATS, *_ADDED_BY_REVIEWERS])
_PREFIX = "input_"


def name_kept(names: Iterable[str]) -> list[str]:
    """The names of the copied input columns in a queue.

    A name that a queue has for another column, in any format, gets the prefix `input_`. The names `label` and
    `annotator` get the prefix too, so that labels of the input are never mistaken for labels of an annotator.
    """
    kept: list[str] = []
    for name in names:
        while name in _TAKEN or name in kept:
            name = _PREFIX + name
        kept.append(name)
    return kept


@dataclass(frozen=True)
class QueuedImage:
    """An image for export.

    Attributes:
        data: bytes of the image file from the input; a PNG file if the input contains raw pixels.
        path: path of the image in the input; None if the input has no path.
        suffix: file extension of the format, with the dot.
        media_type: media type of the format.
    """

    data: bytes
    path: str | None
    suffix: str
    media_type: str


@dataclass(frozen=True)
class QueueRow:
    """A row of a queue.

    Attributes:
        rank: position in the queue, from 1.
        key: SHA-256 of the image's bytes, in hexadecimal.
        source: `flagged` or `audit`.
        suspicion: the score that orders the queue, negated if low values are suspicious; None if the score is null.
        predicted: names of the predicted classes.
        model_version: shortened digests of model and configuration, from `Results.model_version`.
        input_footer: digest of the input shard's footer.
        result: the row of the results, by column.
        kept: the copied input columns with their names in a queue, as a table of one row.
        image: the image.
    """

    rank: int
    key: str
    source: str
    suspicion: float | None
    predicted: tuple[str, ...]
    model_version: str
    input_footer: str
    result: dict[str, Any]
    kept: pa.Table
    image: QueuedImage

    def values(self) -> dict[str, Any]:
        """Values of all `QUEUE_COLUMNS`, by name."""
        own = {
            "rank": self.rank,
            "key": self.key,
            "source": self.source,
            "suspicion": self.suspicion,
            "predicted": ", ".join(self.predicted) if self.predicted else None,
            "model_version": self.model_version,
            "input_footer": self.input_footer,
        }
        return {**own, **{name: self.result[name] for name in RESULT_COLUMNS}}

    def kept_values(self) -> dict[str, Any]:
        """JSON values of the copied input columns, by name."""
        return {name: as_json_values(self.kept[name])[0] for name in self.kept.column_names}


def queue_schema(kept: pa.Schema, *, images: bool) -> pa.Schema:
    """Arrow schema of a queue.

    Args:
        kept: fields of the copied input columns.
        images: whether the queue has a column with the bytes of the images.
    """
    fields = [*(column.field() for column in QUEUE_COLUMNS), *kept]
    return pa.schema([*fields, IMAGE_FIELD] if images else fields)
