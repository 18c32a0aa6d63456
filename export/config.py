"""ExportConfig, FileExportConfig and AccuracyConfig: the options of an export and of its accuracy check.

In: options of the command line, or keywords from Python. Out: frozen dataclasses with checked values. Each option is
declared once, as a field (`export.options`).
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from export.class_names import CLASSES_HELP, parse_class_names
from export.contract.inputs import RESIZE_FITS, RESIZE_METHODS, PreprocessingName
from export.contract.labelled import Labelled, LabelledReader
from export.contract.metadata import OUTPUT_KINDS, OutputKind
from export.errors import OptionRefused
from export.option import FormerName, FromText
from export.options import check_options
from export.shares import parse_share

_PIXELS = "Pixels"
_DROPOUT = "Dropout"
_OUTPUT = "Output of the model"
_ACCURACY = "Accuracy check"
_FILES = "Files and code"

_CHECK_ROWS = 500


def _number(option: str, text: str) -> float:
    """Parse a number or a fraction, such as `0.5` or `1/255`.

    Raises:
        OptionRefused: the text is not a number.
    """
    try:
        return float(Fraction(text.strip().replace(" ", "")))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise OptionRefused(
            f"{option} is {text!r}.",
            wanted="a number or a fraction, such as 1/255",
            next_step="give a number or a fraction",
        ) from error


def _numbers(option: str, text: str) -> tuple[float, ...]:
    return tuple(_number(option, part) for part in text.split(","))


def _rates(texts: Sequence[str]) -> dict[str, float]:
    """Rates by layer pattern: the pattern of `0.3` and `30%` is `*`, that of `PATTERN=0.3` is `PATTERN`."""
    rates = {}
    for text in texts:
        pattern, _, number = text.rpartition("=")
        is_percentage = number.rstrip().endswith("%")
        rates[pattern or "*"] = (parse_share if is_percentage else _number)("--rate", number)
    return rates


def _image_shape(text: str) -> tuple[int, int, int]:
    """Parse the shape of an image, such as `28x28x1`.

    Raises:
        OptionRefused: the text is not three whole numbers.
    """
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text.strip().lower())
    if match is None:
        raise OptionRefused(
            f"--image-shape is {text!r}.",
            wanted="HEIGHTxWIDTHxCHANNELS in pixels",
            next_step="give three whole numbers, such as 28x28x1 or 224x224x3",
        )
    height, width, channels = map(int, match.groups())
    return height, width, channels


def _find_objects(texts: Sequence[str]) -> dict[str, Any]:
    """Import classes and functions, each given as `module:Name` or `file.py:Name`; returns them by name."""
    return dict(_find_object(text) for text in texts)


def _find_object(text: str) -> tuple[str, Any]:
    place, _, name = text.rpartition(":")
    try:
        if place.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            if spec is None or spec.loader is None:
                raise ImportError(f"{place} is not a Python file")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            sys.path.insert(0, "")  # modules of the current folder, as `python -m` finds them
            try:
                module = importlib.import_module(place)
            finally:
                sys.path.remove("")
        return name, getattr(module, name)
    except Exception as error:
        raise OptionRefused(
            f"--custom-objects {text} cannot be imported: {type(error).__name__}: {error}.",
            wanted="module:Name or path/to/file.py:Name",
            next_step=f"check that the file {place} exists, runs without errors and defines {name}"
            if place.endswith(".py")
            else f"check that this command succeeds in this folder: python -c 'from {place} import {name}'",
        ) from error


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Options of an export; the help text of each option documents its field.

    Attributes:
        labelled: function that reads labelled rows, with which the accuracies of the ONNX file and of the source model
            are measured; for Python callers, the command line has `AccuracyConfig`.
    """

    preprocess: Annotated[
        PreprocessingName | None,
        typer.Option(
            help="Name of the preprocessing of 0..255 pixels in training: `unit` is a scale of 1/255, the others are "
            "modes of `preprocess_input` in keras.applications; `torch` also fits torchvision's models. Replaces "
            "--scale, --mean and --std.",
            show_default=False,
            rich_help_panel=_PIXELS,
        ),
    ] = None
    scale: Annotated[
        float | None,
        FromText(str, partial(_number, "--scale")),
        typer.Option(
            metavar="NUMBER",
            help="Factor by which 0..255 pixels were multiplied in training: 1/255, or 1 for raw pixels. Required "
            "unless --preprocess is given or the model scales the pixels itself, as Rescaling and Normalization "
            "layers do.",
            show_default=False,
            rich_help_panel=_PIXELS,
        ),
    ] = None
    mean: Annotated[
        Sequence[float],
        FromText(str, partial(_numbers, "--mean")),
        typer.Option(
            metavar="NUMBERS",
            help="Mean to subtract from the scaled pixels: one number, or one for each channel, separated by commas.",
            show_default=False,
            rich_help_panel=_PIXELS,
        ),
    ] = ()
    std: Annotated[
        Sequence[float],
        FromText(str, partial(_numbers, "--std")),
        typer.Option(
            metavar="NUMBERS",
            help="Standard deviation by which to divide after the mean is subtracted: one number, or one for each "
            "channel, separated by commas.",
            show_default=False,
            rich_help_panel=_PIXELS,
        ),
    ] = ()
    resize: Annotated[
        str,
        typer.Option(
            metavar="METHOD[:FIT][:scaled]",
            help="Method that resizes images to the input size of the model; the same as in training. "
            f"METHOD: {', '.join(RESIZE_METHODS)}. FIT, for other methods than none and crop-or-pad: "
            f"{', '.join(RESIZE_FITS)}; short=N resizes the shorter side to N pixels, then crops the centre. "
            "With `none`, images of another size are not scored. With `:scaled`, large JPEG images are decoded at 1/2, "
            "1/4 or 1/8 of their size before they are resized: faster, but the pixels differ.",
            rich_help_panel=_PIXELS,
        ),
    ] = "none"

    image_shape: Annotated[
        tuple[int, int, int] | None,
        FromText(str, _image_shape),
        typer.Option(
            metavar="HxWxC",
            help="Shape of the training images: height, width and channels, such as 64x64x3, or channels, height and "
            "width, such as 3x64x64. Required if the input of the model does not determine this shape.",
            show_default="from the input of the model",
            rich_help_panel=_PIXELS,
        ),
    ] = None

    keep: Annotated[
        Sequence[str],
        FormerName("--keep"),
        typer.Option(
            "--keep-layer",
            metavar="PATTERN",
            help="Name or pattern of the dropout layers that stay stochastic, such as 'top_dropout*'; may be repeated. "
            "In an ONNX file, the option also activates Dropout nodes in inference mode.",
            show_default="all",
            rich_help_panel=_DROPOUT,
        ),
    ] = ()
    rate: Annotated[
        float | Mapping[str, float] | None,
        FromText(list[str], _rates),
        typer.Option(
            metavar="[PATTERN=]RATE",
            help="Dropout rate that replaces the rate in training: 0.3 for all kept layers, or 'block*=0.1' for those "
            "with a matching name; may be repeated.",
            show_default="as in training",
            rich_help_panel=_DROPOUT,
        ),
    ] = None

    output_kind: Annotated[
        OutputKind | None,
        typer.Option(
            metavar="KIND",
            help=f"Kind of output: {', '.join(OUTPUT_KINDS)}; required if the model ends in neither softmax nor "
            "sigmoid. Probabilities are computed from logits: the softmax, or the sigmoid of a single logit.",
            show_default=False,
            rich_help_panel=_OUTPUT,
        ),
    ] = None
    output_layer: Annotated[
        str | None,
        FormerName("--output"),
        typer.Option(
            metavar="NAME",
            help="Name of the output to export, for a model with several outputs.",
            show_default=False,
            rich_help_panel=_OUTPUT,
        ),
    ] = None
    class_names: Annotated[
        Sequence[str],
        FromText(str, parse_class_names),
        typer.Option(
            "--classes",
            metavar="NAMES|FILE",
            help=CLASSES_HELP,
            show_default=False,
            rich_help_panel=_OUTPUT,
        ),
    ] = ()

    labelled: Labelled | None = None

    opset: Annotated[
        int | None,
        typer.Option(
            min=17,
            metavar="N",
            help="Version of the ONNX operator set.",
            show_default="18, or that of an ONNX file",
            rich_help_panel=_FILES,
        ),
    ] = None

    def __post_init__(self) -> None:
        for name in ("mean", "std", "keep", "class_names"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_options(self)

    @property
    def rates(self) -> dict[str, float]:
        """Dropout rates by the pattern of the layer names."""
        if self.rate is None:
            return {}
        return dict(self.rate) if isinstance(self.rate, Mapping) else {"*": self.rate}


@dataclass(frozen=True, kw_only=True)
class FileExportConfig(ExportConfig):
    """Options of an export of a model file, in addition to those of `ExportConfig`."""

    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File with the weights, required if MODEL is a JSON file of the layers. Either an HDF5 file of "
            "model.save_weights or a model file.",
            show_default=False,
            rich_help_panel=_FILES,
        ),
    ] = None
    custom_objects: Annotated[
        Mapping[str, Any] | None,
        FromText(list[str], _find_objects),
        typer.Option(
            metavar="MODULE:NAME",
            help="Class or function that the model uses. MODULE is a module name or a .py file; its code is run. "
            "May be repeated.",
            show_default=False,
            rich_help_panel=_FILES,
        ),
    ] = None
    unsafe: Annotated[
        bool,
        typer.Option(
            "--unsafe",
            help="Run the code that the model file contains (Lambda layers). Only for files that you trust.",
            rich_help_panel=_FILES,
        ),
    ] = False


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
            help="Column of the labels: class numbers, class names as in --classes, or for a multi-label model lists "
            "of 0 and 1.",
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
