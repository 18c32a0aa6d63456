"""LabelsConfig: the options by which labels are joined to results.

In: options of the command line, or keywords from Python. Out: a frozen dataclass. Each option is declared once, as a
field (`export.options`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from screen.command_line.options import LABEL_STUDIO_PANEL, ClassNamesModel, InputNow, ServerUrl


@dataclass(frozen=True, kw_only=True)
class LabelsConfig:
    """Options by which labels are read and joined to results."""

    label_column: Annotated[
        str, typer.Option(metavar="COLUMN", help="Column of the labels in a .parquet, .jsonl or .csv file.")
    ] = "label"
    label_control: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name of the Choices tag in Label Studio whose answers are the labels.",
            show_default="the tag whose choices are the classes",
            rich_help_panel=LABEL_STUDIO_PANEL,
        ),
    ] = None
    order_by: Annotated[
        str | None,
        typer.Option(
            metavar="SCORE",
            help="Score by which the flagged rows are divided into ranges in the table of flag precision.",
            show_default="ood_score, else the first score of the flag rule",
        ),
    ] = None
    images: Annotated[bool, typer.Option("--images/--no-images", help="Write the image bytes to FILE.parquet.")] = False
    ledger: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Directory of the deduplication ledger, in which the rows of labels with only a `key` are found.",
            show_default="RESULTS/_queue.ledger",
        ),
    ] = None
    source: InputNow = None
    model: ClassNamesModel = None
    project: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Number or title of the Label Studio project.",
            show_default="oodscreen",
            rich_help_panel=LABEL_STUDIO_PANEL,
        ),
    ] = None
    url: ServerUrl = None
