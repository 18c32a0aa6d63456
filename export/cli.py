"""`oodscreen export`: options in, one call, a short report out."""

from __future__ import annotations

import warnings
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

from export.contract import OUTPUT_KINDS
from export.errors import OptionRefused


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A Keras 3 model, NAME.keras.", show_default=False)],
    output: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="Where the ONNX file goes.", show_default=False)],
    scale: Annotated[
        str | None,
        typer.Option(
            help="What a 0..255 pixel is multiplied by, as in training: 1/255, or 1 for raw pixels. "
            "Needed unless the model has its own Rescaling or Normalization layer.",
            show_default=False,
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(help="Subtracted after scaling: one value or one for each channel.", show_default=False),
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="Divided by after that: one value or one for each channel.", show_default=False)
    ] = None,
    output_kind: Annotated[
        str | None,
        typer.Option(
            help=f"What the last layer gives, where it does not tell: {', '.join(OUTPUT_KINDS)}.", show_default=False
        ),
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Text file with a class name on each line.", show_default=False)
    ] = None,
) -> None:
    """Turn a trained Keras model into an ONNX file whose dropout stays stochastic, and prove it."""
    from export.exporter import ExportNotice, export_file

    with warnings.catch_warnings(record=True) as notices:
        warnings.simplefilter("always", ExportNotice)
        contract = export_file(
            model,
            output,
            scale=None if scale is None else _number("--scale", scale),
            mean=_numbers("--mean", mean),
            std=_numbers("--std", std),
            output_kind=output_kind,
            class_names=_read_classes(classes),
        )
    for notice in notices:
        if issubclass(notice.category, ExportNotice):
            typer.echo(f"warning: {notice.message}", err=True)
    typer.echo(f"{output}")
    typer.echo(contract.describe())


def _number(option: str, text: str) -> float:
    try:
        value = float(Fraction(text.strip().replace(" ", "")))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise OptionRefused(
            f"{option} is {text!r}.", wanted="a number or a fraction, such as 1/255", next_step="give such a number"
        ) from error
    return value


def _numbers(option: str, text: str | None) -> list[float]:
    return [] if text is None else [_number(option, part) for part in text.split(",")]


def _read_classes(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise OptionRefused(
            f"The class names {path} cannot be read: {error}.",
            wanted="a text file (UTF-8) with a name on each line",
            next_step="check the path",
        ) from error
