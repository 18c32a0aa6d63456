"""The command `oodscreen export`: convert and verify a Keras model or an ONNX file, and print the contract."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from export.config.accuracy import AccuracyConfig
from export.config.exporting import FileExportConfig
from export.contract.insertion import LIST
from export.contract.labelled import LabelledReader
from export.errors import OptionRefused
from export.options import as_options


@as_options
def export(
    context: typer.Context,
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="Keras model (a .keras file, an .h5 file, a SavedModel folder of Keras 2, or, with --weights, a JSON "
            "file of the layers), or ONNX file with active Dropout nodes, for example from PyTorch.",
            show_default=False,
        ),
    ],
    output_file: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="ONNX file to write.", show_default=False)],
    config: FileExportConfig,
    accuracy: AccuracyConfig,
) -> None:
    """Convert a trained Keras or ONNX model to an ONNX file in which dropout stays stochastic, and verify the file."""
    from export.exporter import ExportNotice, export_model_file

    if accuracy.check_data is not None:
        config = replace(config, labelled=accuracy.choose_rows(_reader(context)))
    if LIST in config.insertions:
        from export.model_files import list_places

        for line in list_places(model, config):
            typer.echo(line)
        return
    with warnings.catch_warnings(record=True) as notices:
        warnings.simplefilter("always", ExportNotice)
        contract = export_model_file(model, output_file, config)
    for notice in notices:
        if issubclass(notice.category, ExportNotice):
            typer.echo(f"warning: {notice.message}", err=True)
    typer.echo(f"{output_file}")
    typer.echo(contract.describe())


def _reader(context: typer.Context) -> LabelledReader:
    reader: LabelledReader | None = context.obj
    if reader is None:
        raise OptionRefused(
            "--check-data was given, but this application has no reader of shards.",
            wanted="the command `oodscreen export`",
            next_step="run `oodscreen export`, or set the object of Typer's context to a reader of labelled rows",
        )
    return reader
