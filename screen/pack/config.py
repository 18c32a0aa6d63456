"""PackConfig: the options of `oodscreen pack`.

In: options of the command line, or keywords from Python. Out: a frozen dataclass with checked values. Each option is
declared once, as a field (`export.options`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from export.options import check_options

SOURCE_PANEL = "What to pack"
SHARD_PANEL = "Shards"
"""Titles of the panels in `oodscreen pack --help`."""

LabelChoice = Literal["first", "last", "none"]


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """Options of a pack; the help text of each option documents its field."""

    label_from: Annotated[
        LabelChoice,
        typer.Option(
            help="Folder whose name is the label, if SOURCE is a folder of images: the `first` or the `last` folder in "
            "the path of the image relative to SOURCE; with `none`, labels are null.",
            rich_help_panel=SOURCE_PANEL,
        ),
    ] = "first"
    path_column: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column of the paths, if SOURCE is a list of paths.",
            show_default="the first of path, file_name, filename, file, image",
            rich_help_panel=SOURCE_PANEL,
        ),
    ] = None
    image_root: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Base folder of the paths in the list; paths outside this folder are not read.",
            show_default="the folder of the list",
            rich_help_panel=SOURCE_PANEL,
        ),
    ] = None
    shard_rows: Annotated[
        int,
        typer.Option(
            min=1, max=1_000_000, metavar="N", help="Maximum number of rows in a shard.", rich_help_panel=SHARD_PANEL
        ),
    ] = 20_000
    shard_size: Annotated[
        int,
        typer.Option(
            min=1,
            max=16_384,
            metavar="N",
            help="Total size of the images in a shard, in MiB, at which the shard ends.",
            rich_help_panel=SHARD_PANEL,
        ),
    ] = 512

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            OptionRefused: a value is not allowed.
        """
        check_options(self)
