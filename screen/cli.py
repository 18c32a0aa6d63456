"""The command `oodscreen`: commands, one error handler, and how a run is shown.

Nothing heavy is imported before a command needs it: `oodscreen --help` loads neither onnxruntime
nor TensorFlow.
"""

from __future__ import annotations

import atexit
import gc
import json
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

import export.cli
import screen.review.cli
from export.errors import OodscreenError
from screen.config import FORCE_KINDS, RunConfig, as_options
from screen.options import AsJson, RunOutput

if TYPE_CHECKING:
    from collections.abc import Iterable

    from export.contract.labelled import LabelledBatch
    from export.contract.metadata import ModelContract
    from screen.run.scoring import OpenExecutor

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
    from screen.input.labelled import read_labelled

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
        from screen.cluster.connect import open_cluster

        return open_cluster
    from screen.run.scoring import open_here

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
    as_json: AsJson = False,
) -> None:
    """Score every image of INPUT by T dropout passes, and flag those that a person should see."""
    from screen.run.stopping import stop_on_signals

    with stop_on_signals() as stop:
        recording: AbstractContextManager[None] = nullcontext()
        if metrics is not None:
            from screen.run.metrics import record_failure, write_metrics

            recording = record_failure(metrics, output)
        with recording:
            from screen.run.progress import make_listener
            from screen.run.runner import run_screening

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
    results: RunOutput,
    source: Annotated[
        str | None,
        typer.Option("--input", metavar="INPUT", help="Compare with the shards that were scored.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Prove that results are whole: rows in are rows out, and nothing is half, changed or left over."""
    from screen.files.paths import as_path
    from screen.output.check import check_results
    from screen.output.lock import refuse_if_held

    output = as_path(results)
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
    from screen.decide.request import CalibrationConfig
    from screen.run.calibrate import run_calibration
    from screen.run.progress import make_listener

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


for _command in (
    screen.review.cli.evaluate,
    screen.review.cli.report,
    screen.review.cli.queue,
    screen.review.cli.labels,
):
    app.command()(_command)


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


_NEW_OBJECTS = 50_000
"""After so many, Python looks for circles of them; by default after hundreds, which a module soon makes."""


def main() -> None:
    """Run the command line; turn every error into a message and an exit code.

    With `--json` an error is a line of JSON on standard output too. Typer itself ends the process for a
    command line that cannot be parsed (2) and for `typer.Exit`.
    """
    debug = "--debug" in sys.argv[1:]
    # Python looks through all objects for circles again and again while modules are loaded, and when it ends.
    gc.set_threshold(_NEW_OBJECTS)
    atexit.register(gc.freeze)
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
