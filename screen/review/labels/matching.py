"""Which labels are for which rows of the results, and what is the label of each.

In: `GivenLabels` and `Results`. Out: `Labelled` rows; labels of other rows are counted in the report. They are dropped
before votes are put together, so that they never decide on a row that only has the same name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from export.errors import OptionRefused
from screen.output.manifest_file import ManifestEntry
from screen.review.labels.summary import LabelReport
from screen.review.labels.votes import Choice, GivenLabels, RowName, Votes
from screen.review.queue.classes import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION, UNUSABLE, ClassNames
from screen.review.results import Results, RowPosition

ReadKeys = Callable[[list[RowPosition]], Mapping[RowPosition, bytes]]
"""Reads the SHA-256 of the images in some places, of those that are to be had."""


@dataclass(frozen=True)
class Labelled:
    """A row of the results with its label.

    Attributes:
        place: of the row.
        votes: all that are for it.
        label: the choices that were decided on.
        agreement: share of the annotators who gave it.
    """

    place: RowPosition
    votes: Votes
    label: tuple[str, ...]
    agreement: float


def match_labels(
    given: GivenLabels,
    results: Results,
    classes: ClassNames,
    report: LabelReport,
    *,
    model: str | None,
    keys: ReadKeys | None,
) -> list[Labelled]:
    """The label of each row that these results have; what is left out is counted in the report.

    Args:
        given: the labels.
        results: for which they may be.
        classes: of the model.
        report: counts what is left out.
        model: the file that named the classes; None: they are numbers.
        keys: reads the keys of images; None: whether a label is for the image that is there now is not looked at.

    Raises:
        OptionRefused: none of the labels is a class of the model.
        InputRefused: a result shard is not the one that was written.
    """
    why: Counter[str] = Counter()
    found: list[Labelled] = []
    for index, named in _by_shard(given, results, why).items():
        here = list(_with_their_id(named, results, index, why))
        if keys is not None:
            here = list(_with_their_image(here, index, keys, why))
        for row, parts in _by_row(here).items():
            report.repeated += len(parts) - 1
            if len({part.name.key for part in parts} - {None}) > 1:
                why["labels of different images"] += 1
                continue
            votes = Votes.together(parts)
            decided = votes.decide(partial(_name_choice, classes))
            if decided is None:
                report.disputed += 1
            else:
                found.append(Labelled(RowPosition(index, row), votes, *decided))
    report.no_result = dict(why)
    _refuse_other_classes(found, classes, model)
    return found


def _by_shard(given: GivenLabels, results: Results, why: Counter[str]) -> dict[int, list[Votes]]:
    """Votes for rows of shards that are there, by the shard's index."""
    entries = {entry.shard: index for index, entry in enumerate(results.entries)}
    found: dict[int, list[Votes]] = {}
    for name, votes in given.votes.items():
        index = entries.get(name.shard)
        missing = "no such shard" if index is None else _why_not(results.entries[index], name)
        if index is None or missing:
            why[missing] += 1
        else:
            found.setdefault(index, []).append(votes)
    return found


def _why_not(entry: ManifestEntry, name: RowName) -> str:
    """Why a label is for no row of a shard; "" where it is."""
    if name.row >= entry.rows:
        return "no such row"
    if name.input_footer is not None and name.input_footer != entry.input["footer"]:
        return "the shard was another one"
    return ""


def _with_their_id(named: list[Votes], results: Results, index: int, why: Counter[str]) -> Iterator[Votes]:
    """Votes whose row has the id that they are for, or that are for no id."""
    rows = sorted({votes.name.row for votes in named if votes.name.id is not None})
    ids: dict[int, str | None] = {}
    if rows:
        taken = results.take(results.entries[index], np.array(rows, np.int64), ["id"])
        ids = dict(zip(rows, taken["id"].to_pylist(), strict=True))
    for votes in named:
        if votes.name.id is not None and votes.name.id != ids[votes.name.row]:
            why["the row has another id"] += 1
        else:
            yield votes


def _with_their_image(named: list[Votes], index: int, keys: ReadKeys, why: Counter[str]) -> Iterator[Votes]:
    """Votes whose image is the one that they are for; where either is not known, nothing speaks against them."""
    there = keys([RowPosition(index, row) for row in sorted({votes.name.row for votes in named})])
    for votes in named:
        key = there.get(RowPosition(index, votes.name.row))
        if key is not None and votes.name.key is not None and votes.name.key.lower() != key.hex():
            why["the image is another one"] += 1
        else:
            yield votes


def _by_row(named: list[Votes]) -> dict[int, list[Votes]]:
    found: dict[int, list[Votes]] = {}
    for votes in named:
        found.setdefault(votes.name.row, []).append(votes)
    return found


def _name_choice(classes: ClassNames, choice: Choice) -> str:
    """A choice by its name; a number is that of a class, whatever text the names are."""
    if isinstance(choice, str):
        return choice
    if 0 <= choice < len(classes.names):
        return classes.names[choice]
    return f"class {choice}" if str(choice) in classes.choices else str(choice)


def _refuse_other_classes(labelled: list[Labelled], classes: ClassNames, model: str | None) -> None:
    words = {word for one in labelled for word in one.label} - set(classes.choices)
    said = [one for one in labelled if set(one.label) - {OUT_OF_DISTRIBUTION, UNUSABLE, IN_DISTRIBUTION}]
    if not said or not all(set(one.label) - set(classes.choices) for one in said):
        return
    told = ", ".join(map(repr, sorted(words)[:4]))
    if not classes.names:
        raise OptionRefused(
            f"{len(said)} label(s) are a value or a class, and the model's output is a number without classes: {told}.",
            wanted=f"one of {', '.join(classes.choices)}",
            next_step="say by one of these words whether the model should have met the row",
        )
    raise OptionRefused(
        f"None of the {len(said)} label(s) is a class of the model: {told}.",
        wanted=f"one of {', '.join(classes.choices[:6])}{', ...' if len(classes.choices) > 6 else ''}",
        next_step="add --model MODEL.onnx, which names the classes, as it was given to `oodscreen queue`"
        if model is None
        else f"give the names as {model} has them, or class numbers from 0 to {len(classes.names) - 1}, "
        "as numbers and not as text",
    )
