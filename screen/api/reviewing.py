"""`evaluate`, `report`, `queue` and `labels`: read the results of runs.

In: folders of results. Out: metrics, a page, a queue or labelled rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from screen.api.function import public
from screen.review.evaluate.config import EvaluationConfig
from screen.review.evaluate.metrics import Evaluation, evaluate_results
from screen.review.evaluate.show import write_evaluation
from screen.review.labels.config import LabelsConfig
from screen.review.labels.joined import label_results
from screen.review.labels.summary import LabelReport
from screen.review.queue.config import QueueConfig, TargetConfig
from screen.review.queue.fill import fill_queue
from screen.review.queue.summary import QueueReport
from screen.review.queue.targets import choose_destination
from screen.review.report.config import ReportConfig
from screen.review.report.written import WrittenReport, write_report


@public
def evaluate(
    known: str | Path, others: str | Path | Sequence[str | Path] = (), *, config: EvaluationConfig
) -> Evaluation:
    """Measure how well each score separates out-of-distribution rows from in-distribution rows.

    With labels, also measure how well each score separates wrong from right predictions.

    Args:
        known: folder with the results of in-distribution rows.
        others: folder or folders with the results of out-of-distribution rows.
        config: options of the evaluation.

    Raises:
        Refused: there are no finished results, or an option is invalid.
        WriteFailed: the metrics cannot be written.
    """
    folders = [others] if isinstance(others, str | Path) else others
    evaluation = evaluate_results(str(known), [str(folder) for folder in folders], label=config.label)
    write_evaluation(evaluation, config)
    return evaluation


@public
def report(results: str | Path, output: str | Path, config: ReportConfig) -> WrittenReport:
    """Write an HTML page with counts, score distributions, top-ranked images, quarantined rows and changed flags.

    Args:
        results: folder that a run wrote.
        output: HTML file to write; an existing report is replaced.
        config: options of the report.

    Raises:
        Refused: there are no finished results, `output` is a folder or a file that is not a report, or an option is
            invalid.
        WriteFailed: the page cannot be written.
    """
    return write_report(str(results), str(output), config)


@public
def queue(results: str | Path, target: TargetConfig, config: QueueConfig) -> QueueReport:
    """Export flagged rows for labelling, the most suspicious first; each image is exported at most once per project.

    Args:
        results: folder that a run wrote.
        target: options that select the destination.
        config: options that select the rows.

    Raises:
        Refused: there are no finished results, or an option is invalid.
        OodscreenError: the export failed; exported images are recorded in the ledger or in the project.
    """
    return fill_queue(str(results), config, partial(choose_destination, config=target))


@public
def labels(labels: str | Path, results: str | Path, output: str | Path, config: LabelsConfig) -> LabelReport:
    """Join labels with results: measure the precision of the flag, and write labelled rows for the next training.

    Args:
        labels: JSON export of Label Studio, a .parquet, .jsonl or .csv file, or `label-studio` for a project on a
            server.
        results: folder that a run wrote.
        output: Parquet file of labelled rows to write.
        config: options by which labels are read and joined to the results.

    Raises:
        Refused: there are no labels or no finished results, no label matches a result, or an option is invalid.
        WriteFailed: the file cannot be written; an earlier file is unchanged.
    """
    return label_results(str(labels), str(results), str(output), config)
