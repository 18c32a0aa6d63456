"""`oodscreen export` and `oodscreen inspect`: options in, one call, a short report out."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

from export.contract import OUTPUT_KINDS, ModelContract
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
    from export.exporter import export_file

    contract = export_file(
        model,
        output,
        scale=None if scale is None else _number("--scale", scale),
        mean=_numbers("--mean", mean),
        std=_numbers("--std", std),
        output_kind=output_kind,
        class_names=_read_classes(classes),
    )
    typer.echo(f"{output}")
    typer.echo(describe(contract))


def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An exported model.", show_default=False)],
) -> None:
    """Print what an exported model promises."""
    from export.contract import read_model

    exported = read_model(model)
    typer.echo(f"{model}  sha256 {exported.digest[:16]}")
    typer.echo(describe(exported.contract))


def describe(contract: ModelContract) -> str:
    """The contract for people to read."""
    height, width, channels = contract.image_shape
    lines = [
        f"  input          {contract.input_name}: uint8 [N, {height}, {width}, {channels}] ({contract.colour})",
        f"  preprocessing  {contract.preprocessing.describe()}, in the graph",
        f"  output         {contract.output_name}: [N, {contract.classes}] ({contract.output_kind})",
    ]
    if contract.class_names:
        lines.append(f"  classes        {', '.join(contract.class_names)}")
    for index, site in enumerate(contract.sites):
        title = "dropout sites" if index == 0 else ""
        shared = "" if site.noise_shape == site.shape else f", one mask value for {list(site.noise_shape)}"
        lines.append(f"  {title:13}  {site.name}: rate {site.rate:g} on {list(site.shape)}{shared}")
    measured = contract.verified
    if measured:
        lines += [
            f"  verified       two runs differ on {measured['changed_outputs']:.0%} of the test images;",
            f"                 without dropout {measured['deterministic_difference']:.1e} from Keras;",
            f"                 over {measured['passes']:.0f} passes the mean differs from Keras' by at most "
            f"{measured['mean_difference']:.4f}, the variance ratio is {measured['variance_ratio']:.2f}",
        ]
    if contract.versions:
        lines.append("  made with      " + ", ".join(f"{name} {text}" for name, text in contract.versions.items()))
    return "\n".join(lines)


def _number(option: str, text: str) -> float:
    try:
        value = float(Fraction(text.strip().replace(" ", "")))
    except (ValueError, ZeroDivisionError) as error:
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
