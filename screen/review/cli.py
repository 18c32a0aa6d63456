"""The commands that read results: evaluate, report, queue, labels.

`screen.cli` mounts them. Large libraries are imported within the command that uses them.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from export.option import FormerName
from export.options import as_options
from screen.command_line.options import (
    LABEL_STUDIO_PANEL,
    AsJson,
    ClassNamesModel,
    GivenClassNames,
    InputNow,
    RunOutput,
    ServerUrl,
)
from screen.review.queue.config import QueueConfig, TargetConfig


def evaluate(
    known: Annotated[
        str,
        typer.Argument(metavar="RESULTS", help="Folder with the results of in-distribution rows.", show_default=False),
    ],
    others: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="OTHERS", help="Folders with the results of out-of-distribution rows.", show_default=False
        ),
    ] = None,
    label: Annotated[
        str | None,
        FormerName("--label"),
        typer.Option(
            "--label-column",
            metavar="COLUMN",
            help="Column of the labels, copied into the results by `run --keep`.",
            show_default=False,
        ),
    ] = None,
    json_file: Annotated[
        Path | None,
        FormerName("--json"),
        typer.Option(
            "--output", "-o", metavar="FILE.json", help="JSON file to write the metrics to.", show_default=False
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File to write the plot of the metrics to: .svg, .png or .pdf.", show_default=False
        ),
    ] = None,
) -> None:
    """Measure how well each score separates OTHERS from RESULTS and, with labels, wrong from right predictions."""
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
            help="HTML file to write; an existing report is replaced.",
            show_default=False,
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(
            metavar="EARLIER", help="Folder that an earlier `oodscreen run` wrote, to compare with.", show_default=False
        ),
    ] = None,
    top: Annotated[
        int,
        typer.Option(min=1, max=1000, metavar="N", help="Maximum number of images to show, the most suspicious first."),
    ] = 100,
    look_alikes: Annotated[
        int,
        typer.Option(
            min=0,
            max=100_000,
            metavar="N",
            help="Number of flagged rows, the most suspicious first, among which similar images are shown as one.",
        ),
    ] = 1000,
    title: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Title of the page.", show_default="the name of the folder RESULTS"),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="INPUT",
            help="Current location of the input shards.",
            show_default="the location recorded by the run",
        ),
    ] = None,
    class_names: GivenClassNames = (),
) -> None:
    """Write an HTML page with counts, score distributions, the most suspicious images, quarantined rows and changes."""
    from screen.files.paths import as_path, name_place
    from screen.review.report.gather import gather_findings
    from screen.review.report.page import refuse_foreign, write_page

    refuse_foreign(as_path(page))
    findings = gather_findings(
        results,
        top=top,
        look_alikes=look_alikes,
        against=against,
        moved_to=source,
        class_names=tuple(class_names),
        title=title,
    )
    size = write_page(findings, page)
    for note in findings.notes:
        typer.echo(f"note: {note}")
    shown, counts = len(findings.top_rows), findings.counts
    similar = sum(card.count for card in findings.cards)
    like_them = f" and {similar} like them" if similar else ""
    pictures = sum(not isinstance(one.preview, str) for one in findings.top_rows)
    bad = f" ({counts.bad} of them could not be scored)" if counts.bad else ""
    typer.echo(
        f"{name_place(page)}: {shown} most suspicious rows{like_them}, {pictures} with a thumbnail; "
        f"{counts.flagged} of {counts.rows} rows flagged{bad}; {size / 1e6:.1f} MB"
    )


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
    label_column: Annotated[
        str, typer.Option(metavar="COLUMN", help="Column of the labels in a .parquet, .jsonl or .csv file.")
    ] = "label",
    label_control: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name of the Choices tag in Label Studio whose answers are the labels.",
            show_default="the one that offers the classes",
            rich_help_panel=LABEL_STUDIO_PANEL,
        ),
    ] = None,
    order_by: Annotated[
        str | None,
        typer.Option(
            metavar="SCORE",
            help="Score by which the table of flag precision divides the flagged rows into ranges.",
            show_default="ood_score, else the first score of the flag rule",
        ),
    ] = None,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Write the image bytes too.")] = False,
    ledger: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Directory of the deduplication ledger, which lists the rows of labels that have only a `key`.",
            show_default="RESULTS/_queue.ledger",
        ),
    ] = None,
    source: InputNow = None,
    model: ClassNamesModel = None,
    project: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Number or title of the Label Studio project.",
            show_default="oodscreen",
            rich_help_panel=LABEL_STUDIO_PANEL,
        ),
    ] = None,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Join labels with results: measure the precision of the flag, and write labelled rows for the next training."""
    from rich.console import Console

    from screen.review.labels.collect import join_labels, read_labels
    from screen.review.labels.show import print_labels

    given = read_labels(labels, output, label_column=label_column, project=project, url=url)
    report = join_labels(
        given,
        results,
        output,
        model=model,
        order_by=order_by,
        images=images,
        input_source=source,
        control=label_control,
        ledger=ledger,
    )
    print_labels(report, Console(highlight=False, stderr=as_json, width=None if sys.stdout.isatty() else 110))
    if as_json:
        typer.echo(report.to_json())
    raise typer.Exit(report.exit_code)
