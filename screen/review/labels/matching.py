"""Match labels to rows of the results, and decide the label of each row.

In: `Annotations` and `Results`. Out: `LabelledRow`s; labels that do not match the results are counted in the report.
These labels are excluded before votes are merged, so that labels of other results have no effect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from export.errors import OptionRefused
from screen.output.manifest_file import ManifestEntry
from screen.review.classes import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION, UNUSABLE, ClassNames
from screen.review.labels.joining import complete_names
from screen.review.labels.summary import LabelReport
from screen.review.labels.votes import Annotations, RowName, Votes
from screen.review.results import Results, RowPosition

ReadKeys = Callable[[list[RowPosition]], Mapping[RowPosition, bytes]]
"""Function from positions to the SHA-256 of their images; the result does not contain unavailable images."""


@dataclass(frozen=True)
class LabelledRow:
    """A row of the results with its label.

    Attributes:
        position: position of the row in the results.
        votes: all votes on the row.
        label: class names or additional choices, decided by plurality.
        agreement: share of the annotators who gave this label.
    """

    position: RowPosition
    votes: Votes
    label: tuple[str, ...]
    agreement: float


def match_labels(
    annotations: Annotations,
    results: Results,
    classes: ClassNames,
    report: LabelReport,
    *,
    model: str | None,
    ledger: str | None,
    keys: ReadKeys | None,
) -> list[LabelledRow]:
    """The labelled rows of the results; excluded labels are counted in `report`.

    Args:
        annotations: votes of the annotators.
        results: results that the labelled rows belong to.
        classes: the choices available to an annotator.
        report: receives the counts of excluded labels.
        model: value of `--model`, for the error message; None without the option.
        ledger: folder of the ledger with the exported rows of each image; None for the default folder.
        keys: function that reads the keys of the current images; None to compare no images.

    Raises:
        OptionRefused: labels name classes, but no label is a class of the model.
        InputRefused: a result shard was changed or damaged after the run.
    """
    excluded: Counter[str] = Counter()
    found: list[LabelledRow] = []
    named = complete_names(annotations.votes.values(), results, ledger, excluded)
    for index, candidates in _by_shard(named, results, excluded).items():
        matching = list(_with_same_id(candidates, results, index, excluded))
        if keys is not None:
            matching = list(_with_same_image(matching, index, keys, excluded))
        for row, parts in _by_row(matching).items():
            report.repeated += len(parts) - 1
            if len({part.name.key for part in parts} - {None}) > 1:
                excluded["labels of different images"] += 1
                continue
            votes = Votes.merge(parts)
            decided = votes.decide(classes.name_choice)
            if decided is None:
                report.disputed += 1
            else:
                found.append(LabelledRow(RowPosition(index, row), votes, *decided))
    report.no_result = dict(excluded)
    _refuse_other_classes(found, classes, model)
    return found


def _by_shard(named: Iterable[Votes], results: Results, excluded: Counter[str]) -> dict[int, list[Votes]]:
    """Votes on rows of existing result shards, by the shard's index."""
    entries = {entry.shard: index for index, entry in enumerate(results.entries)}
    found: dict[int, list[Votes]] = {}
    for votes in named:
        index = entries.get(votes.name.shard)
        reason = "shard not in the results" if index is None else _mismatch(results.entries[index], votes.name)
        if index is None or reason:
            excluded[reason] += 1
        else:
            found.setdefault(index, []).append(votes)
    return found


def _mismatch(entry: ManifestEntry, name: RowName) -> str:
    """The reason why a row name does not match a shard; "" if the two match."""
    if name.row >= entry.rows:
        return "row not in the shard"
    if name.input_footer is not None and name.input_footer != entry.input["footer"]:
        return "different input shard"
    return ""


def _with_same_id(candidates: list[Votes], results: Results, index: int, excluded: Counter[str]) -> Iterator[Votes]:
    """Votes whose row id equals that in the results, and votes without a row id."""
    rows = sorted({votes.name.row for votes in candidates if votes.name.id is not None})
    ids: dict[int, str | None] = {}
    if rows:
        taken = results.take(results.entries[index], np.array(rows, np.int64), ["id"])
        ids = dict(zip(rows, taken["id"].to_pylist(), strict=True))
    for votes in candidates:
        if votes.name.id is not None and votes.name.id != ids[votes.name.row]:
            excluded["different row id"] += 1
        else:
            yield votes


def _with_same_image(candidates: list[Votes], index: int, keys: ReadKeys, excluded: Counter[str]) -> Iterator[Votes]:
    """Votes whose key equals that of the current image, and votes for which either key is unknown."""
    current = keys([RowPosition(index, row) for row in sorted({votes.name.row for votes in candidates})])
    for votes in candidates:
        key = current.get(RowPosition(index, votes.name.row))
        if key is not None and votes.name.key is not None and votes.name.key.lower() != key.hex():
            excluded["different image"] += 1
        else:
            yield votes


def _by_row(candidates: list[Votes]) -> dict[int, list[Votes]]:
    found: dict[int, list[Votes]] = {}
    for votes in candidates:
        found.setdefault(votes.name.row, []).append(votes)
    return found


def _refuse_other_classes(labelled: list[LabelledRow], classes: ClassNames, model: str | None) -> None:
    unknown = {word for one in labelled for word in one.label} - set(classes.choices)
    with_class = [one for one in labelled if set(one.label) - {OUT_OF_DISTRIBUTION, UNUSABLE, IN_DISTRIBUTION}]
    if not with_class or not all(set(one.label) - set(classes.choices) for one in with_class):
        return
    examples = ", ".join(map(repr, sorted(unknown)[:4]))
    if not classes.names:
        raise OptionRefused(
            f"{len(with_class)} label(s) are not choices for a regression, which has no classes: {examples}.",
            wanted=f"one of {', '.join(classes.choices)}",
            next_step="label each row with one of these choices",
        )
    raise OptionRefused(
        f"None of the {len(with_class)} label(s) is a class of the model: {examples}.",
        wanted=f"one of {', '.join(classes.choices[:6])}{', ...' if len(classes.choices) > 6 else ''}",
        next_step="add --model MODEL.onnx, the model with which the queue was exported, for its class names"
        if model is None
        else f"write the labels as class names of {model}, or as integers (not text) from 0 to "
        f"{len(classes.names) - 1}",
    )
