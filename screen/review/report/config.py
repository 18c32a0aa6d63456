"""ReportConfig: the options of a report.

In: options of the command line, or keywords from Python. Out: a frozen dataclass with checked values. Each option is
declared once, as a field (`export.options`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from export.options import check_options
from screen.command_line.options import GivenClassNames


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Options of a report."""

    against: Annotated[
        str | None,
        typer.Option(
            metavar="EARLIER",
            help="Folder that an earlier `oodscreen run` wrote, for a comparison of the results.",
            show_default=False,
        ),
    ] = None
    top: Annotated[
        int,
        typer.Option(
            min=1,
            max=1000,
            metavar="N",
            help="Maximum number of cards, the most suspicious images first; a card also shows similar images.",
        ),
    ] = 100
    look_alikes: Annotated[
        int,
        typer.Option(
            min=0,
            max=100_000,
            metavar="N",
            help="Maximum number of flagged rows, the most suspicious first, whose images are compared; similar images "
            "are shown together.",
        ),
    ] = 1000
    title: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Title of the page.", show_default="the name of the folder RESULTS"),
    ] = None
    source: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="INPUT",
            help="Current location of the input shards.",
            show_default="the location recorded by the run",
        ),
    ] = None
    class_names: GivenClassNames = ()

    def __post_init__(self) -> None:
        check_options(self)
