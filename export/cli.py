"""`oodscreen export`: options in, one call, a short report out."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from export.contract.inputs import PREPROCESSINGS, RESIZE_FITS, RESIZE_METHODS
from export.contract.labelled import LabelledBatch
from export.contract.metadata import OUTPUT_KINDS, ModelContract
from export.errors import OptionRefused

_CHECK_ROWS = 500


class LabelledReader(Protocol):
    """Reads and decodes labelled rows; the application hands one in as the Typer context's object."""

    def __call__(
        self,
        contract: ModelContract,
        source: str,
        *,
        label_column: str,
        image_column: str,
        image_root: str | None,
        rows: int,
    ) -> Iterable[LabelledBatch]:
        """At most `rows` rows of the shards of `source`, spread over all of them."""


def export(
    context: typer.Context,
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="A Keras model: .keras, .h5 or a folder of Keras 2.", show_default=False),
    ],
    output_file: Annotated[
        Path, typer.Argument(metavar="OUT.onnx", help="Where the ONNX file goes.", show_default=False)
    ],
    preprocess: Annotated[
        str | None,
        typer.Option(
            help=f"What training did to 0..255 pixels, by name: {', '.join(PREPROCESSINGS)}. unit is 1/255, the others "
            "are modes of keras.applications' preprocess_input. In place of --scale, --mean and --std.",
            show_default=False,
        ),
    ] = None,
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
    resize: Annotated[
        str,
        typer.Option(
            help=f"How images of another size become the model's, as training did it: METHOD or METHOD:FIT, "
            f"METHOD one of {', '.join(RESIZE_METHODS)}; FIT one of {', '.join(RESIZE_FITS)}. "
            "none: they are not scored.",
        ),
    ] = "none",
    output_kind: Annotated[
        str | None,
        typer.Option(
            help=f"What the last layer gives, where it does not tell: {', '.join(OUTPUT_KINDS)}.", show_default=False
        ),
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Text file with a class name on each line.", show_default=False)
    ] = None,
    check_data: Annotated[
        str | None,
        typer.Option(
            help="Labelled shards (a Parquet file, a folder, a glob) to measure the accuracy on, beside Keras'.",
            show_default=False,
        ),
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(help="Their column of labels: class numbers, or names of --classes. [default: label]"),
    ] = None,
    image_column: Annotated[str | None, typer.Option(help="Their column of images. [default: image]")] = None,
    image_root: Annotated[
        str | None, typer.Option(help="Folder in which to look up images that are given by path.", show_default=False)
    ] = None,
    check_rows: Annotated[
        int | None,
        typer.Option(min=1, help=f"How many rows, drawn from all of them with a fixed seed. [default: {_CHECK_ROWS}]"),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="Keep only the dropout layers of this name or pattern ('top_dropout*'); may be given again. "
            "The default keeps all.",
            show_default=False,
        ),
    ] = None,
    rate: Annotated[
        list[str] | None,
        typer.Option(
            help="Another rate than in training: 0.3 for all kept layers, or 'block*=0.1'; may be given again.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="Name of the output, for a model with several.", show_default=False)
    ] = None,
    opset: Annotated[
        int | None, typer.Option(help="ONNX operator set, 17 or newer. [default: 18]", show_default=False)
    ] = None,
    custom_objects: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE:NAME",
            help="A class or function that the model needs, from a module or a .py file, which is imported; "
            "may be given again.",
            show_default=False,
        ),
    ] = None,
    unsafe: Annotated[
        bool, typer.Option("--unsafe", help="Run code that is in the model file (Lambda layers). Only for your own.")
    ] = False,
) -> None:
    """Turn a trained Keras model into an ONNX file whose dropout stays stochastic, and prove it."""
    from export.exporter import ExportNotice, export_file

    given = {
        "--label-column": label_column,
        "--image-column": image_column,
        "--image-root": image_root,
        "--check-rows": check_rows,
    }
    labelled = None
    if check_data is None:
        _refuse_without_check_data([option for option, value in given.items() if value is not None])
    else:
        labelled = partial(
            _reader(context),
            source=check_data,
            label_column=label_column or "label",
            image_column=image_column or "image",
            image_root=image_root,
            rows=_CHECK_ROWS if check_rows is None else check_rows,
        )
    with warnings.catch_warnings(record=True) as notices:
        warnings.simplefilter("always", ExportNotice)
        contract = export_file(
            model,
            output_file,
            preprocess=preprocess,
            scale=None if scale is None else _number("--scale", scale),
            mean=_numbers("--mean", mean),
            std=_numbers("--std", std),
            resize=resize,
            output_kind=output_kind,
            class_names=_read_classes(classes),
            labelled=labelled,
            keep=keep or (),
            rate=_rates(rate or ()),
            output_layer=output,
            opset=opset,
            custom_objects=dict(_find_object(text) for text in custom_objects or ()),
            unsafe=unsafe,
        )
    for notice in notices:
        if issubclass(notice.category, ExportNotice):
            typer.echo(f"warning: {notice.message}", err=True)
    typer.echo(f"{output_file}")
    typer.echo(contract.describe())


def _reader(context: typer.Context) -> LabelledReader:
    reader: LabelledReader | None = context.obj
    if reader is None:
        raise OptionRefused(
            "--check-data was given to a command that cannot read shards.",
            wanted="the command `oodscreen export`",
            next_step="mount this command below an application that sets the context's object",
        )
    return reader


def _refuse_without_check_data(options: list[str]) -> None:
    if options:
        raise OptionRefused(
            f"{options[0]} was given without --check-data.",
            wanted="labelled shards to which it applies",
            next_step="add --check-data SHARDS, or leave the option out",
        )


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


def _rates(texts: Sequence[str]) -> dict[str, float]:
    """`0.3` for every layer, `PATTERN=0.3` for some."""
    rates = {}
    for text in texts:
        pattern, _, number = text.rpartition("=")
        rates[pattern or "*"] = _number("--rate", number)
    return rates


def _find_object(text: str) -> tuple[str, Any]:
    """`module:Name` or `file.py:Name` to the name and the class or function."""
    place, _, name = text.rpartition(":")
    try:
        if place.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            if spec is None or spec.loader is None:
                raise ImportError(f"{place} is no Python file")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            sys.path.insert(0, "")  # modules of the folder one is in, as `python -m` finds them
            try:
                module = importlib.import_module(place)
            finally:
                sys.path.remove("")
        return name, getattr(module, name)
    except Exception as error:
        raise OptionRefused(
            f"--custom-objects {text} was not found: {type(error).__name__}: {error}.",
            wanted="module:Name or path/to/file.py:Name",
            next_step="check that it can be imported from this folder: python -c 'from module import Name'",
        ) from error
