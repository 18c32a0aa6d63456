"""One row of a review queue, and the columns in which it is written.

In: a row of the results with its image. Out: a `QueueRow`, and the Arrow schema of a queue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from screen.columns import IDENTITY, SCORES, VERDICT, Column

HANDED_ON = (
    Column("rank", pa.int64(), "", "1 and up", "Order of review: 1 is the most suspicious; audit rows come last."),
    Column("key", pa.string(), "", "", "SHA-256 of the image's bytes: the same image has the same key everywhere."),
    Column("source", pa.string(), "", "", "`flagged`, or `audit`: one of the random rows that were not flagged."),
    Column("suspicion", pa.float64(), "", "any", "What the queue is ordered by, turned so that high is suspicious."),
    Column("predicted", pa.string(), "", "", "The predicted class by its name; several labels: joined by `, `."),
    Column("model_version", pa.string(), "", "", "Digests of the model and of what decided the results, in short."),
    Column(
        "input_footer", pa.string(), "", "", "Digest of the input shard's footer: which file `shard` and `row` mean."
    ),
)
"""What a queue says of a row beside the results' own columns."""

QUEUE_COLUMNS = (*HANDED_ON, *IDENTITY, *SCORES, *VERDICT)
RESULT_COLUMNS = tuple(column.name for column in (*IDENTITY, *SCORES, *VERDICT))

IMAGE_FIELD = pa.field(
    "image",
    pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    metadata={"description": "The image as it is in the input, in the Hugging Face layout."},
)


@dataclass(frozen=True)
class QueuedImage:
    """An image as it is handed on.

    Attributes:
        data: the bytes of a file: those of the input, or a PNG where the input holds bare pixels.
        path: as the input names it; None where it does not.
        suffix: of a file of this format, with its dot.
        media_type: of this format.
    """

    data: bytes
    path: str | None
    suffix: str
    media_type: str


@dataclass(frozen=True)
class QueueRow:
    """A row in its place of the queue.

    Attributes:
        rank: from 1.
        key: SHA-256 of the image's bytes, as hexadecimal text.
        source: `flagged` or `audit`.
        suspicion: what it is ordered by, high is suspicious; None where it could not be scored.
        predicted: the names of what the model would choose.
        model_version: of the results.
        input_footer: of the input shard.
        result: the row of the results, by column.
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
    image: QueuedImage

    def values(self) -> dict[str, Any]:
        """Every column of `QUEUE_COLUMNS`."""
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


def queue_schema(*, images: bool) -> pa.Schema:
    """The schema of a queue in Parquet."""
    fields = [column.field() for column in QUEUE_COLUMNS]
    return pa.schema([*fields, IMAGE_FIELD] if images else fields)
