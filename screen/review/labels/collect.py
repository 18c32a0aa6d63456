"""`oodscreen labels`: join what people said to the results, say what the flag is worth, and write training data.

In: `GivenLabels` and RESULTS. Out: a Parquet file with one row for each labelled row, and a `LabelReport`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from export.errors import InputRefused, OptionRefused
from screen.files.storage import StagingFile
from screen.review.labels.annotations import read_export, read_given
from screen.review.labels.matching import Labelled, match_labels
from screen.review.labels.precision import CHANGED, KEPT, Judged, weigh
from screen.review.labels.summary import COPIED_COLUMNS, NOT_PREDICTED, OTHER, LabelReport
from screen.review.labels.target import choose_target, label_schema
from screen.review.labels.votes import GivenLabels
from screen.review.queue.classes import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION, UNUSABLE, ClassNames, name_classes
from screen.review.queue.fetch import Fetched, Fetcher
from screen.review.ranking import AUDIT, FLAGGED, choose_score, is_high_suspicious, main_reason
from screen.review.results import Results, RowPosition, open_results


def join_labels(
    given: GivenLabels,
    source: str,
    output: str,
    *,
    model: str | None = None,
    order_by: str | None = None,
    images: bool = False,
    input_source: str | None = None,
) -> LabelReport:
    """Join labels to results and write them.

    Args:
        given: the labels.
        source: RESULTS.
        output: the Parquet file to write; an earlier one is replaced, and nothing else.
        model: the model's file, for the names of its classes.
        order_by: the score by which shares are told; None: that of the queue.
        images: whether the images' bytes are written too.
        input_source: where the input shards are now; None: where they were.

    Raises:
        InputRefused: these are no finished results, or none of the labels is for them.
        OptionRefused: the labels are of other classes, or the file is to go where it must not.
        OutputRefused: something else is there.
        WriteFailed: the file cannot be written; what was there is as it was.
    """
    results = open_results(source)
    target = choose_target(output, results.place)
    score = choose_score(results, order_by)
    high = is_high_suspicious(results, score)
    classes, contract = name_classes(results, model)
    report = LabelReport(
        output, given.read, 0, weigh([], score, 0), given.foreign, given.unlabelled, given.skipped, given.repeated
    )
    judged: list[Judged] = []
    schema = label_schema(images=images)
    with closing(Fetcher(results, contract, input_source)) as fetcher:
        there: dict[RowPosition, Fetched] = {}

        def read_keys(places: list[RowPosition]) -> dict[RowPosition, bytes]:
            found = fetcher.fetch(places)
            there.update(found)
            return {place: one.key for place, one in found.items()}

        labelled = match_labels(given, results, classes, report, model=model, keys=read_keys if images else None)
        report.shards = fetcher.missing.shards
        aside = StagingFile(target)
        with aside.writing():
            with pq.ParquetWriter(aside.path, schema, compression="zstd") as file:
                for rows in _join(labelled, results, classes, score, report, judged, sign=1.0 if high else -1.0):
                    if images:
                        _add_images(rows, fetcher, there, report)
                    values = [{name: row[name] for name in schema.names} for row in rows]
                    file.write_table(pa.Table.from_pylist(values, schema=schema))
            if not report.labelled:
                raise _nothing(given, report, source)
            results.refuse_if_changed()
    aside.commit()
    report.worth = weigh(judged, score, results.rows - results.flagged, high_is_suspicious=high)
    return report


def read_labels(source: str, output: str, *, label_column: str, project: str | None, url: str | None) -> GivenLabels:
    """Read LABELS, a file or a project of a Label Studio server.

    Args:
        source: a file, or `label-studio`.
        output: what will be written, which must not be LABELS.
        label_column: with the label, in Parquet and JSON Lines.
        project: number or title; None: that which a queue makes.
        url: of the server; None takes it from the environment.

    Raises:
        InputRefused: it cannot be read as labels.
        OptionRefused: an option says nothing, or the server or project is not to be had.
    """
    if source == "label-studio":
        from screen.review.queue.labelstudio_api import open_project

        opened = open_project(url, project, None)
        with tempfile.TemporaryFile(prefix="oodscreen-labels-") as file:
            opened.export_labels(file)
            file.flush()
            file.seek(0)
            return read_export(file, opened.describe())
    if project is not None:
        raise OptionRefused(
            f"--project {project} was given with a file of labels.",
            wanted="the word label-studio in place of the file",
            next_step="leave --project out, or read it from the server: oodscreen labels label-studio RESULTS ...",
        )
    with suppress(OSError):
        if Path(source).samefile(output):
            raise OptionRefused(
                f"--output {output} is the file of LABELS.",
                wanted="a file of its own: labels are work that cannot be done again",
                next_step="choose another name",
            )
    return read_given(source, label_column)


def _join(
    labelled: list[Labelled],
    results: Results,
    classes: ClassNames,
    score: str,
    report: LabelReport,
    judged: list[Judged],
    *,
    sign: float,
) -> Iterator[list[dict[str, Any]]]:
    """The rows to write, shard by shard; what they say of the flag is added to `judged`."""
    names = {name: index for index, name in enumerate(classes.names)}
    columns = list(dict.fromkeys((*COPIED_COLUMNS, "flag_reasons", "mean", score)))
    for index in sorted({one.place.shard for one in labelled}):
        here = sorted((one for one in labelled if one.place.shard == index), key=lambda one: one.place.row)
        entry = results.entries[index]
        table = results.take(entry, np.array([one.place.row for one in here], np.int64), columns)
        rows = []
        for one, row in zip(here, table.to_pylist(), strict=True):
            predicted = classes.predicted(row)
            outcome = _outcome(one.label, predicted, row, classes)
            source = FLAGGED if row["flag"] else AUDIT if one.votes.name.source == AUDIT else OTHER
            value = row[score]
            if outcome == NOT_PREDICTED:
                report.not_predicted += 1
            elif source == OTHER:
                report.other += 1
            else:
                suspicion = None if value is None else sign * float(value)
                judged.append(Judged(outcome, source, main_reason(row["flag_reasons"]), suspicion))
            report.labelled += 1
            report.no_class += bool(set(one.label) - set(classes.choices))
            row |= {
                "label": ", ".join(one.label),
                "label_index": names.get(one.label[0]) if len(one.label) == 1 else None,
                "outcome": outcome,
                "annotators": max(1, len(one.votes.by_annotator)),
                "agreement": one.agreement,
                "source": source,
                "key": one.votes.name.key,
                "predicted": ", ".join(predicted) if predicted else None,
                "model_version": results.model_version,
                "input_footer": str(entry.input["footer"]),
                "place": one.place,
            }
            rows.append(row)
        yield rows


def _outcome(label: tuple[str, ...], predicted: tuple[str, ...], row: dict[str, Any], classes: ClassNames) -> str:
    for word in (UNUSABLE, OUT_OF_DISTRIBUTION):
        if word in label:
            return word
    if row["mean"] is None:
        return NOT_PREDICTED
    expected = set(predicted) if classes.names else {IN_DISTRIBUTION}
    return KEPT if set(label) == expected else CHANGED


def _add_images(
    rows: list[dict[str, Any]], fetcher: Fetcher, there: dict[RowPosition, Fetched], report: LabelReport
) -> None:
    """The bytes of the images, and their keys, where they are still to be had."""
    for row in rows:
        one = there.get(row["place"])
        if one is None:
            row["image"] = None
            report.without_image += 1
            continue
        image = fetcher.load(one)[1]
        row["key"] = one.key.hex()
        row["image"] = {"bytes": image.data, "path": image.path}


def _nothing(given: GivenLabels, report: LabelReport, source: str) -> InputRefused:
    told = ", ".join(f"{why}: {count}" for why, count in report.no_result.items())
    return InputRefused(
        f"None of {given.read} task(s) or row(s) has a label for a row of {source}"
        + (f" ({told})" if told else "")
        + (f"; {given.unlabelled} have no label" if given.unlabelled else "")
        + (f"; on {report.disputed} row(s) annotators disagree" if report.disputed else "")
        + ".",
        wanted="labels of a queue that these results were handed to",
        next_step="give the RESULTS that the queue was made of, or wait for labels",
    )
