"""The command `oodscreen doctor`.

In: a model, a shard and the options. Out: the examination on standard output.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from export.option import Selection
from screen.command_line.options import AsJson
from screen.config import RunConfig
from screen.settings.passes import PassSettings


def doctor(
    config: Annotated[
        RunConfig,
        Selection(
            only=(
                "image_column",
                "image_root",
                "max_pixels",
                "passes",
                "masks",
                "precision",
                "device",
                "threads",
                "memory",
                "batch_size",
            ),
            defaults=asdict(PassSettings()),
        ),
    ],
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL.onnx", help="Exported model whose passes are measured.", show_default=False),
    ] = None,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SHARD",
            help="Parquet shard, folder of shards, or glob, whose first rows are used for the measurement.",
            show_default="made-up images",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Describe this machine and measure its speed; with a model, find the stage that limits the speed of a run."""
    from screen.doctor.examination import examine

    examination = examine(model, source, config)
    typer.echo(examination.to_json() if as_json else examination.to_text())
