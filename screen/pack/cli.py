"""The command `oodscreen pack`.

In: SOURCE, SHARDS and the options. Out: shards, a summary on standard output, and the exit code.
"""

from __future__ import annotations

from typing import Annotated

import typer

from screen.command_line.options import AsJson
from screen.command_line.startup import keep_pandas_out_of_pyarrow
from screen.pack.config import PackConfig


def pack(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder of image files, list of image paths (CSV, TSV, JSONL or Parquet), WebDataset tar, or folder "
            "of tars.",
            show_default=False,
        ),
    ],
    shards: Annotated[str, typer.Argument(metavar="SHARDS", help="Folder to write the shards to.", show_default=False)],
    config: PackConfig,
    as_json: AsJson = False,
) -> None:
    """Pack image files into Parquet shards, one row for each file; the bytes of the files are not changed."""
    keep_pandas_out_of_pyarrow()
    from screen.pack.packing import pack_images
    from screen.pack.progress import make_listener
    from screen.run.stopping import stop_on_signals

    with stop_on_signals() as stop, make_listener() as listener:
        summary = pack_images(source, shards, config, listener, stop)
    typer.echo(summary.to_text(), err=as_json)
    if as_json:
        typer.echo(summary.to_json())
    raise typer.Exit(summary.exit_code)
