"""QueueConfig and TargetConfig: the options that select the rows of a queue, and its destination.

In: options of the command line, or keywords from Python. Out: frozen dataclasses with checked values. Each option is
declared once, as a field (`export.options`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from export.class_names import parse_class_names
from export.errors import OptionRefused
from export.option import FormerName
from export.options import check_options
from export.shares import parse_share
from screen.command_line.options import LABEL_STUDIO_PANEL, ClassNamesModel, GivenClassNames, InputNow, ServerUrl

QueueFormat = Literal["parquet", "jsonl", "csv", "imagefolder", "label-studio-tasks", "label-studio"]

_ROWS = "Which rows"
_TARGET = "Where the queue goes"


@dataclass(frozen=True, kw_only=True)
class QueueConfig:
    """Options that select the rows of a queue."""

    top: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Maximum number of flagged rows to export.",
            show_default="all",
            rich_help_panel=_ROWS,
        ),
    ] = None
    per_class: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Maximum number of flagged rows to export of each predicted class.",
            show_default="all",
            rich_help_panel=_ROWS,
        ),
    ] = None
    reasons: Annotated[
        Sequence[str],
        typer.Option(
            "--reason",
            metavar="NAME",
            help="Score or status by which flagged rows are selected: a flagged row is exported only if its "
            "`flag_reasons` contain one of the given names. May be repeated.",
            show_default=False,
            rich_help_panel=_ROWS,
        ),
    ] = ()
    order_by: Annotated[
        str | None,
        typer.Option(
            metavar="SCORE",
            help="Score by which rows are ordered, the most suspicious first.",
            show_default="ood_score, else the first score of the flag rule",
            rich_help_panel=_ROWS,
        ),
    ] = None
    include_random: Annotated[
        str | None,
        typer.Option(
            metavar="P%|SHARE",
            help="Share of the unflagged rows to draw at random and to export in addition, with `audit` in the column "
            "`source`.",
            show_default=False,
            rich_help_panel=_ROWS,
        ),
    ] = None
    seed: Annotated[
        int,
        FormerName("--seed"),
        typer.Option(
            "--audit-seed", min=0, metavar="N", help="Seed for the draw of --include-random.", rich_help_panel=_ROWS
        ),
    ] = 0
    ledger: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Directory of the deduplication ledger.",
            show_default="RESULTS/_queue.ledger",
            rich_help_panel=_TARGET,
        ),
    ] = None
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print the number of rows that the command would export, and the first 20 of these rows; write "
            "nothing to files or to a server.",
            rich_help_panel=_TARGET,
        ),
    ] = False
    source: InputNow = None
    model: ClassNamesModel = None
    class_names: GivenClassNames = ()

    def __post_init__(self) -> None:
        names = self.class_names
        object.__setattr__(self, "class_names", parse_class_names(names) if isinstance(names, str) else tuple(names))
        object.__setattr__(self, "reasons", tuple(self.reasons))
        if self.reasons:
            from screen.review.ranking import check_reasons

            check_reasons(tuple(self.reasons))
        check_options(self)
        self.share()

    def share(self) -> float:
        """Expected fraction of the unflagged rows to draw, 0 to 1.

        Raises:
            OptionRefused: `include_random` is not a percentage or share above 0 and at most 100 %.
        """
        if self.include_random is None:
            return 0.0
        share = parse_share("--include-random", self.include_random)
        if not share > 0:
            raise OptionRefused(
                f"--include-random is {self.include_random!r}.",
                wanted="a percentage of the unflagged rows, above 0% and at most 100%",
                next_step="give a percentage, for example --include-random 0.5%",
            )
        return share


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    """Options that select the destination of a queue: a file, a folder, or a Label Studio project."""

    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="QUEUE",
            help="File or folder of the queue to write.",
            show_default=False,
            rich_help_panel=_TARGET,
        ),
    ] = None
    to: Annotated[
        QueueFormat | None,
        typer.Option(
            metavar="FORMAT",
            help="Format of QUEUE: parquet, jsonl, csv, imagefolder or label-studio-tasks; or label-studio for a "
            "project on a server.",
            show_default="by the ending of QUEUE",
            rich_help_panel=_TARGET,
        ),
    ] = None
    project: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Labelling project; an image is queued at most once per project. For Label Studio, give the number or "
            "the title of a project; a project is created if none has this title.",
            show_default="the name default, or oodscreen for Label Studio",
            rich_help_panel=_TARGET,
        ),
    ] = None
    images: Annotated[
        bool,
        typer.Option(
            "--images/--no-images",
            help="Write the image bytes into a parquet or jsonl queue.",
            rich_help_panel=_TARGET,
        ),
    ] = True
    image_url: Annotated[
        str | None,
        typer.Option(
            metavar="TEMPLATE",
            help="Template of the image addresses in Label Studio tasks, such as 'https://.../{path}'; placeholders: "
            "{path}, {id}, {shard}, {row}, {key}.",
            show_default="images are embedded in the tasks",
            rich_help_panel=LABEL_STUDIO_PANEL,
        ),
    ] = None
    url: ServerUrl = None

    def __post_init__(self) -> None:
        check_options(self)
