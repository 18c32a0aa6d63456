"""ColumnOptions: the options that select the columns of the input and limit what is read.

In: options of the command line, or keywords from Python. Out: a base class of `RunConfig` with checked values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from export.errors import OptionRefused
from screen.command_line.options import INPUT_PANEL

MAX_PIXELS = 178_956_970
"""Maximum of `--max-pixels`: Pillow opens no image with more pixels, which is twice its `MAX_IMAGE_PIXELS`."""


@dataclass(frozen=True, kw_only=True)
class ColumnOptions:
    """Options that select the columns of the input; the help text of each option documents its field."""

    image_column: Annotated[
        str, typer.Option(metavar="COLUMN", help="Column of the images.", rich_help_panel=INPUT_PANEL)
    ] = "image"
    id_column: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column of the row ids, which become the result column `id`.",
            show_default="id, if the column exists",
            rich_help_panel=INPUT_PANEL,
        ),
    ] = None
    keep: Annotated[
        Sequence[str],
        typer.Option(
            metavar="COLUMN",
            help="Input column to copy into the results; may be repeated.",
            show_default=False,
            rich_help_panel=INPUT_PANEL,
        ),
    ] = ()
    image_root: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Base folder of the paths of images in the input; paths outside this folder are not read.",
            show_default=False,
            rich_help_panel=INPUT_PANEL,
        ),
    ] = None
    max_pixels: Annotated[
        int,
        typer.Option(
            min=1,
            max=MAX_PIXELS,
            metavar="N",
            help="Maximum number of pixels in an image; larger images are not decoded.",
            rich_help_panel=INPUT_PANEL,
        ),
    ] = 2**26
    go_on: Annotated[
        bool,
        typer.Option(
            "--go-on",
            help="Continue even if none of the rows that are tried first can be read. By default, the command stops in "
            "this case and writes nothing, if an option can correct the reason for most of these rows.",
            rich_help_panel=INPUT_PANEL,
        ),
    ] = False

    def __post_init__(self) -> None:
        keep = (self.keep,) if isinstance(self.keep, str) else self.keep or ()
        object.__setattr__(self, "keep", tuple(dict.fromkeys(keep)))
        if self.image_root is not None:
            if not Path(self.image_root).is_dir():
                raise OptionRefused(
                    f"--image-root {self.image_root} is not a folder.",
                    wanted="the base folder of the paths in the image column",
                    next_step="check the path",
                )
            object.__setattr__(self, "image_root", str(Path(self.image_root).resolve()))
