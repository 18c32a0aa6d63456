"""DecisionOptions: the options that determine scores and flags.

In: options of the command line, or keywords from Python. Out: a base class of `RunConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from export.errors import OptionRefused
from screen.command_line.options import DECISION_PANEL
from screen.settings.passes import MaskMode, PassSettings, Precision


@dataclass(frozen=True, kw_only=True)
class DecisionOptions:
    """Options that determine scores and flags; the help text of each option documents its field."""

    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Calibration file that `oodscreen calibrate` wrote for this model; rows get an `ood_score` and a "
            "`p_value`, and are flagged by `p_value`.",
            show_default=False,
            rich_help_panel=DECISION_PANEL,
        ),
    ] = None
    flag_if: Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            help="Rule that flags a row by its result columns, such as 'entropy > 0.5 or prediction_std > 0.2'. With "
            "a calibration, the rows that the rule flags are flagged in addition. Required for a regression without a "
            "calibration.",
            show_default="the calibration's rule, else entropy above 25 % of its maximum",
            rich_help_panel=DECISION_PANEL,
        ),
    ] = None
    passes: Annotated[
        int | None,
        typer.Option(
            "--passes",
            "-T",
            min=1,
            max=1_000_000,
            metavar="N",
            help="Number of Monte Carlo dropout passes for each image.",
            show_default="as calibrated, else 100",
            rich_help_panel=DECISION_PANEL,
        ),
    ] = None
    adaptive: Annotated[
        bool,
        typer.Option(
            "--adaptive",
            help="Early exit: stop the passes of a row once its flag is decided. The column `passes` holds the number "
            "of completed passes.",
            rich_help_panel=DECISION_PANEL,
        ),
    ] = False
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Seed for the dropout masks.",
            show_default="as calibrated, else 0",
            rich_help_panel=DECISION_PANEL,
        ),
    ] = None
    masks: Annotated[
        MaskMode | None,
        typer.Option(
            help="Dropout masks: `shared` (all rows have the same masks, which is fast), `per-row` (independent "
            "masks for each row) or `none` (the network without dropout; requires `--passes 1`).",
            show_default="as calibrated, else shared",
            rich_help_panel=DECISION_PANEL,
        ),
    ] = None

    precision: Annotated[
        Precision | None,
        typer.Option(
            help="Precision of matrix products and convolutions: `float32`, or `tf32`, which rounds the mantissas of "
            "their factors to 10 bits (GPUs only).",
            show_default="as calibrated, else float32",
            rich_help_panel=DECISION_PANEL,
        ),
    ] = None

    def settings(self, defaults: PassSettings | None = None) -> PassSettings:
        """Pass settings: the options that were given, and `defaults` for the options that were not given.

        Raises:
            OptionRefused: the masks are `none`, and the number of passes is not 1.
        """
        rest = defaults or PassSettings()
        settings = PassSettings(
            passes=rest.passes if self.passes is None else self.passes,
            seed=rest.seed if self.seed is None else self.seed,
            masks=rest.masks if self.masks is None else self.masks,
            precision=rest.precision if self.precision is None else self.precision,
        )
        if settings.masks == "none" and settings.passes != 1:
            raise OptionRefused(
                f"The masks are none (the network without dropout), but the number of passes is {settings.passes:,}.",
                wanted="one pass without dropout, because all passes would be equal",
                next_step="give --masks none together with --passes 1, or leave out --masks none"
                if defaults is None
                else "leave out --masks and --passes, which the calibration sets, or calibrate again with --masks none "
                "--passes 1",
            )
        return settings
