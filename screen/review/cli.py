"""The commands that read results: evaluate, report, queue, labels.

`screen.cli` mounts them. Large libraries are imported within the command that uses them.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Annotated

import typer

from export.options import as_options
from screen.command_line.options import AsJson, RunOutput
from screen.review.evaluate.config import EvaluationConfig
from screen.review.labels.config import LabelsConfig
from screen.review.queue.config import QueueConfig, TargetConfig
from screen.review.report.config import ReportConfig


@as_options
def evaluate(
    known: Annotated[
        str,
        typer.Argument(metavar="RESULTS", help="Folder with the results of in-distribution rows.", show_default=False),
    ],
    config: EvaluationConfig,
    others: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="OTHERS", help="Folders with the results of out-of-distribution rows.", show_default=False
        ),
    ] = None,
) -> None:
    """Measure how well each score separates OTHERS from RESULTS and, with labels, wrong from right predictions."""
    from rich.console import Console

    from screen.review.evaluate.metrics import evaluate_results
    from screen.review.evaluate.show import print_evaluation, write_evaluation

    evaluation = evaluate_results(known, others or [], label=config.label)
    print_evaluation(evaluation, Console(highlight=False, width=None if sys.stdout.isatty() else 110))
    write_evaluation(evaluation, config)


@as_options
def report(
    results: RunOutput,
    page: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="PAGE",
            help="HTML file to write; an existing report is replaced.",
            show_default=False,
        ),
    ],
    config: ReportConfig,
) -> None:
    """Write an HTML page with counts, score distributions, top-ranked images, quarantined rows and changed flags."""
    from screen.review.report.written import write_report

    typer.echo(write_report(results, page, config).to_text())


@as_options
def queue(results: RunOutput, target: TargetConfig, config: QueueConfig, as_json: AsJson = False) -> None:
    """Export flagged rows for labelling, the most suspicious first; each image is exported at most once per project."""
    from screen.review.queue.fill import fill_queue
    from screen.review.queue.targets import choose_destination

    report = fill_queue(results, config, partial(choose_destination, config=target))
    typer.echo(report.to_text(), err=as_json)
    if as_json:
        typer.echo(report.to_json())
    raise typer.Exit(report.exit_code)


@as_options
def labels(
    labels: Annotated[
        str,
        typer.Argument(
            metavar="LABELS",
            help="Labels: a JSON export of Label Studio, a .parquet, .jsonl or .csv file, or the word label-studio for "
            "a project on a server.",
            show_default=False,
        ),
    ],
    results: RunOutput,
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE.parquet", help="Parquet file of labelled rows to write.", show_default=False
        ),
    ],
    config: LabelsConfig,
    as_json: AsJson = False,
) -> None:
    """Join labels with results: measure the precision of the flag, and write labelled rows for the next training."""
    from rich.console import Console

    from screen.review.labels.joined import label_results
    from screen.review.labels.show import print_labels

    report = label_results(labels, results, output, config)
    print_labels(report, Console(highlight=False, stderr=as_json, width=None if sys.stdout.isatty() else 110))
    if as_json:
        typer.echo(report.to_json())
    raise typer.Exit(report.exit_code)
