"""ExecutionOptions: the options that select the devices, the memory and the machines of a run.

In: options of the command line, or keywords from Python. Out: a base class of `RunConfig`. Results do not depend on
these options.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from screen.command_line.options import SCALE_PANEL, SPEED_PANEL

EngineChoice = Literal["local", "ray"]


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions:
    """Options of the executor; the help text of each option documents its field."""

    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda|cuda:N",
            autocompletion=lambda: ["auto", "cpu", "cuda"],
            help="Device of the passes; `auto` is CUDA if it works on this machine, else the CPU; `cuda:1` is the "
            "second GPU.",
            rich_help_panel=SPEED_PANEL,
        ),
    ] = "auto"
    threads: Annotated[
        int,
        typer.Option(
            min=0,
            max=1024,
            metavar="N",
            help="Number of threads for passes and for decoding, 0 for one on each core that this process may use "
            "(affinity, CPU quota, OMP_NUM_THREADS); results do not depend on this number.",
            rich_help_panel=SPEED_PANEL,
        ),
    ] = 0
    memory: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=2**24,
            metavar="N",
            help="Maximum size of the tensors of all concurrent session runs, in MiB; the process itself needs more.",
            show_default="512 on the CPU, half of the free memory of a GPU",
            rich_help_panel=SPEED_PANEL,
        ),
    ] = None
    batch_size: Annotated[
        int,
        typer.Option(
            min=1,
            max=2**20,
            metavar="N",
            help="Maximum number of rows that are read, decoded and scored together.",
            rich_help_panel=SPEED_PANEL,
        ),
    ] = 2048

    engine: Annotated[
        EngineChoice,
        typer.Option(
            help="Executor that scores the rows: `local` is this process, `ray` the workers of a Ray cluster; the "
            "results are the same.",
            rich_help_panel=SCALE_PANEL,
        ),
    ] = "local"
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address of the Ray cluster.",
            show_default="RAY_ADDRESS, else a cluster on this machine",
            rich_help_panel=SCALE_PANEL,
        ),
    ] = None
    part: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Score part I of N of the shards, as one job of a job array; all jobs have the same OUTPUT.",
            show_default=False,
            rich_help_panel=SCALE_PANEL,
        ),
    ] = None
