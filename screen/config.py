"""RunConfig: the options of a run.

In: options of the command line, or keywords from Python. Out: frozen dataclasses with checked values. Each option is
declared once, as a field (`export.options`). A result records the digest of the options that determine it
(`fingerprint`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from export.errors import OptionRefused
from export.options import check_options
from screen.command_line.options import DECISION_PANEL, INPUT_PANEL, NIGHTLY_PANEL, SCALE_PANEL, SPEED_PANEL
from screen.device import DeviceRequest
from screen.partition import ShardPartition

if TYPE_CHECKING:
    from export.contract.reader import ExportedModel

RESULT_FORMAT = 3
"""Version of the results; it changes whenever the same configuration would produce different results."""

MaskMode = Literal["shared", "per-row"]
Precision = Literal["float32", "tf32"]
EngineChoice = Literal["local", "ray"]
ForceChoice = Literal["all", "quarantined"]

_DECIDES = ("image_column", "id_column", "keep", "image_root", "max_pixels")
"""Fields of RunConfig that determine a result, in addition to the pass settings, the flag rule and the calibration."""


@dataclass(frozen=True)
class PassSettings:
    """Settings that, together with the model, determine the passes of a row.

    Attributes:
        passes: number of passes, T.
        seed: seed for the dropout masks.
        masks: `shared` or `per-row`.
        precision: `float32`, or `tf32`, with which a GPU rounds the factors of matrix products and convolutions to 10
            bits.
    """

    passes: int = 100
    seed: int = 0
    masks: str = "shared"
    precision: str = "float32"

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values.

        `precision` is left out if it is `float32`, as in the files of versions that had no other precision.
        """
        values = asdict(self)
        if self.precision == "float32":
            del values["precision"]
        return values


@dataclass(frozen=True)
class BadRowLimit:
    """Maximum number or share of rows that could not be scored; above this limit a run ends with exit code 3.

    Attributes:
        number: number of rows, or percentage of the rows.
        is_percent: whether `number` is a percentage.
    """

    number: float
    is_percent: bool

    @classmethod
    def parse(cls, text: str) -> BadRowLimit:
        """Parse a limit of the form `N` or `P%`.

        Raises:
            OptionRefused: the text has neither form, or the percentage is above 100.
        """
        match = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)\s*%", text.strip(), re.ASCII)
        limit = cls(float(match[1] or match[2]), match[2] is not None) if match else None
        if limit is None or (limit.is_percent and limit.number > 100):
            raise OptionRefused(
                f"--max-bad-rows is {text!r}.",
                wanted="a number of rows such as 100, or a percentage such as 0.5%, at most 100%",
                next_step="give a number or a percentage, or leave the option out for 1%",
            )
        return limit

    def is_exceeded(self, bad: int, rows: int) -> bool:
        """Whether the number of bad rows is above the limit."""
        return bad > (rows * self.number / 100 if self.is_percent else self.number)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Options of a run; the help text of each option documents its field."""

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
            help="Base folder of the paths in the image column; paths outside this folder are not read.",
            show_default=False,
            rich_help_panel=INPUT_PANEL,
        ),
    ] = None
    max_pixels: Annotated[
        int,
        typer.Option(
            min=1,
            max=2**31,
            metavar="N",
            help="Maximum number of pixels in an image; larger images are not decoded.",
            rich_help_panel=INPUT_PANEL,
        ),
    ] = 2**26

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
            help="Rule on result columns that flags a row: 'entropy > 0.5 or prediction_std > 0.2'. With a "
            "calibration, the rows that the rule flags are flagged in addition. Required for a regression without a "
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
            help="Dropout masks: `shared` (all rows have the same masks, which is fast) or `per-row` (independent "
            "masks for each row).",
            show_default="as calibrated, else shared",
            rich_help_panel=DECISION_PANEL,
        ),
    ] = None

    precision: Annotated[
        Precision | None,
        typer.Option(
            help="Precision of matrix products and convolutions: `float32`, or `tf32`, which rounds their factors to "
            "10 bits (GPUs only).",
            show_default="as calibrated, else float32",
            rich_help_panel=DECISION_PANEL,
        ),
    ] = None

    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda|cuda:N",
            autocompletion=lambda: ["auto", "cpu", "cuda"],
            help="Device of the passes; `auto` is CUDA if it works on this machine, else the CPU; `cuda:1` is the "
            "second GPU.",
            rich_help_panel=SPEED_PANEL,
        ),
    ] = "auto"
    threads: Annotated[
        int,
        typer.Option(
            min=0,
            max=1024,
            metavar="N",
            help="Number of threads for passes and for decoding, 0 for one on each core that this process may use "
            "(affinity, CPU quota, OMP_NUM_THREADS); results do not depend on this number.",
            rich_help_panel=SPEED_PANEL,
        ),
    ] = 0
    memory: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=2**24,
            metavar="N",
            help="Maximum size of the tensors of all concurrent session runs, in MiB; the process itself needs more.",
            show_default="512 on the CPU, half of the free memory of a GPU",
            rich_help_panel=SPEED_PANEL,
        ),
    ] = None
    batch_size: Annotated[
        int,
        typer.Option(
            min=1,
            max=2**20,
            metavar="N",
            help="Maximum number of rows that are read, decoded and scored together.",
            rich_help_panel=SPEED_PANEL,
        ),
    ] = 2048

    engine: Annotated[
        EngineChoice,
        typer.Option(
            help="Executor that scores the rows: `local` is this process, `ray` the workers of a Ray cluster; the "
            "results are the same.",
            rich_help_panel=SCALE_PANEL,
        ),
    ] = "local"
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address of the Ray cluster.",
            show_default="RAY_ADDRESS, else a cluster on this machine",
            rich_help_panel=SCALE_PANEL,
        ),
    ] = None
    part: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Score part I of N of the shards, as one job of a job array; all jobs have the same OUTPUT.",
            show_default=False,
            rich_help_panel=SCALE_PANEL,
        ),
    ] = None

    max_bad_rows: Annotated[
        str,
        typer.Option(
            metavar="N|P%",
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
        keep = (self.keep,) if isinstance(self.keep, str) else self.keep or ()
        object.__setattr__(self, "keep", tuple(dict.fromkeys(keep)))
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
        if self.image_root is not None:
            if not Path(self.image_root).is_dir():
                raise OptionRefused(
                    f"--image-root {self.image_root} is not a folder.",
                    wanted="the base folder of the paths in the image column",
                    next_step="check the path",
                )
            object.__setattr__(self, "image_root", str(Path(self.image_root).resolve()))
        BadRowLimit.parse(self.max_bad_rows)
        if self.address is not None and self.engine != "ray":
            raise OptionRefused(
                f"--address is {self.address}, and --engine is {self.engine}.",
                wanted="--address together with --engine ray only",
                next_step="add --engine ray, or leave out --address",
            )
        if self.part is not None:
            ShardPartition.parse(self.part)
        if self.alarm and (self.calibration is None or self.flag_if is not None):
            raise OptionRefused(
                f"--alarm was given {'without --calibration' if self.calibration is None else 'with --flag-if'}.",
                wanted="rows flagged by a calibration alone, because the alarm compares the flags with its prediction "
                "interval",
                next_step="add --calibration and leave out --flag-if, or leave out --alarm",
            )

    def settings(self, defaults: PassSettings | None = None) -> PassSettings:
        """Pass settings: the options that were given, and `defaults` for the others."""
        rest = defaults or PassSettings()
        return PassSettings(
            passes=rest.passes if self.passes is None else self.passes,
            seed=rest.seed if self.seed is None else self.seed,
            masks=rest.masks if self.masks is None else self.masks,
            precision=rest.precision if self.precision is None else self.precision,
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
        """The configuration that determines a result, as JSON values: recorded in every file, hashed by `fingerprint`.

        Args:
            model: exported model, of which the digest is recorded.
            mask_algorithm: version of the algorithm that draws masks from the seed.
            adaptive_algorithm: version of the early exit; recorded only with `adaptive`.
            settings: pass settings after the defaults of the calibration are applied.
            rule: text of the flag rule, which includes that of the calibration.
            calibration: digest of the calibration; None without one.
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


def refuse_tf32(why: str) -> OptionRefused:
    """The error for the precision tf32 on a device without it.

    Args:
        why: the reason why the device does not have it.
    """
    return OptionRefused(
        f"The precision is tf32 (by --precision or by the calibration), but {why}.",
        wanted="an NVIDIA GPU of compute capability 8.0 (Ampere) or higher, the only devices with tf32",
        next_step="use a GPU of this kind, or give --precision float32; a calibration that was made with tf32 must "
        "be made again with float32",
    )


def fingerprint(identity: dict[str, Any]) -> str:
    """SHA-256 of the configuration that determines a result, from `RunConfig.identity`."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
