"""The commands that read results: evaluate, report, queue, labels.

`screen.cli` mounts them. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from export.options import as_options
from screen.options import LABEL_STUDIO_PANEL, AsJson, ClassNamesModel, InputNow, RunOutput, ServerUrl
from screen.review.queue.config import QueueConfig, TargetConfig


def evaluate(
    known: Annotated[
        str,
        typer.Argument(metavar="RESULTS", help="Scored results of in-distribution rows.", show_default=False),
    ],
    others: Annotated[
        list[str] | None,
        typer.Argument(metavar="OTHERS", help="Scored results of out-of-distribution rows.", show_default=False),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column with the true class, copied into the results by `run --keep`.",
            show_default=False,
        ),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="JSON file to write the metrics to.", show_default=False),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Plot of the metrics to write: .svg, .png or .pdf.", show_default=False),
    ] = None,
) -> None:
    """Measure how well each score separates OTHERS from RESULTS, and errors from right answers within RESULTS."""
    from rich.console import Console

    from screen.files.storage import write_text
    from screen.review.evaluate.metrics import evaluate_results
    from screen.review.evaluate.show import plot_evaluation, print_evaluation

    evaluation = evaluate_results(known, others or [], label=label)
    print_evaluation(evaluation, Console(highlight=False, width=None if sys.stdout.isatty() else 110))
    if json_file is not None:
        write_text(json_file, evaluation.to_json() + "\n")
    if plot is not None:
        plot_evaluation(evaluation, plot)


@as_options
def report(
    results: RunOutput,
    page: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="PAGE",
            help="HTML file to write; an earlier report is replaced.",
            show_default=False,
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(metavar="EARLIER", help="OUTPUT of an earlier run to compare with.", show_default=False),
    ] = None,
    top: Annotated[
        int, typer.Option(min=1, max=1000, metavar="N", help="Number of the most suspicious images to show.")
    ] = 100,
    source: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="INPUT",
            help="Current location of the input shards.",
            show_default="where the run read them",
        ),
    ] = None,
) -> None:
    """Write one HTML page: counts, score distributions, the most suspicious images, quarantined rows, changes."""
    from screen.files.paths import as_path
    from screen.review.report.gather import gather_findings
    from screen.review.report.page import refuse_foreign, write_page

    refuse_foreign(as_path(page))
    findings = gather_findings(results, top=top, against=against, moved_to=source)
    size = write_page(findings, page)
    for note in findings.notes:
        typer.echo(f"note: {note}")
    shown, counts = len(findings.top_rows), findings.counts
    pictures = sum(not isinstance(one.preview, str) for one in findings.top_rows)
    bad = f" ({counts.bad} of them could not be scored)" if counts.bad else ""
    typer.echo(
        f"{page}: {shown} most suspicious rows, {pictures} with a picture; "
        f"{counts.rate.flagged + counts.bad} of {counts.rows} rows flagged{bad}; {size / 1e6:.1f} MB"
    )


@as_options
def queue(results: RunOutput, target: TargetConfig, config: QueueConfig, as_json: AsJson = False) -> None:
    """Export flagged rows to labeling, the most suspicious first; each image is exported at most once per project."""
    from screen.review.queue.fill import fill_queue
    from screen.review.queue.targets import choose_destination

    report = fill_queue(results, config, partial(choose_destination, config=target))
    typer.echo(report.to_text(), err=as_json)
    if as_json:
        typer.echo(report.to_json())
    raise typer.Exit(report.exit_code)


def labels(
    labels: Annotated[
        str,
        typer.Argument(
            metavar="LABELS",
            help="JSON export of Label Studio, a .parquet or .jsonl file, or the word label-studio for a project.",
            show_default=False,
        ),
    ],
    results: RunOutput,
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE.parquet", help="File of labeled rows to write.", show_default=False
        ),
    ],
    label_column: Annotated[
        str, typer.Option(metavar="COLUMN", help="Column with the label, in .parquet and .jsonl.")
    ] = "label",
    order_by: Annotated[
        str | None,
        typer.Option(metavar="SCORE", help="Score that orders the rows.", show_default="as in queue"),
    ] = None,
    images: Annotated[bool, typer.Option("--images", help="Write the bytes of the images too.")] = False,
    source: InputNow = None,
    model: ClassNamesModel = None,
    project: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Number or title of the project.",
            show_default="oodscreen",
            rich_help_panel=LABEL_STUDIO_PANEL,
        ),
    ] = None,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Join labels with results: measure how many flags were right, and write labeled rows for the next training."""
    from rich.console import Console

    from screen.review.labels.collect import join_labels, read_labels
    from screen.review.labels.show import print_labels

    given = read_labels(labels, output, label_column=label_column, project=project, url=url)
    report = join_labels(given, results, output, model=model, order_by=order_by, images=images, input_source=source)
    print_labels(report, Console(highlight=False, stderr=as_json, width=None if sys.stdout.isatty() else 110))
    if as_json:
        typer.echo(report.to_json())
    raise typer.Exit(report.exit_code)
