"""The top-ranked rows of a report as plain values.

In: nothing. Out: dataclasses that `top_rows` fills and `page` renders. Texts from data are cut to a maximum length.
"""

from __future__ import annotations

from dataclasses import dataclass

from screen.input.preview import Preview


@dataclass(frozen=True)
class ClassValue:
    """Name of a class or of a regression output, and mean and standard deviation of its value over the passes."""

    name: str
    mean: float
    std: float


@dataclass(frozen=True)
class RowSource:
    """Columns by which `oodscreen labels` finds a row, as in the results.

    Attributes:
        shard: name of the shard.
        row: position in the shard.
        id: id of the row; None if the id is too long for a page, or cannot be represented in UTF-8.
        input_footer: digest of the footer of the input shard.
    """

    shard: str
    row: int
    id: str | None
    input_footer: str


@dataclass(frozen=True)
class TopRow:
    """One of the top-ranked rows.

    Attributes:
        shard: name of the shard.
        row: position in the shard.
        id: id of the row, for display.
        prediction: predicted class; "" if the model predicts none.
        flag: whether the row is flagged.
        reason: `flag_reason` in the results; "" if the row is not flagged.
        reasons: the conditions in `flag_reasons`, without the values of the row.
        scores: name and value of each displayed score that is not null.
        values: the classes with the largest means, in descending order; for a regression, its first outputs.
        has_classes: whether `values` are probabilities.
        others: number of classes or outputs that are not in `values`.
        kept: name and value of each displayed input column.
        source: position and id of the row, without changes for display.
        preview: thumbnail of the image, or the reason why there is no thumbnail.
    """

    shard: str
    row: int
    id: str
    prediction: str
    flag: bool
    reason: str
    reasons: tuple[str, ...]
    scores: tuple[tuple[str, float], ...]
    values: tuple[ClassValue, ...]
    has_classes: bool
    others: int
    kept: tuple[tuple[str, str], ...]
    source: RowSource
    preview: Preview | str


@dataclass(frozen=True)
class Card:
    """A top-ranked row, and flagged rows with similar images.

    Attributes:
        row: the row.
        similar: the first of the rows with similar images, in the order of review.
        count: number of rows with similar images, including those that are not in `similar`.
    """

    row: TopRow
    similar: tuple[TopRow, ...]
    count: int
