"""LogConfig: the options of the log.

In: options of the command line. Out: a frozen dataclass. This module does not import `logging`, which `--help` does not
need.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from screen.command_line.options import LOG_PANEL


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Options of the log."""

    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also log each finished shard.", rich_help_panel=LOG_PANEL)
    ] = False
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet",
            "-q",
            help="Print only warnings and errors on standard error, and the line of `--json` on standard output. The "
            "log file still contains all lines.",
            rich_help_panel=LOG_PANEL,
        ),
    ] = False
    log_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File to append the log to; the log is printed on standard error, too. The file can be rotated while "
            "the command runs.",
            show_default=False,
            rich_help_panel=LOG_PANEL,
        ),
    ] = None
    log_format: Annotated[
        Literal["text", "json"],
        typer.Option(
            help="Format of the log: `text`, or `json` for one JSON object per line. With `json`, no progress bar is "
            "shown.",
            rich_help_panel=LOG_PANEL,
        ),
    ] = "text"

    @property
    def shows_bar(self) -> bool:
        """Whether progress is shown as a bar: standard error is a terminal, in the text format and without `quiet`."""
        return sys.stderr.isatty() and not self.quiet and self.log_format == "text"
