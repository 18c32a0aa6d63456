"""Read model files of Keras and ONNX: as a `Source`, or as a list of the places for dropout.

In: a model file and the options of an export. Out: a `Source` for a choice of sites and rates, or lines of text.
"""

from __future__ import annotations

from pathlib import Path

from export.config.exporting import FileExportConfig
from export.contract.insertion import LIST
from export.errors import OptionRefused, OutputRefused
from export.graph.keras_source import as_source
from export.model_source import Source
from export.onnx_source.read import is_onnx
from export.onnx_source.source import read_onnx, read_places
from export.source.choice import SiteChoice
from export.source.describe import KerasSource
from export.source.insertion.layers import candidates
from export.source.load import load_model


def read_source(model: Path, choice: SiteChoice, config: FileExportConfig) -> Source:
    """The `Source` of a model file, for a choice of sites and rates.

    Args:
        model: an ONNX file, or a file or folder of Keras.
        choice: selection of sites and rates.
        config: options of the export.

    Raises:
        ModelRefused: the model cannot be exported faithfully.
        OptionRefused: an option does not fit the model.
    """
    if not is_onnx(model):
        return as_source(_load_keras(model, choice, config))
    _check_onnx_options(config)
    return read_onnx(model, choice=choice, output=config.output_layer, image_shape=config.image_shape)


def refuse_to_replace(model: Path, output: Path) -> None:
    """Refuse an output that would replace the ONNX file to export.

    Raises:
        OutputRefused: `output` is the path of `model`, and `model` is an ONNX file.
    """
    if model.resolve() == output.resolve() and is_onnx(model):
        raise OutputRefused(
            f"{output} is the model to export, and the export would replace it.",
            wanted="another path for the exported file, because the export does not copy the original file",
            next_step=f"name another output, such as {output.with_name(f'{output.stem}-exported.onnx')}",
        )


def list_places(model: Path, config: FileExportConfig) -> tuple[str, ...]:
    """Lines of text: the layers of a model file before which dropout can be inserted, chosen by `candidates`.

    Raises:
        ModelRefused: the model cannot be exported faithfully.
        OptionRefused: an option does not fit the model.
    """
    if is_onnx(model):
        _check_onnx_options(config)
        places = read_places(model, config.output_layer)
    else:
        places = _load_keras(model, SiteChoice(tuple(config.keep), config.rates, (LIST,)), config).places
    lines = (f"  {place.describe()}" for place in candidates(places))
    return (f"Layers of {model} for --insert-dropout 'LAYER=RATE':", *lines)


def _load_keras(model: Path, choice: SiteChoice, config: FileExportConfig) -> KerasSource:
    return load_model(
        model,
        weights=config.weights,
        custom_objects=config.custom_objects,
        unsafe=config.unsafe,
        choice=choice,
        output=config.output_layer,
        image_shape=config.image_shape,
    )


def _check_onnx_options(config: FileExportConfig) -> None:
    """Refuse the options that have no meaning for an ONNX file.

    Raises:
        OptionRefused: one of these options was given.
    """
    given = {"--weights": config.weights, "--custom-objects": config.custom_objects, "--unsafe": config.unsafe}
    for option, value in given.items():
        if value:
            raise OptionRefused(
                f"{option} was given, but an ONNX file contains all layers and weights, and no code.",
                wanted=f"an export of an ONNX file without {option}",
                next_step=f"leave out {option}",
            )
