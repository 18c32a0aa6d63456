"""The command `oodscreen calibrate`.

In: the model, in-distribution rows and the options. Out: a calibration file, a report on standard output, and a log.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from export.options import as_options
from screen.command_line.log_config import LogConfig
from screen.command_line.options import CALIBRATION_PANEL, AsJson, ModelFile
from screen.command_line.startup import keep_pandas_out_of_pyarrow
from screen.decide.config import CalibrationConfig, CalibrationRun


@as_options
def calibrate(
    model: ModelFile,
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN_DISTRIBUTION",
            help="Shards of in-distribution rows that the model was NOT trained on.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="CALIBRATION",
            help="Calibration file to write.",
            show_default=False,
            rich_help_panel=CALIBRATION_PANEL,
        ),
    ],
    wanted: CalibrationConfig,
    config: CalibrationRun,
    log: LogConfig,
    as_json: AsJson = False,
) -> None:
    """Fit the flag threshold on in-distribution rows."""
    from screen.command_line.log import print_outcome

    keep_pandas_out_of_pyarrow()
    from screen.run.calibration.calibrate import run_calibration
    from screen.run.progress import make_listener

    with make_listener(log) as listener:
        report = run_calibration(model, source, output, config, wanted, listener)
    lines = [(text, False) for text in report.to_text().splitlines()]
    print_outcome(lines, log, report.to_json() if as_json else None)
