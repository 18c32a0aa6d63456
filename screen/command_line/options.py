"""Arguments and options that several commands share, and the titles of the option panels in `--help`.

In: nothing. Out: annotations and titles for Typer. Options of a single command are defined with that command.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from export.class_names import CLASSES_HELP, parse_class_names
from export.option import FromText

INPUT_PANEL = "What to score"
DECISION_PANEL = "How to decide"
CALIBRATION_PANEL = "Calibration"
SPEED_PANEL = "Speed and device"
SCALE_PANEL = "Scaling out"
NIGHTLY_PANEL = "Nightly jobs"
SOURCE_PANEL = "Images and class names"
LABEL_STUDIO_PANEL = "Label Studio"
LOG_PANEL = "Log"
GENERAL_PANEL = "General"
"""Titles of the panels; `General` is the panel of `--json`, `--config`, `--print-config` and `--help`."""

ModelFile = Annotated[
    str, typer.Argument(metavar="MODEL.onnx", help="ONNX file that `oodscreen export` wrote.", show_default=False)
]

RunOutput = Annotated[
    str, typer.Argument(metavar="RESULTS", help="Folder that `oodscreen run` wrote.", show_default=False)
]

AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print the outcome as one line of JSON on standard output, also after an error; other output goes to "
        "standard error.",
        rich_help_panel=GENERAL_PANEL,
    ),
]

InputNow = Annotated[
    str | None,
    typer.Option(
        "--input",
        metavar="INPUT",
        help="Current location of the input shards.",
        show_default="the location recorded by the run",
        rich_help_panel=SOURCE_PANEL,
    ),
]

ClassNamesModel = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL.onnx",
        help="Exported model from which the class names are read.",
        show_default="names recorded by the run, else numbers",
        rich_help_panel=SOURCE_PANEL,
    ),
]

GivenClassNames = Annotated[
    Sequence[str],
    FromText(str, parse_class_names),
    typer.Option(
        "--classes",
        metavar="NAMES|FILE",
        help=CLASSES_HELP,
        show_default="names recorded by the run, else numbers",
        rich_help_panel=SOURCE_PANEL,
    ),
]

ServerUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="LABEL_STUDIO_URL",
        help="Address of the Label Studio server. The access token is read from the environment variable "
        "LABEL_STUDIO_API_KEY.",
        show_default=False,
        rich_help_panel=LABEL_STUDIO_PANEL,
    ),
]
