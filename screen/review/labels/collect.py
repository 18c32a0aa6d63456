"""`oodscreen labels`: join labels to results, measure the flag's precision, and write training data.

In: `Annotations` and RESULTS. Out: a Parquet file with one row per labelled row, and a `LabelReport`.
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
from screen.files.paths import name_place
from screen.files.storage import StagingFile
from screen.files.temporary import temporary_folder
from screen.review.classes import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION, UNUSABLE, ClassNames, name_classes
from screen.review.labels.annotations import LabelSets, choose_question, read_annotations, read_export
from screen.review.labels.matching import LabelledRow, match_labels
from screen.review.labels.precision import CHANGED, KEPT, ReviewedRow, evaluate_flag
from screen.review.labels.summary import COPIED_COLUMNS, NOT_PREDICTED, OTHER, LabelReport
from screen.review.labels.target import choose_target, label_schema
from screen.review.labels.votes import Annotations
from screen.review.queue.fetch import FetchedRow, Fetcher
from screen.review.ranking import AUDIT, FLAGGED, choose_score, is_high_suspicious, main_reason
from screen.review.results import Results, RowPosition, open_results


def join_labels(
    given: LabelSets,
    source: str,
    output: str,
    *,
    model: str | None = None,
    order_by: str | None = None,
    images: bool = False,
    input_source: str | None = None,
    control: str | None = None,
    ledger: str | None = None,
) -> LabelReport:
    """Join labels to results, write the labelled rows, and evaluate the flag.

    Args:
        given: the labels, by question.
        source: folder of results.
        output: Parquet file to write; of existing files, only an earlier file of labelled rows is replaced.
        model: model file with the class names; None for the class names in the record of the run.
        order_by: score that groups the flagged rows; None for the default score of a queue.
        images: whether to write image bytes, and to compare the images with the keys of the labels.
        input_source: current location of the input shards; None if they were not moved.
        control: name of the question whose answers are the labels; None for the question that asks for the classes.
        ledger: folder of the ledger with the exported rows of each image; None for the default folder.

    Raises:
        InputRefused: the source contains no finished results, or no label matches the results.
        OptionRefused: no label is a class of the model, the question is not clear, `order_by` or `model` does not fit
            the results, or `output` is not a valid path.
        OutputRefused: `output` exists and is not a file of labelled rows.
        WriteFailed: the file cannot be written; an earlier file is unchanged.
    """
    results = open_results(source)
    target = choose_target(output, results.folder)
    score = choose_score(results, order_by)
    high = is_high_suspicious(results, score)
    classes, contract = name_classes(results, model)
    question = choose_question(given, control, classes.choices)
    annotations = given[question]
    report = LabelReport(
        name_place(output),
        read=annotations.read,
        labelled=0,
        worth=evaluate_flag([], score, 0),
        foreign=annotations.foreign,
        unlabelled=annotations.unlabelled,
        skipped=annotations.skipped,
        repeated=annotations.repeated,
        ignored={name: len(one.votes) for name, one in given.items() if name != question},
    )
    reviewed: list[ReviewedRow] = []
    schema = label_schema(images=images)
    with closing(Fetcher(results, contract, input_source)) as fetcher:
        fetched: dict[RowPosition, FetchedRow] = {}

        def read_keys(positions: list[RowPosition]) -> dict[RowPosition, bytes]:
            found = fetcher.fetch(positions)
            fetched.update(found)
            return {position: one.key for position, one in found.items()}

        labelled = match_labels(
            annotations, results, classes, report, model=model, ledger=ledger, keys=read_keys if images else None
        )
        report.shards = fetcher.missing.shards
        staging = StagingFile(target, unlocked=True)
        with staging.writing():
            with pq.ParquetWriter(staging.path, schema, compression="zstd") as file:
                for rows in _join(labelled, results, classes, score, report, reviewed, sign=1.0 if high else -1.0):
                    if images:
                        _add_images(rows, fetcher, fetched, report)
                    values = [{name: row[name] for name in schema.names} for row in rows]
                    file.write_table(pa.Table.from_pylist(values, schema=schema))
            if not report.labelled:
                raise _no_labels(annotations, report, source)
            results.refuse_if_changed()
    staging.commit()
    report.worth = evaluate_flag(reviewed, score, results.rows - results.flagged, high_is_suspicious=high)
    return report


def read_labels(source: str, output: str, *, label_column: str, project: str | None, url: str | None) -> LabelSets:
    """The annotations in LABELS, by question; LABELS is a file or a project on a Label Studio server.

    Args:
        source: a file, or `label-studio` for a project on a server.
        output: the file to write, which must not be `source`.
        label_column: column or field with the label, in Parquet, JSON Lines and CSV.
        project: number or title of the project; None for the default project of a queue.
        url: address of the server; None for the address in the environment.

    Raises:
        InputRefused: the source contains no readable labels.
        OptionRefused: an option has no effect, `output` is `source`, or the server or project is not available.
    """
    if source == "label-studio":
        from screen.review.queue.labelstudio_api import open_project

        opened = open_project(url, project, None)
        with tempfile.TemporaryFile(prefix="oodscreen-labels-", dir=temporary_folder()) as file:
            opened.export_labels(file)
            file.flush()
            file.seek(0)
            return read_export(file, opened.describe())
    if project is not None:
        raise OptionRefused(
            f"--project {project} was given with a file of labels.",
            wanted="the word label-studio instead of a file",
            next_step="leave out --project, or give the word label-studio as LABELS to read from the server",
        )
    with suppress(OSError):
        if Path(source).samefile(output):
            raise OptionRefused(
                f"--output {output} is the LABELS file.",
                wanted="another file, so that the labels are not overwritten",
                next_step="give another --output",
            )
    return read_annotations(source, label_column)


def _join(
    labelled: list[LabelledRow],
    results: Results,
    classes: ClassNames,
    score: str,
    report: LabelReport,
    reviewed: list[ReviewedRow],
    *,
    sign: float,
) -> Iterator[list[dict[str, Any]]]:
    """The rows to write, shard by shard; outcomes are appended to `reviewed`, and rows are counted in `report`."""
    names = {name: index for index, name in enumerate(classes.names)}
    columns = list(dict.fromkeys((*COPIED_COLUMNS, "flag_reasons", "mean", score)))
    for index in sorted({one.position.shard for one in labelled}):
        in_shard = sorted((one for one in labelled if one.position.shard == index), key=lambda one: one.position.row)
        entry = results.entries[index]
        table = results.take(entry, np.array([one.position.row for one in in_shard], np.int64), columns)
        rows = []
        for one, row in zip(in_shard, table.to_pylist(), strict=True):
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
                reviewed.append(ReviewedRow(outcome, source, main_reason(row["flag_reasons"]), suspicion))
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
                "position": one.position,
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
    rows: list[dict[str, Any]], fetcher: Fetcher, fetched: dict[RowPosition, FetchedRow], report: LabelReport
) -> None:
    """Add image bytes and keys to the rows whose image is still available."""
    for row in rows:
        one = fetched.get(row["position"])
        if one is None:
            row["image"] = None
            report.without_image += 1
            continue
        *_, image = fetcher.load(one)
        row["key"] = one.key.hex()
        row["image"] = {"bytes": image.data, "path": image.path}


def _no_labels(annotations: Annotations, report: LabelReport, source: str) -> InputRefused:
    if not annotations.read:
        return InputRefused(
            "LABELS contains no rows.",
            wanted="a file or a project with labelled rows",
            next_step="export the labels again, and check the file",
        )
    reasons = ", ".join(f"{reason}: {count}" for reason, count in report.no_result.items())
    return InputRefused(
        f"None of {annotations.read} task(s) or row(s) has a label for a row of {source}"
        + (f" ({reasons})" if reasons else "")
        + (f"; task(s) or row(s) without a label: {annotations.unlabelled}" if annotations.unlabelled else "")
        + (f"; row(s) with a tied vote: {report.disputed}" if report.disputed else "")
        + ".",
        wanted="labels of a queue exported from these results",
        next_step="give the RESULTS that the queue was exported from, or label the rows of the queue first",
    )
