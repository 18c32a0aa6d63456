"""Gather what is shown of the most suspicious rows: what the results have of them, and their pictures.

In: the places of these rows. Out: `TopRow`s. Of the results and of the input only the row groups are read in which
they lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from screen.input.preview import Preview
from screen.review.report.aggregate import SCALARS
from screen.review.report.findings import ClassValue, TopRow
from screen.review.report.pictures import PictureFinder
from screen.review.results import Results, RowPosition
from screen.review.text import clip

_MOST_KEPT = 4
_VALUES = 5
"""Classes of which a suspect tells mean and standard deviation."""

_REASONS = ("flag_reason", "flag_reasons")

SHOWN = ("ood_score", "p_value", "feature_distance", "entropy", "mutual_information", "confidence", "prediction_std",
          "largest_label_entropy", "largest_std", "variation_ratio", "expected_entropy", "energy")  # fmt: skip
"""Scores that a report shows, where the results have them, in this order."""


@dataclass(frozen=True)
class ShownNames:
    """Names of classes where the model has them, else their numbers.

    Attributes:
        given: the names, by number; empty where there are none.
    """

    given: tuple[str, ...]

    @classmethod
    def of(cls, results: Results) -> ShownNames:
        """The names that the results' model has."""
        return cls(() if results.record is None else results.record.class_names)

    def name(self, number: int) -> str:
        """What a class is called on the page."""
        return clip(self.given[number], 60) if 0 <= number < len(self.given) else str(number)


def gather_top_rows(
    results: Results, places: Sequence[RowPosition], moved_to: str | None
) -> tuple[tuple[TopRow, ...], tuple[str, ...]]:
    """Some rows with all that is shown of them, in the order of their places, and why pictures are missing.

    Args:
        results: whose rows.
        places: where they are.
        moved_to: where the input shards are now; None: where they were.

    Raises:
        InputRefused: a result shard is not the one that was written.
    """
    names = ShownNames.of(results)
    finder = PictureFinder(results, moved_to)
    found: dict[RowPosition, TopRow] = {}
    for number, group in groupby(sorted(places, key=lambda place: (place.shard, place.row)), lambda place: place.shard):
        entry, rows = results.entries[number], [place.row for place in group]
        kept = [str(name) for name in results.identity.get("keep", [])][:_MOST_KEPT]
        columns = list(dict.fromkeys(["id", "prediction", "mean", "std", "flag", *_REASONS, *SCALARS, *kept]))
        table = results.take(entry, rows, columns)
        previews = finder.find(entry, rows, table["id"].to_pylist())
        for told, row, preview in zip(table.to_pylist(), rows, previews, strict=True):
            found[RowPosition(number, row)] = _suspect(told, entry.shard, row, names, kept, preview)
    return tuple(found[place] for place in places), finder.notes()


def _suspect(
    told: Mapping[str, Any],
    shard: str,
    row: int,
    names: ShownNames,
    kept: Sequence[str],
    preview: Preview | str,
) -> TopRow:
    mean, std = np.asarray(told["mean"], np.float64), np.asarray(told["std"], np.float64)
    order = np.arange(len(mean)) if told["entropy"] is None else np.argsort(-mean, kind="stable")
    largest = order[:_VALUES]
    reason = str(told["flag_reason"] or "")
    return TopRow(
        shard=clip(shard),
        row=row,
        id=clip(str(told["id"])),
        prediction="" if told["prediction"] is None else names.name(int(str(told["prediction"]))),
        flag=bool(told["flag"]),
        reason=clip(reason, 300),
        reasons=tuple(clip(one, 200) for one in told["flag_reasons"] or ()),
        scores=tuple((name, float(str(told[name]))) for name in SHOWN if told[name] is not None),
        values=tuple(
            ClassValue(names.name(index), float(mean[index]), float(std[index])) for index in largest.tolist()
        ),
        has_classes=told["entropy"] is not None,
        others=len(mean) - len(largest),
        kept=tuple((clip(name, 40), clip(str(told[name]), 80)) for name in kept),
        preview=preview,
    )
