"""Read the top-ranked rows from the results, and make thumbnails of their images.

In: `RowGroup`s. Out: `Card`s. Only the row groups that contain these rows are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from screen.columns import DISTANCES
from screen.decide.detectors import COMPARES_PASSES
from screen.input.parquet.value_text import as_texts
from screen.input.preview import Preview
from screen.output.manifest_file import ManifestEntry
from screen.review.report.aggregate import SCALARS
from screen.review.report.cards import Card, ClassValue, RowSource, TopRow
from screen.review.report.look_alikes import RowGroup
from screen.review.report.pictures import CARD_SIDE, InputImages, Thumbnails
from screen.review.results import Results, RowPosition
from screen.review.text import clip, valid_text

_MAX_KEPT = 4
"""Maximum number of copied input columns per card."""

_VALUES = 5
"""Maximum number of classes or regression outputs per card."""

_LISTED, _ALL_LISTED = 100, 2000
"""Maximum number of similar rows that are listed for one card, and for all cards together."""

_MAX_ID = 500
"""Maximum number of characters of a row id that is on the page in full."""

_REASONS = ("flag_reason", "flag_reasons")

SHOWN = ("ood_score", "p_value", *DISTANCES, "feature_distance", "entropy", "mutual_information", "confidence",
         "prediction_std", "largest_label_entropy", "largest_std", "variation_ratio", "expected_entropy",
         "energy")  # fmt: skip
"""Scores that a report displays if they are not null, in this order."""


def shown_scores(results: Results) -> tuple[str, ...]:
    """The scores of `SHOWN`; if the run had one pass, without scores that compare passes, which are then always 0."""
    return tuple(name for name in SHOWN if results.settings.passes > 1 or name not in COMPARES_PASSES)


@dataclass(frozen=True)
class ShownNames:
    """Class names for display; classes without a name are shown by number.

    Attributes:
        names: names in the order of the class numbers; empty if no names were given or recorded.
    """

    names: tuple[str, ...]

    @classmethod
    def of(cls, results: Results) -> ShownNames:
        """The given or recorded class names of the results, for display.

        Earlier versions recorded one name for a model with a single probability, which has two classes.
        """
        return cls(results.class_names if len(results.class_names) > 1 else ())

    def name(self, number: int) -> str:
        """Display name of a class."""
        return clip(self.names[number], 60) if 0 <= number < len(self.names) else str(number)


def gather_cards(
    results: Results, groups: Sequence[RowGroup], moved_to: str | None
) -> tuple[tuple[Card, ...], tuple[str, ...]]:
    """The cards of some groups of rows, in the given order, and the reasons for missing thumbnails.

    Args:
        results: results that the rows belong to.
        groups: positions of the rows.
        moved_to: current location of the input shards; None if they were not moved.

    Raises:
        InputRefused: a result shard was changed or damaged after the run.
    """
    listed, left = [], _ALL_LISTED
    for group in groups:
        listed.append(group.similar[: min(_LISTED, left)])
        left -= len(listed[-1])
    thumbnails = dict.fromkeys((group.first for group in groups), Thumbnails.of_cards(len(groups)))
    thumbnails |= dict.fromkeys((row for rows in listed for row in rows), Thumbnails.of_similar(_ALL_LISTED - left))
    reader = InputImages(results, moved_to, CARD_SIDE)
    found = _read_rows(results, thumbnails, reader)
    cards = tuple(
        Card(found[group.first], tuple(found[row] for row in rows), len(group.similar))
        for group, rows in zip(groups, listed, strict=True)
    )
    notes = reader.notes()
    left_out = sum(maker.left_out for maker in set(thumbnails.values()))
    if left_out:
        notes.append(f"{left_out} thumbnails were left out to limit the size of the page.")
    return cards, tuple(notes)


def _read_rows(
    results: Results, thumbnails: Mapping[RowPosition, Thumbnails], reader: InputImages
) -> dict[RowPosition, TopRow]:
    """The row at each position, with the thumbnail that the `Thumbnails` object of the position makes."""
    names, shown = ShownNames.of(results), shown_scores(results)
    found: dict[RowPosition, TopRow] = {}
    in_order = sorted(thumbnails, key=lambda position: (position.shard, position.row))
    for number, group in groupby(in_order, lambda position: position.shard):
        entry, positions = results.entries[number], list(group)
        rows = [position.row for position in positions]
        kept = [str(name) for name in results.identity.get("keep", [])][:_MAX_KEPT]
        columns = list(dict.fromkeys(["id", "prediction", "mean", "std", "flag", *_REASONS, *SCALARS, *kept]))
        table = results.take(entry, rows, columns)
        makers = [thumbnails[position].make for position in positions]
        previews = reader.read(entry, rows, table["id"].to_pylist(), makers)
        texts = [as_texts(table[name]) for name in kept]
        scored = table.select([name for name in columns if name not in kept]).to_pylist()
        for index, (values, position, preview) in enumerate(zip(scored, positions, previews, strict=True)):
            copied = [(name, str(column[index])) for name, column in zip(kept, texts, strict=True)]
            found[position] = _make_top_row(values, entry, position.row, names, shown, copied, preview)
    return found


def _make_top_row(
    values: Mapping[str, Any],
    entry: ManifestEntry,
    row: int,
    names: ShownNames,
    shown: Sequence[str],
    kept: Sequence[tuple[str, str]],
    preview: Preview | str,
) -> TopRow:
    mean, std = np.asarray(values["mean"], np.float64), np.asarray(values["std"], np.float64)
    if values["prediction"] is not None and len(mean) == 1:  # the probability of class 1 of two classes
        mean, std = np.append(1 - mean, mean), np.append(std, std)
    order = np.arange(len(mean)) if values["entropy"] is None else np.argsort(-mean, kind="stable")
    largest = order[:_VALUES]
    reason, key = str(values["flag_reason"] or ""), str(values["id"])
    is_exact = len(key) <= _MAX_ID and valid_text(key) == key
    return TopRow(
        shard=clip(entry.shard),
        row=row,
        id=clip(key),
        prediction="" if values["prediction"] is None else names.name(int(str(values["prediction"]))),
        flag=bool(values["flag"]),
        reason=clip(reason, 300),
        reasons=tuple(clip(one, 200) for one in values["flag_reasons"] or ()),
        scores=tuple((name, _shortest(values[name])) for name in shown if values[name] is not None),
        values=tuple(
            ClassValue(names.name(index), float(mean[index]), float(std[index])) for index in largest.tolist()
        ),
        has_classes=values["entropy"] is not None,
        others=len(mean) - len(largest),
        kept=tuple((clip(name, 40), clip(text, 80)) for name, text in kept),
        source=RowSource(entry.shard, row, key if is_exact else None, str(entry.input["footer"])),
        preview=preview,
    )


def _shortest(value: float) -> float:
    """For a float32 value, the float64 with the fewest digits that rounds to this value; any other value unchanged."""
    single = np.float32(value)
    return float(str(single)) if float(single) == value else value
