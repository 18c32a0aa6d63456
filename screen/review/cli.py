"""The commands that read results: evaluate, report, queue, labels.

`screen.cli` mounts them. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from screen.options import AsJson, RunOutput

InputNow = Annotated[
    str | None,
    typer.Option("--input", metavar="INPUT", help="Where the input shards are now.", show_default="where they were"),
]
ModelOfClasses = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL.onnx", help="Names the classes.", show_default="names that the run recorded, else numbers"
    ),
]
ServerUrl = Annotated[
    str | None,
    typer.Option(
        envvar="LABEL_STUDIO_URL",
        help="Address of Label Studio; its token is read from LABEL_STUDIO_API_KEY.",
        show_default=False,
    ),
]


def evaluate(
    known: Annotated[
        str,
        typer.Argument(metavar="RESULTS", help="Scored results of in-distribution rows.", show_default=False),
    ],
    others: Annotated[
        list[str] | None,
        typer.Argument(metavar="[OTHERS]...", help="Results of sets out of distribution.", show_default=False),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Column with the right class, copied by run --keep.", show_default=False)
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write JSON here.", show_default=False)] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write a plot here: .svg, .png or .pdf.", show_default=False)
    ] = None,
) -> None:
    """Measure how well each score tells other sets from RESULTS, and finds errors in RESULTS."""
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


def report(
    results: RunOutput,
    page: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="PAGE",
            help="Where the page goes; an earlier report there is replaced.",
            show_default=False,
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(metavar="EARLIER", help="The OUTPUT of an earlier run: what changed since?", show_default=False),
    ] = None,
    top: Annotated[int, typer.Option(help="How many of the most suspicious images are shown, up to 1000.")] = 100,
    source: Annotated[
        str | None,
        typer.Option(
            "--input", metavar="INPUT", help="Where the scored shards are now, if they were moved.", show_default=False
        ),
    ] = None,
) -> None:
    """Make one page to look at: counts, scores, the most suspicious images, the quarantine, what changed."""
    from screen.files.paths import as_path
    from screen.review.report.gather import gather_findings
    from screen.review.report.page import refuse_foreign, write_page

    refuse_foreign(as_path(page))
    findings = gather_findings(results, top=top, against=against, moved_to=source)
    size = write_page(findings, page)
    for note in findings.notes:
        typer.echo(f"note: {note}")
    told, counts = len(findings.top_rows), findings.counts
    pictures = sum(not isinstance(one.preview, str) for one in findings.top_rows)
    bad = f" ({counts.bad} of them could not be scored)" if counts.bad else ""
    typer.echo(
        f"{page}: {told} most suspicious rows, {pictures} with a picture; "
        f"{counts.rate.flagged + counts.bad} of {counts.rows} rows flagged{bad}; {size / 1e6:.1f} MB"
    )


def queue(
    results: RunOutput,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="QUEUE", help="File or folder to write.", show_default=False),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT",
            help="parquet, jsonl, imagefolder, label-studio-tasks, or label-studio for a project of a server. "
            "Default: by the ending of QUEUE.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[int | None, typer.Option(help="Hand on at most so many flagged rows.", show_default="all")] = None,
    per_class: Annotated[
        int | None,
        typer.Option(help="Hand on at most so many flagged rows of each predicted class.", show_default="all"),
    ] = None,
    reason: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Only flagged rows whose flag_reason names this score or status; may be repeated.",
            show_default=False,
        ),
    ] = None,
    order_by: Annotated[
        str | None,
        typer.Option(
            metavar="SCORE",
            help="How suspicious a row is. Default: ood_score with a calibration, else the first score of the rule.",
            show_default=False,
        ),
    ] = None,
    include_random: Annotated[
        str | None,
        typer.Option(
            metavar="P%",
            help="Add so many percent of the rows that were not flagged, drawn at random and marked `audit`.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of that draw.")] = 0,
    project: Annotated[
        str | None,
        typer.Option(
            help="Whom rows are handed to, each image once. With label-studio: number or title of its project, "
            "made if missing.",
            show_default="default, or oodscreen in Label Studio",
        ),
    ] = None,
    ledger: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Where it is kept what was handed on.", show_default="RESULTS/_queue.ledger"
        ),
    ] = None,
    source: InputNow = None,
    model: ModelOfClasses = None,
    images: Annotated[
        bool, typer.Option("--images/--no-images", help="Write the images' bytes into parquet and jsonl.")
    ] = True,
    image_url: Annotated[
        str | None,
        typer.Option(
            metavar="TEMPLATE",
            help="Where Label Studio finds images, as in 'https://.../{path}'; or {id}, {shard}, {row}, {key}. "
            "Default: they are embedded in the tasks.",
            show_default=False,
        ),
    ] = None,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Hand flagged rows on to be labelled: the most suspicious first, each image once over all nights."""
    from screen.review.queue.fill import QueueConfig, fill_queue
    from screen.review.queue.targets import choose_destination

    config = QueueConfig(top, per_class, tuple(reason or ()), order_by, include_random, seed, ledger, source, model)
    chosen = partial(
        choose_destination, output=output, to=to, project=project, images=images, image_url=image_url, url=url
    )
    report = fill_queue(results, config, chosen)
    typer.echo(report.to_text(), err=as_json)
    if as_json:
        typer.echo(report.to_json())
    raise typer.Exit(report.exit_code)


def labels(
    labels: Annotated[
        str,
        typer.Argument(
            metavar="LABELS",
            help="Label Studio's JSON export, a .parquet or .jsonl file, or the word label-studio for a project.",
            show_default=False,
        ),
    ],
    results: RunOutput,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE.parquet", help="Where the rows go.", show_default=False)
    ],
    label_column: Annotated[str, typer.Option(help="Column with the label, in .parquet and .jsonl.")] = "label",
    model: ModelOfClasses = None,
    order_by: Annotated[
        str | None,
        typer.Option(metavar="SCORE", help="Tell shares by this score. Default: as for queue.", show_default=False),
    ] = None,
    images: Annotated[bool, typer.Option("--images", help="Write the images' bytes too.")] = False,
    source: InputNow = None,
    project: Annotated[
        str | None,
        typer.Option(help="Number or title of the project in Label Studio.", show_default="oodscreen"),
    ] = None,
    url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Read labels back, say what the flag is worth, and write what the next training can use."""
    from rich.console import Console

    from screen.review.labels.collect import join_labels, read_labels
    from screen.review.labels.show import print_labels

    given = read_labels(labels, output, label_column=label_column, project=project, url=url)
    report = join_labels(given, results, output, model=model, order_by=order_by, images=images, input_source=source)
    print_labels(report, Console(highlight=False, stderr=as_json, width=None if sys.stdout.isatty() else 110))
    if as_json:
        typer.echo(report.to_json())
    raise typer.Exit(report.exit_code)
