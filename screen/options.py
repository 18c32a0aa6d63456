"""Arguments and options that several commands have, and the panels that group options in `--help`.

In: nothing. Out: annotations and titles for Typer; the options of one command are defined with the command.
"""

from __future__ import annotations

from typing import Annotated

import typer

INPUT_PANEL = "What to score"
DECISION_PANEL = "How to decide"
CALIBRATION_PANEL = "Calibration"
SPEED_PANEL = "Speed and device"
SCALE_PANEL = "Scaling out"
NIGHTLY_PANEL = "Nightly jobs"
SOURCE_PANEL = "Images and class names"
LABEL_STUDIO_PANEL = "Label Studio"
GENERAL_PANEL = "General"
"""Titles of the panels; the last one holds `--json` and `--help`."""

ModelFile = Annotated[str, typer.Argument(metavar="MODEL.onnx", help="Exported model.", show_default=False)]

RunOutput = Annotated[str, typer.Argument(metavar="RESULTS", help="OUTPUT of a run.", show_default=False)]

AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one line of JSON on standard output, also on failure, and all else on standard error.",
        rich_help_panel=GENERAL_PANEL,
    ),
]

InputNow = Annotated[
    str | None,
    typer.Option(
        "--input",
        metavar="INPUT",
        help="Current location of the input shards.",
        show_default="where the run read them",
        rich_help_panel=SOURCE_PANEL,
    ),
]

ClassNamesModel = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL.onnx",
        help="Exported model whose class names are used.",
        show_default="names recorded by the run, else numbers",
        rich_help_panel=SOURCE_PANEL,
    ),
]

ServerUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="LABEL_STUDIO_URL",
        help="Address of Label Studio; its token is read from LABEL_STUDIO_API_KEY.",
        show_default=False,
        rich_help_panel=LABEL_STUDIO_PANEL,
    ),
]
