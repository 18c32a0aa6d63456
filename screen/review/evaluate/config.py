"""EvaluationConfig: the options of an evaluation.

In: options of the command line, or keywords from Python. Out: a frozen dataclass. Each option is declared once, as a
field (`export.options`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from export.option import FormerName


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Options of an evaluation."""

    label: Annotated[
        str | None,
        FormerName("--label"),
        typer.Option(
            "--label-column",
            metavar="COLUMN",
            help="Column of the labels, copied into the results by `run --keep`.",
            show_default=False,
        ),
    ] = None
    json_file: Annotated[
        Path | None,
        FormerName("--json"),
        typer.Option(
            "--output", "-o", metavar="FILE.json", help="JSON file to write the metrics to.", show_default=False
        ),
    ] = None
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File to write the plot of the metrics to: .svg, .png or .pdf.", show_default=False
        ),
    ] = None
