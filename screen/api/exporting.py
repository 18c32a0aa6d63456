"""`export_file` and `export_model`, with the accuracy check on labelled shards.

In: a Keras model in a file or in memory, or an ONNX file. Out: a verified ONNX file in which dropout stays stochastic.
The reader of labelled shards is added here, because the package `export` never imports `screen`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from export.config.accuracy import AccuracyConfig
from export.config.exporting import ExportConfig, FileExportConfig
from export.contract.metadata import ModelContract
from export.exporter import export_keras_model, export_model_file
from export.option import Selection
from screen.api.function import public
from screen.input.labelled import read_labelled

_Config = TypeVar("_Config", bound=ExportConfig)


@public
def export_file(
    model: str | Path,
    output: str | Path,
    config: Annotated[FileExportConfig, Selection(leave_out=("labelled",))],
    accuracy: AccuracyConfig,
) -> ModelContract:
    """Export a Keras model or an ONNX file to an ONNX file in which dropout stays stochastic.

    Args:
        model: `.keras` or `.h5` file, SavedModel folder of Keras 2, JSON file of `model.to_json()`, or ONNX file with
            active Dropout nodes (not required if dropout is inserted).
        output: ONNX file to write; the file appears only after it has been verified.
        config: options of the export.
        accuracy: options of the accuracy check.

    Returns:
        The contract that was written into the file, with the measurements of the verification.

    Raises:
        ModelRefused: the model cannot be exported faithfully.
        OptionRefused: an option does not fit the model.
        VerificationFailed: the file does not reproduce the source model; nothing was written.
    """
    return export_model_file(model, output, _with_rows(config, accuracy))


@public
def export_model(
    model: Any,
    output: str | Path,
    config: Annotated[ExportConfig, Selection(leave_out=("labelled",))],
    accuracy: AccuracyConfig,
) -> ModelContract:
    """Export a Keras model in memory to an ONNX file in which dropout stays stochastic.

    Args:
        model: a built `keras.Model`: functional, sequential, or a subclass.
        output: ONNX file to write; the file appears only after it has been verified.
        config: options of the export.
        accuracy: options of the accuracy check.

    Returns:
        The contract that was written into the file, with the measurements of the verification.

    Raises:
        ModelRefused: the model cannot be exported faithfully.
        OptionRefused: an option does not fit the model.
        VerificationFailed: the file does not reproduce the Keras model; nothing was written.
    """
    return export_keras_model(model, output, _with_rows(config, accuracy))


def _with_rows(config: _Config, accuracy: AccuracyConfig) -> _Config:
    return replace(config, labelled=accuracy.choose_rows(read_labelled))
