"""AccuracyConfig: the options of the accuracy check of an export.

In: options of the command line, or keywords from Python. Out: a frozen dataclass with checked values. Each option is
declared once, as a field (`export.options`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import typer

from export.contract.labelled import Labelled, LabelledReader
from export.errors import OptionRefused
from export.options import check_options

_ACCURACY = "Accuracy check"
_CHECK_ROWS = 500


@dataclass(frozen=True, kw_only=True)
class AccuracyConfig:
    """Options of the accuracy check on labelled rows."""

    check_data: Annotated[
        str | None,
        typer.Option(
            metavar="SHARDS",
            help="Labelled shards (a Parquet file, a folder or a glob) on which to compare the accuracies of the "
            "exported file and of MODEL.",
            show_default=False,
            rich_help_panel=_ACCURACY,
        ),
    ] = None
    label_column: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column of the labels: class numbers, class names as in --classes, or, for a multi-label model, "
            "lists of 0 and 1.",
            show_default="label",
            rich_help_panel=_ACCURACY,
        ),
    ] = None
    image_column: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column of the images.", show_default="image", rich_help_panel=_ACCURACY),
    ] = None
    image_root: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Base folder of the paths of images in the input; paths outside this folder are not read.",
            show_default=False,
            rich_help_panel=_ACCURACY,
        ),
    ] = None
    check_rows: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Maximum number of rows to check, drawn from all shards with a fixed seed.",
            show_default=str(_CHECK_ROWS),
            rich_help_panel=_ACCURACY,
        ),
    ] = None

    def __post_init__(self) -> None:
        check_options(self)
        if self.check_data is not None:
            return
        for name in ("label_column", "image_column", "image_root", "check_rows"):
            if getattr(self, name) is not None:
                raise OptionRefused(
                    f"--{name.replace('_', '-')} was given without --check-data.",
                    wanted="labelled shards to which the option applies",
                    next_step="add --check-data SHARDS, or leave the option out",
                )

    def choose_rows(self, reader: LabelledReader) -> Labelled | None:
        """The function that reads the rows to check; None without `check_data`.

        Args:
            reader: function that reads labelled rows from shards.
        """
        if self.check_data is None:
            return None
        return partial(
            reader,
            source=self.check_data,
            label_column=self.label_column or "label",
            image_column=self.image_column or "image",
            image_root=self.image_root,
            rows=self.rows,
        )

    @property
    def rows(self) -> int:
        """Maximum number of rows to check."""
        return _CHECK_ROWS if self.check_rows is None else self.check_rows
