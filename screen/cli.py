"""The command `oodscreen`: commands, one error handler, and how a run is shown.

Nothing heavy is imported before a command needs it: `oodscreen --help` loads neither onnxruntime
nor TensorFlow.
"""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

import export.cli
from export.errors import OodscreenError
from screen.config import FORCE_KINDS, RunConfig, as_options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from export.accuracy import LabelledBatch
    from export.contract import ModelContract
    from screen.scoring import OpenExecutor

app = typer.Typer(
    name="oodscreen",
    help="Screen image data sets for what a model does not know, with Monte Carlo dropout.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(export.cli.export)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"oodscreen {version('oodscreen')}")
        raise typer.Exit


def _read_labelled(
    contract: ModelContract,
    source: str,
    *,
    label_column: str,
    image_column: str,
    image_root: str | None,
    rows: int,
) -> Iterable[LabelledBatch]:
    """The reader for `export --check-data`: `export` never imports `screen`."""
    from screen.input.labels import read_labelled

    return read_labelled(
        contract, source, label_column=label_column, image_column=image_column, image_root=image_root, rows=rows
    )


@app.callback()
def common(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Screen image data sets for what a model does not know, with Monte Carlo dropout."""
    reader: export.cli.LabelledReader = _read_labelled
    context.obj = reader


class _RunCommand(TyperCommand):
    """`--force` alone means `--force all`, wherever it stands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Complete a bare `--force` before the parser takes the next word for its value."""
        following = [*args[1:], ""]
        whole = [
            "--force=all" if one == "--force" and next_one not in FORCE_KINDS else one
            for one, next_one in zip(args, following, strict=True)
        ]
        return super().parse_args(ctx, whole)


def _choose_executor(config: RunConfig) -> OpenExecutor:
    if config.engine == "ray":
        from screen.cluster import open_cluster

        return open_cluster
    from screen.scoring import open_here

    return open_here


@app.command(cls=_RunCommand)
@as_options
def run(
    model: Annotated[str, typer.Argument(metavar="MODEL.onnx", help="An exported model.", show_default=False)],
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="A Parquet shard, a folder of them, or a glob.", show_default=False)
    ],
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Folder for the scored shards.", show_default=False)],
    config: RunConfig,
    metrics: Annotated[
        Path | None,
        typer.Option(metavar="FILE.prom", help="Write metrics for Prometheus' textfile collector.", show_default=False),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON on standard output, and all else on standard error.")
    ] = False,
) -> None:
    """Score every image of INPUT by T dropout passes, and flag those that a person should see."""
    from screen.stopping import stop_on_signals

    with stop_on_signals() as stop:
        recording: AbstractContextManager[None] = nullcontext()
        if metrics is not None:
            from screen.metrics import record_failure, write_metrics

            recording = record_failure(metrics, output)
        with recording:
            from screen.progress import make_listener
            from screen.runner import run_screening

            open_executor = _choose_executor(config)
            with make_listener() as listener:
                summary = run_screening(model, source, output, config, listener, stop, open_executor)
        if metrics is not None:
            write_metrics(metrics, output, summary.exit_code, summary)
    typer.echo(summary.to_text(), err=as_json)
    if as_json:
        typer.echo(summary.to_json())
    raise typer.Exit(summary.exit_code)


@app.command()
def check(
    results: Annotated[str, typer.Argument(metavar="RESULTS", help="The OUTPUT of a run.", show_default=False)],
    source: Annotated[
        str | None,
        typer.Option("--input", metavar="INPUT", help="Compare with the shards that were scored.", show_default=False),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON on standard output, and all else on standard error.")
    ] = False,
) -> None:
    """Prove that results are whole: rows in are rows out, and nothing is half, changed or left over."""
    from screen.output.check import check_results
    from screen.output.lock import refuse_if_held
    from screen.places import as_place

    output = as_place(results)
    refuse_if_held(output)
    report = check_results(output, source)
    typer.echo(report.to_text(), err=as_json)
    if as_json:
        typer.echo(report.to_json())
    raise typer.Exit(report.exit_code)


@app.command()
@partial(
    as_options,
    leave_out=(
        "calibration",
        "flag_if",
        "id_column",
        "keep",
        "max_bad_rows",
        "alarm",
        "engine",
        "address",
        "part",
        "force",
    ),
)
def calibrate(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An exported model.", show_default=False)],
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN_DISTRIBUTION",
            help="Shards with rows like those that should pass, which the model was NOT trained on: they fit the "
            "detectors and are ranked.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="CALIBRATION", help="Where the file goes.", show_default=False)
    ],
    review_rate: Annotated[
        float, typer.Option(help="Share of in-distribution rows that may be flagged.", show_default=False)
    ],
    config: RunConfig,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="SHARDS",
            help="Known rows to measure distances to; training rows will do. Default: a third of IN_DISTRIBUTION.",
            show_default=False,
        ),
    ] = None,
    distance: Annotated[
        str, typer.Option(help="Distance in the trunk's features: neighbours or mahalanobis.")
    ] = "neighbours",
    detector: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCORE",
            help="Score to combine; may be repeated. Default: entropy and feature_distance.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Score in-distribution rows, and fit from what score a row is unusual enough for a person to look."""
    from screen.calibrate import run_calibration
    from screen.decide.request import CalibrationConfig
    from screen.progress import make_listener

    wanted = CalibrationConfig(review_rate, reference, distance, tuple(detector or ()))
    with make_listener() as listener:
        report = run_calibration(model, source, output, config, wanted, listener)
    typer.echo(report.to_text())


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(metavar="MODEL.onnx", help="An exported model.", show_default=False)],
    passes: Annotated[int, typer.Option("--passes", "-T", help="Passes to predict the cost of.")] = 100,
    memory: Annotated[int, typer.Option(help="MiB that the tensors of a run may take.")] = 512,
    masks: Annotated[str, typer.Option(help="shared or per-row, as for run.")] = "shared",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what an exported model promises, and how the engine would run it."""
    from screen.inspection import inspect_model

    config = RunConfig(passes=passes, memory=memory, masks=masks)
    inspection = inspect_model(model, config)
    typer.echo(inspection.to_json() if as_json else inspection.to_text())


@app.command()
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

    from screen.review.evaluate import evaluate_results
    from screen.review.show import plot_evaluation, print_evaluation
    from screen.storage import write_text

    evaluation = evaluate_results(known, others or [], label=label)
    print_evaluation(evaluation, Console(highlight=False, width=None if sys.stdout.isatty() else 110))
    if json_file is not None:
        write_text(json_file, evaluation.to_json() + "\n")
    if plot is not None:
        plot_evaluation(evaluation, plot)


@app.command()
def report(
    results: Annotated[str, typer.Argument(metavar="RESULTS", help="The OUTPUT of a run.", show_default=False)],
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
    from screen.places import as_place
    from screen.review.gather import gather_findings
    from screen.review.page import refuse_foreign, write_page

    refuse_foreign(as_place(page))
    findings = gather_findings(results, top=top, against=against, moved_to=source)
    size = write_page(findings, page)
    for note in findings.notes:
        typer.echo(f"note: {note}")
    shown, flagged = len(findings.suspects), findings.counts.rate.flagged
    typer.echo(f"{page}: {shown} images shown, {flagged} flagged, {size / 1e6:.1f} MB")


@app.command()
def queue(
    results: Annotated[str, typer.Argument(metavar="RESULTS", help="The OUTPUT of a run.", show_default=False)],
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
    source: Annotated[
        str | None,
        typer.Option(
            "--input", metavar="INPUT", help="Where the input shards are now.", show_default="where they were"
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL.onnx", help="Names the classes, which are numbers otherwise.", show_default=False),
    ] = None,
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
    url: Annotated[
        str | None,
        typer.Option(
            envvar="LABEL_STUDIO_URL",
            help="Address of Label Studio; its token is read from LABEL_STUDIO_API_KEY.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON on standard output, and all else on standard error.")
    ] = False,
) -> None:
    """Hand flagged rows on to be labelled: the most suspicious first, each image once over all nights."""
    from screen.review.destinations import choose_destination
    from screen.review.queue import QueueConfig, fill_queue

    config = QueueConfig(top, per_class, tuple(reason or ()), order_by, include_random, seed, ledger, source, model)
    chosen = partial(
        choose_destination, output=output, to=to, project=project, images=images, image_url=image_url, url=url
    )
    report = fill_queue(results, config, chosen)
    typer.echo(report.to_text(), err=as_json)
    if as_json:
        typer.echo(report.to_json())
    raise typer.Exit(report.exit_code)


@app.command()
def labels(
    labels: Annotated[
        str,
        typer.Argument(
            metavar="LABELS",
            help="Label Studio's JSON export, a .parquet or .jsonl file, or the word label-studio for a project.",
            show_default=False,
        ),
    ],
    results: Annotated[str, typer.Argument(metavar="RESULTS", help="The OUTPUT of a run.", show_default=False)],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE.parquet", help="Where the rows go.", show_default=False)
    ],
    label_column: Annotated[str, typer.Option(help="Column with the label, in .parquet and .jsonl.")] = "label",
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL.onnx", help="Names the classes, which are numbers otherwise.", show_default=False),
    ] = None,
    order_by: Annotated[
        str | None,
        typer.Option(metavar="SCORE", help="Tell shares by this score. Default: as for queue.", show_default=False),
    ] = None,
    images: Annotated[bool, typer.Option("--images", help="Write the images' bytes too.")] = False,
    source: Annotated[
        str | None,
        typer.Option(
            "--input", metavar="INPUT", help="Where the input shards are now.", show_default="where they were"
        ),
    ] = None,
    project: Annotated[
        str | None,
        typer.Option(help="Number or title of the project in Label Studio.", show_default="oodscreen"),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            envvar="LABEL_STUDIO_URL",
            help="Address of Label Studio; its token is read from LABEL_STUDIO_API_KEY.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON on standard output, and all else on standard error.")
    ] = False,
) -> None:
    """Read labels back, say what the flag is worth, and write what the next training can use."""
    from rich.console import Console

    from screen.review.labels import join_labels, read_labels
    from screen.review.show_labels import print_labels

    given = read_labels(labels, output, label_column=label_column, project=project, url=url)
    report = join_labels(given, results, output, model=model, order_by=order_by, images=images, input_source=source)
    print_labels(report, Console(highlight=False, stderr=as_json, width=None if sys.stdout.isatty() else 110))
    if as_json:
        typer.echo(report.to_json())
    raise typer.Exit(report.exit_code)


@app.command()
def doctor() -> None:
    """Print what this machine can do: onnxruntime, devices, libraries, threads, speed."""
    from screen.doctor import examine

    typer.echo(examine().to_text())


@app.command()
def demo(
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder for what the demo makes.")] = Path(
        "demo-output"
    ),
) -> None:
    """Train, export and screen on bundled MNIST digits: the whole tool in a minute."""
    from screen.demo import run_demo

    run_demo(output)


def main() -> None:
    """Run the command line; turn every error into a message and an exit code.

    With `--json` an error is a line of JSON on standard output too. Typer itself ends the process for a
    command line that cannot be parsed (2) and for `typer.Exit`.
    """
    debug = "--debug" in sys.argv[1:]
    try:
        app(prog_name="oodscreen")
    except OodscreenError as error:
        if debug:
            raise
        _fail(error)
    except Exception as error:
        if debug:
            raise
        _fail(
            OodscreenError(
                f"unexpected {type(error).__name__}: {error}",
                wanted="no such thing; this is a bug",
                next_step="run again with --debug and report what it prints",
            )
        )


def _fail(error: OodscreenError) -> NoReturn:
    code = error.exit_code
    typer.echo(f"error: {error}", err=True)
    if "--json" in sys.argv[1:]:
        told = {"found": error.found, "wanted": error.wanted, "next": error.next_step}
        typer.echo(json.dumps({"exit_code": int(code), "meaning": code.meaning, "error": told}))
    sys.exit(int(code))
