"""ExportConfig and FileExportConfig: the options of an export.

In: options of the command line, or keywords from Python. Out: frozen dataclasses with checked values. Each option is
declared once, as a field (`export.options`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from export.class_names import CLASSES_HELP, parse_class_names
from export.config.values import (
    as_insertions,
    find_objects,
    parse_image_shape,
    parse_insertions,
    parse_number,
    parse_numbers,
    parse_rates,
)
from export.contract.inputs import RESIZE_FITS, RESIZE_METHODS, PreprocessingName
from export.contract.insertion import Insertion
from export.contract.labelled import Labelled
from export.contract.metadata import OUTPUT_KINDS, OutputKind
from export.option import FormerName, FromText
from export.options import check_options

_PIXELS = "Pixels"
_DROPOUT = "Dropout"
_OUTPUT = "Output of the model"
_FILES = "Files and code"


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Options of an export; the help text of each option documents its field.

    Attributes:
        labelled: function that reads labelled rows, with which the accuracies of the ONNX file and of the source model
            are measured. The command line sets this field from `AccuracyConfig`.
    """

    preprocess: Annotated[
        PreprocessingName | None,
        typer.Option(
            help="Name of the preprocessing of 0..255 pixels in training: `unit` is a scale of 1/255; `tf`, "
            "`torch` and `caffe` are modes of `preprocess_input` in keras.applications. `torch` is also the "
            "preprocessing of torchvision's models. Cannot be combined with --scale, --mean or --std.",
            show_default=False,
            rich_help_panel=_PIXELS,
        ),
    ] = None
    scale: Annotated[
        float | None,
        FromText(str, partial(parse_number, "--scale")),
        typer.Option(
            metavar="NUMBER",
            help="Factor by which 0..255 pixels were multiplied in training, such as 1/255, or 1 for raw pixels. "
            "Required unless --preprocess is given or the model scales the pixels itself, as Rescaling and "
            "Normalization layers do.",
            show_default=False,
            rich_help_panel=_PIXELS,
        ),
    ] = None
    mean: Annotated[
        Sequence[float],
        FromText(str, partial(parse_numbers, "--mean")),
        typer.Option(
            metavar="NUMBERS",
            help="Mean to subtract from the scaled pixels: one number, or one for each channel, separated by commas.",
            show_default=False,
            rich_help_panel=_PIXELS,
        ),
    ] = ()
    std: Annotated[
        Sequence[float],
        FromText(str, partial(parse_numbers, "--std")),
        typer.Option(
            metavar="NUMBERS",
            help="Standard deviation by which the pixels are divided after the mean is subtracted: one number, or one "
            "for each channel, separated by commas.",
            show_default=False,
            rich_help_panel=_PIXELS,
        ),
    ] = ()
    resize: Annotated[
        str,
        typer.Option(
            metavar="METHOD[:FIT][:scaled]",
            help="Method that resizes images to the input size of the model, as in training. "
            f"METHOD: {', '.join(RESIZE_METHODS)}. FIT, for all methods except none and crop-or-pad: "
            f"{', '.join(RESIZE_FITS)}; short=N resizes the shorter side to N pixels, then crops the centre. "
            "With `none`, images of another size are not scored. With `:scaled`, large JPEG images are decoded at 1/2, "
            "1/4 or 1/8 of their size before they are resized; this takes less time than decoding at full size, but "
            "changes the pixels.",
            rich_help_panel=_PIXELS,
        ),
    ] = "none"

    image_shape: Annotated[
        tuple[int, int, int] | None,
        FromText(str, parse_image_shape),
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
        FromText(list[str], parse_rates),
        typer.Option(
            metavar="[PATTERN=]RATE",
            help="Dropout rate that replaces the rate used in training: 0.3 for all layers that stay stochastic, or "
            "'block*=0.1' for the layers with a matching name; may be repeated.",
            show_default="as in training",
            rich_help_panel=_DROPOUT,
        ),
    ] = None

    insert_dropout: Annotated[
        Sequence[Insertion] | Mapping[str, float | str],
        FromText(list[str], parse_insertions),
        typer.Option(
            metavar="LAYER=RATE",
            help="Dropout to insert before a layer of a model trained without dropout; may be repeated. LAYER: a "
            "name, or `classifier` for the last layer with weights. With `LAYER=auto`, the rate is chosen on the "
            "labelled rows of --check-data. With `list`, the command prints the layers and exports nothing.",
            show_default=False,
            rich_help_panel=_DROPOUT,
        ),
    ] = ()

    output_kind: Annotated[
        OutputKind | None,
        typer.Option(
            metavar="KIND",
            help=f"Kind of output: {', '.join(OUTPUT_KINDS)}; required if the model ends in neither softmax nor "
            "sigmoid. Logits are converted to probabilities by softmax, or by sigmoid for a single logit.",
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
            show_default="18, or that of an ONNX file with operator set 17 to 21",
            rich_help_panel=_FILES,
        ),
    ] = None

    def __post_init__(self) -> None:
        for name in ("mean", "std", "keep", "class_names"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_options(self)
        object.__setattr__(self, "insert_dropout", as_insertions(self.insert_dropout))

    @property
    def insertions(self) -> tuple[Insertion, ...]:
        """The sites to insert."""
        return as_insertions(self.insert_dropout)

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
            help="File with the weights: an HDF5 file that model.save_weights wrote, or a model file. Required if "
            "MODEL is a JSON file of the layers.",
            show_default=False,
            rich_help_panel=_FILES,
        ),
    ] = None
    custom_objects: Annotated[
        Mapping[str, Any] | None,
        FromText(list[str], find_objects),
        typer.Option(
            metavar="MODULE:NAME",
            help="Class or function that the model uses. MODULE is a module name or a .py file; the code of the module "
            "is run. May be repeated.",
            show_default=False,
            rich_help_panel=_FILES,
        ),
    ] = None
    unsafe: Annotated[
        bool,
        typer.Option(
            "--unsafe",
            help="Run the code that the model file contains (Lambda layers). Use only for files that you trust.",
            rich_help_panel=_FILES,
        ),
    ] = False
