"""Read the top-ranked rows from the results, and make thumbnails of their images.

In: positions of the rows. Out: `TopRow`s. Only the row groups that contain these rows are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from screen.columns import DISTANCES
from screen.input.parquet.value_text import as_texts
from screen.input.preview import Preview
from screen.review.report.aggregate import SCALARS
from screen.review.report.findings import ClassValue, TopRow
from screen.review.report.pictures import PictureFinder
from screen.review.results import Results, RowPosition
from screen.review.text import clip

_MAX_KEPT = 4
"""Maximum number of copied input columns per card."""

_VALUES = 5
"""Maximum number of classes or regression outputs per card."""

_REASONS = ("flag_reason", "flag_reasons")

SHOWN = ("ood_score", "p_value", *DISTANCES, "feature_distance", "entropy", "mutual_information", "confidence",
         "prediction_std", "largest_label_entropy", "largest_std", "variation_ratio", "expected_entropy",
         "energy")  # fmt: skip
"""Scores that a report displays if they are not null, in this order."""


@dataclass(frozen=True)
class ShownNames:
    """Class names for display; classes without a name are shown by number.

    Attributes:
        names: names in the order of the class numbers; empty if the record of the run has none.
    """

    names: tuple[str, ...]

    @classmethod
    def of(cls, results: Results) -> ShownNames:
        """The class names that were given, or recorded with the results."""
        return cls(results.class_names)

    def name(self, number: int) -> str:
        """Display name of a class."""
        return clip(self.names[number], 60) if 0 <= number < len(self.names) else str(number)


def gather_top_rows(
    results: Results, positions: Sequence[RowPosition], moved_to: str | None
) -> tuple[tuple[TopRow, ...], tuple[str, ...]]:
    """The rows at some positions, in the given order, and the reasons for missing thumbnails.

    Args:
        results: results that the rows belong to.
        positions: positions of the rows.
        moved_to: current location of the input shards; None if they were not moved.

    Raises:
        InputRefused: a result shard was changed or damaged after the run.
    """
    names = ShownNames.of(results)
    finder = PictureFinder(results, moved_to)
    found: dict[RowPosition, TopRow] = {}
    in_order = sorted(positions, key=lambda position: (position.shard, position.row))
    for number, group in groupby(in_order, lambda position: position.shard):
        entry, rows = results.entries[number], [position.row for position in group]
        kept = [str(name) for name in results.identity.get("keep", [])][:_MAX_KEPT]
        columns = list(dict.fromkeys(["id", "prediction", "mean", "std", "flag", *_REASONS, *SCALARS, *kept]))
        table = results.take(entry, rows, columns)
        previews = finder.find(entry, rows, table["id"].to_pylist())
        texts = [as_texts(table[name]) for name in kept]
        scored = table.select([name for name in columns if name not in kept]).to_pylist()
        for index, (values, row, preview) in enumerate(zip(scored, rows, previews, strict=True)):
            copied = [(name, str(column[index])) for name, column in zip(kept, texts, strict=True)]
            found[RowPosition(number, row)] = _make_top_row(values, entry.shard, row, names, copied, preview)
    return tuple(found[position] for position in positions), finder.notes()


def _make_top_row(
    values: Mapping[str, Any],
    shard: str,
    row: int,
    names: ShownNames,
    kept: Sequence[tuple[str, str]],
    preview: Preview | str,
) -> TopRow:
    mean, std = np.asarray(values["mean"], np.float64), np.asarray(values["std"], np.float64)
    order = np.arange(len(mean)) if values["entropy"] is None else np.argsort(-mean, kind="stable")
    largest = order[:_VALUES]
    reason = str(values["flag_reason"] or "")
    return TopRow(
        shard=clip(shard),
        row=row,
        id=clip(str(values["id"])),
        prediction="" if values["prediction"] is None else names.name(int(str(values["prediction"]))),
        flag=bool(values["flag"]),
        reason=clip(reason, 300),
        reasons=tuple(clip(one, 200) for one in values["flag_reasons"] or ()),
        scores=tuple((name, float(str(values[name]))) for name in SHOWN if values[name] is not None),
        values=tuple(
            ClassValue(names.name(index), float(mean[index]), float(std[index])) for index in largest.tolist()
        ),
        has_classes=values["entropy"] is not None,
        others=len(mean) - len(largest),
        kept=tuple((clip(name, 40), clip(text, 80)) for name, text in kept),
        preview=preview,
    )
