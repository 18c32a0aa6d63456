"""The command `oodscreen`: its subcommands, and the handler of all errors.

Large libraries are imported within the command that uses them: `oodscreen --help` loads neither onnxruntime nor
TensorFlow.
"""

from __future__ import annotations

import atexit
import gc
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

import typer

import export.cli
import screen.doctor.cli
import screen.output.cli
import screen.pack.cli
import screen.review.cli
import screen.run.calibration.cli
from export.addresses import without_secrets
from export.errors import ExitCode, OodscreenError
from export.option import Selection
from export.options import as_options
from screen.command_line.command import Command, CommandLine, explain_unexpected
from screen.command_line.configuration import Derive, with_configuration
from screen.command_line.log_config import LogConfig
from screen.command_line.options import NIGHTLY_PANEL, AsJson, ModelFile
from screen.command_line.sources import PREFIX
from screen.command_line.startup import keep_pandas_out_of_pyarrow
from screen.command_line.streams import keep_streams
from screen.config import ForceChoice, RunConfig
from screen.settings.passes import PassSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from export.contract.labelled import LabelledBatch, LabelledReader
    from export.contract.metadata import ModelContract

_Function = TypeVar("_Function", bound=Callable[..., Any])

app = typer.Typer(
    name="oodscreen",
    cls=CommandLine,
    help="Find out-of-distribution images in large data sets, with Monte Carlo dropout.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": PREFIX},
)
_PREPARE, _SCREEN, _REVIEW, _START = "Prepare", "Screen", "Review results", "Get started"
"""Titles of the panels of commands in `oodscreen --help`."""


def _command(
    name: str, *, panel: str, cls: type[Command] = Command, derive: Derive | None = None
) -> Callable[[_Function], _Function]:
    """A decorator that adds a command with `--config` and `--print-config`; the decorator returns its argument."""

    def add(function: _Function) -> _Function:
        app.command(name, cls=cls, rich_help_panel=panel)(with_configuration(as_options(function), derive))
        return function

    return add


_command("export", panel=_PREPARE)(export.cli.export)


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
    """Read labelled rows for `export --check-data`; a callback, because the package `export` never imports `screen`."""
    from screen.input.labelled import read_labelled

    return read_labelled(
        contract, source, label_column=label_column, image_column=image_column, image_root=image_root, rows=rows
    )


@app.callback(invoke_without_command=True)
def common(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            allow_from_autoenv=False,  # images of containers often set OODSCREEN_VERSION
            help="Print the version.",
        ),
    ] = False,
) -> None:
    """Find out-of-distribution images in large data sets, with Monte Carlo dropout."""
    reader: LabelledReader = _read_labelled
    context.obj = reader
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(ExitCode.REFUSED)


class _RunCommand(Command):
    """The command `run`, in which `--force` without a value means `--force all`, at any position."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Replace `--force` without a value by `--force=all`; the parser would take the next word as the value."""
        following = [*args, ""][1:]
        words = [
            "--force=all" if word == "--force" and next_word not in get_args(ForceChoice) else word
            for word, next_word in zip(args, following, strict=True)
        ]
        return super().parse_args(ctx, words)


def _derive_settings(values: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """The pass settings of the calibration, else the default pass settings: value and source in words, by name."""
    if values["calibration"] is None:
        return {name: (value, "default") for name, value in asdict(PassSettings()).items()}
    from screen.decide.calibration import read_calibration
    from screen.files.paths import name_place

    settings = read_calibration(values["calibration"]).binding.settings
    source = f"calibration {name_place(values['calibration'])}"
    return {name: (value, source) for name, value in asdict(settings).items()}


@_command("run", panel=_SCREEN, cls=_RunCommand, derive=_derive_settings)
@as_options
def run(
    model: ModelFile,
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="Parquet shard, folder of shards, or glob.", show_default=False)
    ],
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Folder of the result shards.", show_default=False)],
    config: RunConfig,
    log: LogConfig,
    metrics: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.prom",
            help="Metrics file to write, for the textfile collector of Prometheus' node_exporter.",
            show_default=False,
            rich_help_panel=NIGHTLY_PANEL,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score every image of INPUT with T dropout passes, and flag the images that a person should review."""
    from screen.command_line.log import print_outcome

    keep_pandas_out_of_pyarrow()
    from screen.execution import execute_run
    from screen.run.progress import make_listener
    from screen.run.stopping import stop_on_signals

    with stop_on_signals() as stop, make_listener(log) as listener:
        summary = execute_run(model, source, output, config, listener, metrics=metrics, stop=stop)
    lines = [(line.text, line.is_warning) for line in summary.lines()]
    print_outcome(lines, log, summary.to_json() if as_json else None)
    raise typer.Exit(summary.exit_code)


_command("check", panel=_SCREEN)(screen.output.cli.check)
_command("forget", panel=_SCREEN)(screen.output.cli.forget)
_command("calibrate", panel=_PREPARE)(screen.run.calibration.cli.calibrate)


@_command("inspect", panel=_PREPARE)
@as_options
def inspect(
    file: Annotated[
        str,
        typer.Argument(
            metavar="MODEL.onnx|CALIBRATION",
            help="ONNX file that `oodscreen export` wrote, or calibration file that `oodscreen calibrate` wrote.",
            show_default=False,
        ),
    ],
    config: Annotated[
        RunConfig,
        Selection(only=("passes", "masks", "memory"), defaults={**asdict(PassSettings()), "memory": 512}),
    ],
    as_json: AsJson = False,
) -> None:
    """Print the properties of an exported model and the cost of its passes, or the properties of a calibration."""
    from screen.inspection import inspect_file

    inspection = inspect_file(file, config)
    typer.echo(inspection.to_json() if as_json else inspection.to_text())


_command("pack", panel=_PREPARE)(screen.pack.cli.pack)
_command("report", panel=_REVIEW)(screen.review.cli.report)
_command("evaluate", panel=_REVIEW)(screen.review.cli.evaluate)
_command("queue", panel=_REVIEW)(screen.review.cli.queue)
_command("labels", panel=_REVIEW)(screen.review.cli.labels)
_command("doctor", panel=_START)(screen.doctor.cli.doctor)


@_command("demo", panel=_START)
def demo(
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder for the files of the demonstration.")] = Path(
        "demo-output"
    ),
) -> None:
    """Train, export, calibrate and screen on bundled MNIST digits, in about a minute."""
    from screen.demo import run_demo

    run_demo(output)


_COLLECTION_THRESHOLD = 50_000
"""Allocations between garbage collections; importing modules creates many objects and hardly any garbage."""


def main() -> None:
    """Run the command line; print an error as text, with `--json` also as JSON, and exit with the exit code.

    If standard output could not be written, the command runs to its end, and the exit code is 1, unless an error
    of the command determines the exit code.
    """
    gc.set_threshold(_COLLECTION_THRESHOLD)
    atexit.register(gc.freeze)
    output = keep_streams()
    line: Any = typer.main.get_command(app)
    try:
        _run(line)
    except SystemExit as ended:
        failure = output.failure(required=line.as_json)
        if failure is None:
            raise
        line.print_error(failure)
        is_done = ended.code in (ExitCode.DONE, ExitCode.UNREADABLE_INPUT, ExitCode.DRIFT)
        raise SystemExit(int(failure.exit_code) if is_done else ended.code) from None


def _run(line: Any) -> None:
    try:
        sys.exit(line(prog_name="oodscreen", standalone_mode=False) or 0)
    except OodscreenError as error:
        if line.debug:
            typer.echo(without_secrets(traceback.format_exc()), err=True)
        line.end(error)
    except Exception as error:  # noqa: BLE001  every error becomes a message and an exit code
        if line.debug:
            typer.echo(without_secrets(traceback.format_exc()), err=True)
        line.end(explain_unexpected(error))
