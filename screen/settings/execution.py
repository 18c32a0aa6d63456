"""ExecutionOptions: the options that select the devices, the memory and the machines of a run.

In: options of the command line, or keywords from Python. Out: a base class of `RunConfig`. These options are not part
of the configuration that determines a result; results of a GPU can differ from those of the CPU by rounding.
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
            help="Device of the passes; `auto` is CUDA if CUDA works on this machine, else the CPU; `cuda:1` is the "
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
            help="Number of threads for passes and for decoding; 0 is one thread for each core that this process may "
            "use (affinity, CPU quota, OMP_NUM_THREADS). Results do not depend on this number.",
            rich_help_panel=SPEED_PANEL,
        ),
    ] = 0
    memory: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=2**24,
            metavar="N",
            help="Maximum total size of the tensors of all concurrent session runs, in MiB; the process needs more "
            "memory than this size.",
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
            help="Executor that scores the rows: `local` for this process, or `ray` for the workers of a Ray cluster; "
            "results do not depend on the executor.",
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
