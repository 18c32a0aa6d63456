"""CalibrationConfig: the options of a calibration, in addition to those for reading rows and running passes.

In: options of the command line, or keywords from Python. Out: a frozen dataclass with checked values. Each option is
declared once, as a field (`export.options`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Literal

import typer

from export.errors import OptionRefused
from export.option import FromText, Selection
from export.options import check_options
from export.shares import parse_share
from screen.command_line.options import CALIBRATION_PANEL
from screen.config import RunConfig
from screen.settings.passes import PassSettings

DistanceChoice = Literal["cosine", "euclidean"]
FEATURE_GROUPS = ("layout", "contrast", "penultimate")

REVIEW_RATE = 0.02
"""Default target share of in-distribution rows that are flagged."""

LEAST_REVIEW_RATE = 1e-6
"""Lower bound of the target share; with this target share, a calibration requires more than a million rows."""


@dataclass(frozen=True)
class CalibrationConfig:
    """Options of a calibration, in addition to those for reading rows and running passes (`RunConfig`)."""

    review_rate: Annotated[
        float,
        typer.Option(
            metavar="P%|SHARE",
            help="Target share of in-distribution rows that are flagged, for example 0.02 or 2%; at least 0.000001.",
            show_default="2%",
            rich_help_panel=CALIBRATION_PANEL,
        ),
        FromText(str, partial(parse_share, "--review-rate")),
    ] = REVIEW_RATE
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="SHARDS",
            help="Shards of the reference set, from which distances are measured: in-distribution rows, for example "
            "training rows.",
            show_default="a third of IN_DISTRIBUTION",
            rich_help_panel=CALIBRATION_PANEL,
        ),
    ] = None
    features: Annotated[
        Sequence[str],
        typer.Option(
            metavar="|".join(FEATURE_GROUPS),
            help="Features whose distance from the reference set is a detector: `layout` (channel means of an early "
            "tensor in each spatial cell), `contrast` (channel means and standard deviations of the same tensor) or "
            "`penultimate` (input of the last layer with weights); may be repeated.",
            show_default="all that the model has",
            rich_help_panel=CALIBRATION_PANEL,
        ),
    ] = ()
    distance: Annotated[
        DistanceChoice | None,
        typer.Option(
            help="Metric of all distances: `cosine`, or `euclidean` between standardized features.",
            show_default="euclidean for contrast, else cosine",
            rich_help_panel=CALIBRATION_PANEL,
        ),
    ] = None
    detectors: Annotated[
        Sequence[str],
        typer.Option(
            "--detector",
            metavar="SCORE",
            help="Score to combine into `ood_score`, instead of the default scores; may be repeated.",
            show_default="the distances and, for a classifier, entropy",
            rich_help_panel=CALIBRATION_PANEL,
        ),
    ] = ()

    def __post_init__(self) -> None:
        for name in ("detectors", "features"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))
        if not LEAST_REVIEW_RATE <= self.review_rate < 1:
            raise OptionRefused(
                f"--review-rate is {self.review_rate:g}.",
                wanted=f"a share of at least {LEAST_REVIEW_RATE:f} and below 1: with 0.02 or 2%, 2 % of rows like "
                "those of the calibration are flagged",
                next_step="give a share or a percentage in this range",
            )
        check_options(self)
        unknown = [name for name in self.features if name not in FEATURE_GROUPS]
        if unknown:
            raise OptionRefused(
                f"--features is {unknown[0]}.",
                wanted=" or ".join(FEATURE_GROUPS),
                next_step="give one of these values, or leave the option out",
            )
        if self.detectors and self.features:
            raise OptionRefused(
                "--detector and --features were both given.",
                wanted="one of these options: --detector selects all detectors, --features selects only the distances",
                next_step="leave out --features, and add --detector layout_distance, contrast_distance or "
                "penultimate_distance",
            )


CalibrationRun = Annotated[
    RunConfig,
    Selection(
        leave_out=(
            "calibration",
            "flag_if",
            "id_column",
            "keep",
            "class_names",
            "max_bad_rows",
            "alarm",
            "alarm_rows",
            "engine",
            "address",
            "part",
            "force",
        ),
        defaults=asdict(PassSettings()),
        help={"adaptive": "Measure the effect of `run --adaptive` on the calibration set."},
    ),
]
"""The options that a calibration shares with a run: options for reading rows and running passes."""
