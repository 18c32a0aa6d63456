"""`oodscreen labels`, from the labels to the report.

In: LABELS, RESULTS, and a `LabelsConfig`. Out: a Parquet file with one row per labelled row, and a `LabelReport`.
"""

from __future__ import annotations

from screen.review.labels.collect import join_labels, read_labels
from screen.review.labels.config import LabelsConfig
from screen.review.labels.summary import LabelReport


def label_results(labels: str, results: str, output: str, config: LabelsConfig) -> LabelReport:
    """Join labels to results, write the labelled rows, and evaluate the flag.

    Args:
        labels: file of labels, or `label-studio` for a project on a server.
        results: OUTPUT folder of a run.
        output: Parquet file to write; of existing files, only an earlier file of labelled rows is replaced.
        config: options.

    Raises:
        Refused: there are no labels or no finished results, no label matches the results, or an option or `output` is
            invalid.
        WriteFailed: the file cannot be written; an earlier file is unchanged.
    """
    given = read_labels(labels, output, label_column=config.label_column, project=config.project, url=config.url)
    return join_labels(
        given,
        results,
        output,
        model=config.model,
        order_by=config.order_by,
        images=config.images,
        input_source=config.source,
        control=config.label_control,
        ledger=config.ledger,
    )
