"""RunConfig: one frozen value that says how a run is done.

The command line makes its options from these fields (`as_options`), and a result is bound to
those that decide it (`fingerprint`).
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from export.contract.reader import ExportedModel
from export.errors import OptionRefused
from screen.partition import ShardPartition

RESULT_FORMAT = 2
"""Changes whenever the same configuration would write other results."""

_MASK_MODES = ("shared", "per-row")

_ENGINES = ("local", "ray")

_DECIDES = ("image_column", "id_column", "keep", "image_root", "max_pixels")

_CALIBRATED = "{}, or the calibration's"


@dataclass(frozen=True)
class PassSettings:
    """What decides the passes of a row, apart from the model.

    Attributes:
        passes: T.
        seed: of the masks.
        masks: `shared` or `per-row`.
    """

    passes: int = 100
    seed: int = 0
    masks: str = "shared"


FORCE_KINDS = ("all", "quarantined")


@dataclass(frozen=True)
class BadRowLimit:
    """How many rows may be unreadable before a run says so by its exit code.

    Attributes:
        number: rows, or percent of the rows.
        is_percent: which of the two.
    """

    number: float
    is_percent: bool

    @classmethod
    def parse(cls, text: str) -> BadRowLimit:
        """Read `N` or `P%`.

        Raises:
            OptionRefused: it is neither.
        """
        match = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)\s*%", text.strip(), re.ASCII)
        limit = cls(float(match[1] or match[2]), match[2] is not None) if match else None
        if limit is None or (limit.is_percent and limit.number > 100):
            raise OptionRefused(
                f"--max-bad-rows is {text!r}.",
                wanted="a number of rows, as in 100, or a share of them, as in 0.5%",
                next_step="give one of these, or leave the option out for 1%",
            )
        return limit

    def is_exceeded(self, bad: int, rows: int) -> bool:
        """Whether so many bad rows among so many are too many."""
        return bad > (rows * self.number / 100 if self.is_percent else self.number)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How a run is done; the help text of an option is the documentation of its field."""

    passes: Annotated[
        int | None,
        typer.Option(
            "--passes", "-T", help="Monte Carlo dropout passes for each image.", show_default=_CALIBRATED.format(100)
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(help="Of the dropout masks: same seed, same results.", show_default=_CALIBRATED.format(0)),
    ] = None
    masks: Annotated[
        str | None,
        typer.Option(
            help="shared: all rows see the same T thinned networks, which is fast. "
            "per-row: independent masks for every row.",
            show_default=_CALIBRATED.format("shared"),
        ),
    ] = None
    calibration: Annotated[
        str | None,
        typer.Option(
            help="File of `oodscreen calibrate` for this model: fills ood_score and p_value, and flags by them.",
            show_default=False,
        ),
    ] = None
    batch_size: Annotated[
        int, typer.Option(help="Rows that are read, decoded and scored together; fewer where images are large.")
    ] = 2048
    flag_if: Annotated[
        str | None,
        typer.Option(
            help="When to flag a row, on result columns: 'entropy > 0.5 or prediction_std > 0.2'. "
            "With a calibration, either one flags. Default without one: entropy above 25 % of its maximum.",
            show_default=False,
        ),
    ] = None
    adaptive: Annotated[
        bool,
        typer.Option(
            "--adaptive",
            help="Stop a row's passes where its decision is settled; the column `passes` says after how many.",
        ),
    ] = False
    image_column: Annotated[str, typer.Option(help="Column with the images.")] = "image"
    id_column: Annotated[
        str | None,
        typer.Option(help="Column with the rows' keys. Default: `id`, where there is one.", show_default=False),
    ] = None
    keep: Annotated[list[str], typer.Option(help="Input column to copy into the results; may be repeated.")] = None  # type: ignore[assignment]
    image_root: Annotated[
        str | None, typer.Option(help="Folder in which to look up images that are given by path.", show_default=False)
    ] = None
    max_pixels: Annotated[int, typer.Option(help="Images with more pixels than this are not decoded.")] = 2**26
    device: Annotated[str, typer.Option(help="auto, cpu or cuda; auto takes CUDA where a session gets it.")] = "auto"
    threads: Annotated[
        int, typer.Option(help="Threads for passes and for decoding; 0 for all cores. Results do not depend on it.")
    ] = 0
    memory: Annotated[int, typer.Option(help="MiB that the tensors of a run may take.")] = 512
    max_bad_rows: Annotated[
        str, typer.Option(metavar="N|P%", help="Unreadable rows above which the run ends with exit code 3.")
    ] = "1%"
    alarm: Annotated[
        bool,
        typer.Option(
            "--alarm",
            help="End with exit code 4 if more or fewer rows are flagged than the calibration lets expect.",
        ),
    ] = False
    engine: Annotated[
        str,
        typer.Option(
            metavar="local|ray", help="Who scores: this process, or workers on a Ray cluster; results are the same."
        ),
    ] = "local"
    address: Annotated[
        str | None,
        typer.Option(
            help="Of the Ray cluster. Default: RAY_ADDRESS, else workers on this machine alone.", show_default=False
        ),
    ] = None
    part: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Do one of N parts of the shards, as one job of an array; all parts share OUTPUT and finish as one.",
            show_default=False,
        ),
    ] = None
    force: Annotated[
        str | None,
        typer.Option(
            metavar="[all|quarantined]",
            help="Alone or with `all`: do every shard again, whatever OUTPUT holds. "
            "`quarantined`: only shards with rows that could not be scored.",
            show_default=False,
        ),
    ] = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", tuple(dict.fromkeys(self.keep or ())))
        if self.image_root is not None:
            if not Path(self.image_root).is_dir():
                raise OptionRefused(
                    f"--image-root {self.image_root} is no folder.",
                    wanted="the folder that image paths are relative to",
                    next_step="check the path",
                )
            object.__setattr__(self, "image_root", str(Path(self.image_root).resolve()))
        if self.masks not in (None, *_MASK_MODES):
            raise OptionRefused(
                f"--masks is {self.masks!r}.", wanted=" or ".join(_MASK_MODES), next_step="choose one of these"
            )
        if self.force is not None and self.force not in FORCE_KINDS:
            raise OptionRefused(
                f"--force is {self.force!r}.", wanted=" or ".join(FORCE_KINDS), next_step="choose one of these"
            )
        BadRowLimit.parse(self.max_bad_rows)
        if self.engine not in _ENGINES:
            raise OptionRefused(
                f"--engine is {self.engine!r}.", wanted=" or ".join(_ENGINES), next_step="choose one of these"
            )
        if self.address is not None and self.engine != "ray":
            raise OptionRefused(
                f"--address is {self.address}, and --engine is {self.engine}.",
                wanted="an address only where a cluster scores",
                next_step="add --engine ray, or leave out --address",
            )
        if self.part is not None:
            ShardPartition.parse(self.part)
        if self.alarm and (self.calibration is None or self.flag_if is not None):
            raise OptionRefused(
                f"--alarm was given {'without --calibration' if self.calibration is None else 'with --flag-if'}.",
                wanted="a calibration that alone decides what is flagged, for its rate is what the alarm knows",
                next_step="add --calibration and leave out --flag-if, or leave out --alarm",
            )
        for name, least in (
            ("passes", 1), ("seed", 0), ("batch_size", 1), ("max_pixels", 1), ("threads", 0), ("memory", 1)
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and (value < least or value >= 2**64):
                raise OptionRefused(
                    f"--{name.replace('_', '-')} is {value}.",
                    wanted=f"a whole number, {least} or more",
                    next_step="give another value, or leave the option out",
                )

    def settings(self, defaults: PassSettings | None = None) -> PassSettings:
        """What decides the passes: what was given, and for the rest these defaults."""
        rest = defaults or PassSettings()
        return PassSettings(
            passes=rest.passes if self.passes is None else self.passes,
            seed=rest.seed if self.seed is None else self.seed,
            masks=rest.masks if self.masks is None else self.masks,
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
        """What decides a result, as JSON values: recorded in every file, and the fingerprint's source.

        Args:
            model: the model.
            mask_algorithm: how masks come from the seed.
            adaptive_algorithm: when passes stop, where they do.
            settings: of the passes.
            rule: when a row is flagged.
            calibration: its digest; None without one.
        """
        return {
            **{name: getattr(self, name) for name in _DECIDES},
            **asdict(settings),
            "keep": list(self.keep),
            "flag_if": rule,
            "model": model.digest,
            "mask_algorithm": mask_algorithm,
            "calibration": calibration,
            "adaptive": adaptive_algorithm if self.adaptive else None,
            "result_format": RESULT_FORMAT,
        }


def fingerprint(identity: dict[str, Any]) -> str:
    """A digest of what decides a result."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def as_options(command: Callable[..., None], leave_out: tuple[str, ...] = ()) -> Callable[..., None]:
    """Give a Typer command the options of RunConfig in place of its parameter `config`.

    Args:
        command: the command.
        leave_out: fields that are no options of it.
    """
    hints = get_type_hints(RunConfig, include_extras=True)
    options = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(RunConfig)
        if field.name not in leave_out
    ]
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "config"]

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        chosen = {option.name: values.pop(option.name) for option in options}
        command(**values, config=RunConfig(**chosen))

    own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    del with_options.__wrapped__  # Typer would read the signature through it
    with_options.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *options]}
    return with_options
