"""RunConfig: the options of a run.

In: options of the command line, or keywords from Python. Out: frozen dataclasses with checked values. Each option is
declared once, as a field (`export.options`). The digest of the options that determine the results (`fingerprint`) is
recorded with the results.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from export.class_names import CLASSES_HELP, parse_class_names
from export.errors import OptionRefused
from export.option import FromText
from export.options import check_options
from screen.command_line.options import INPUT_PANEL, NIGHTLY_PANEL
from screen.device import DeviceRequest
from screen.partition import ShardPartition
from screen.settings.bad_rows import BadRowLimit
from screen.settings.columns import ColumnOptions
from screen.settings.decision import DecisionOptions
from screen.settings.execution import ExecutionOptions
from screen.settings.passes import PassSettings, refuse_tf32

if TYPE_CHECKING:
    from export.contract.reader import ExportedModel

RESULT_FORMAT = 3
"""Version of the results; increased with each change that gives the same configuration other results."""

ForceChoice = Literal["all", "quarantined"]

_DECIDES = ("image_column", "id_column", "keep", "image_root", "max_pixels")
"""Fields of RunConfig that determine a result, in addition to the pass settings, `adaptive`, the flag rule and the
calibration."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(ExecutionOptions, DecisionOptions, ColumnOptions):
    """Options of a run, in addition to those of the base classes; the help text of each option documents its field."""

    class_names: Annotated[
        Sequence[str],
        FromText(str, parse_class_names),
        typer.Option(
            "--classes",
            metavar="NAMES|FILE",
            help=CLASSES_HELP,
            show_default="as recorded in OUTPUT, else as exported",
            rich_help_panel=INPUT_PANEL,
        ),
    ] = ()
    max_bad_rows: Annotated[
        str,
        typer.Option(
            metavar="N|P%|SHARE",
            help="Maximum number or share of rows that could not be scored; above this limit the run ends with exit "
            "code 3.",
            rich_help_panel=NIGHTLY_PANEL,
        ),
    ] = "1%"
    alarm: Annotated[
        bool,
        typer.Option(
            "--alarm",
            help="Drift alarm: end with exit code 4 if the number of flagged rows is outside the prediction interval "
            "of the calibration.",
            rich_help_panel=NIGHTLY_PANEL,
        ),
    ] = False
    alarm_rows: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10**9,
            metavar="N",
            help="Minimum number of readable rows for the test of `--alarm`; if a run has fewer rows, the rows of "
            "earlier runs are tested together with its rows.",
            show_default="1000",
            rich_help_panel=NIGHTLY_PANEL,
        ),
    ] = None
    force: Annotated[
        ForceChoice | None,
        typer.Option(
            help="Score finished shards again, in addition to new and changed shards: all of them (`--force` alone, or "
            "`all`), or those with rows that could not be scored (`quarantined`).",
            show_default=False,
            rich_help_panel=NIGHTLY_PANEL,
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        names = self.class_names
        object.__setattr__(self, "class_names", parse_class_names(names) if isinstance(names, str) else tuple(names))
        check_options(self)
        request = DeviceRequest.parse(self.device)
        if request.index and self.engine == "ray":
            raise OptionRefused(
                f"--device is {self.device}, and --engine is ray.",
                wanted="--device cuda with --engine ray: Ray assigns one GPU to each worker",
                next_step="give --device cuda; set CUDA_VISIBLE_DEVICES before `ray start` to choose the GPUs of "
                "a node",
            )
        if request.name == "cpu" and self.precision == "tf32":
            raise refuse_tf32("--device is cpu")
        BadRowLimit.parse(self.max_bad_rows)
        if self.address is not None and self.engine != "ray":
            raise OptionRefused(
                f"--address is {self.address}, and --engine is {self.engine}.",
                wanted="--engine ray together with --address",
                next_step="add --engine ray, or leave out --address",
            )
        if self.part is not None:
            ShardPartition.parse(self.part)
        if self.alarm and (self.calibration is None or self.flag_if is not None):
            raise OptionRefused(
                f"--alarm was given {'without --calibration' if self.calibration is None else 'with --flag-if'}.",
                wanted="rows flagged by a calibration alone, because the alarm compares the number of flags with the "
                "prediction interval of the calibration",
                next_step="add --calibration and leave out --flag-if, or leave out --alarm",
            )
        if self.alarm_rows is not None and not self.alarm:
            raise OptionRefused(
                f"--alarm-rows is {self.alarm_rows}, and --alarm was not given.",
                wanted="--alarm together with --alarm-rows",
                next_step="add --alarm, or leave out --alarm-rows",
            )

    def identity(
        self,
        model: ExportedModel,
        *,
        mask_algorithm: str,
        adaptive_algorithm: str,
        settings: PassSettings,
        rule: str,
        calibration: str | None,
    ) -> dict[str, Any]:
        """The configuration that determines a result, as JSON values for every result file and for `fingerprint`.

        Args:
            model: exported model, whose digest is recorded.
            mask_algorithm: version of the algorithm that draws masks from the seed.
            adaptive_algorithm: version of the early exit; recorded only with `adaptive`.
            settings: pass settings after the defaults of the calibration are applied.
            rule: text of the flag rule, including the rule of the calibration.
            calibration: digest of the calibration; None without a calibration.
        """
        return {
            **{name: getattr(self, name) for name in _DECIDES},
            **settings.to_json(),
            "keep": list(self.keep),
            "flag_if": rule,
            "model": model.digest,
            "mask_algorithm": mask_algorithm,
            "calibration": calibration,
            "adaptive": adaptive_algorithm if self.adaptive else None,
            "result_format": RESULT_FORMAT,
        }


def fingerprint(identity: dict[str, Any]) -> str:
    """SHA-256 of the configuration that determines a result, from `RunConfig.identity`."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
