"""Arguments and options that several commands have.

In: nothing. Out: annotations for Typer; what only one command has stands there.
"""

from __future__ import annotations

from typing import Annotated

import typer

RunOutput = Annotated[str, typer.Argument(metavar="RESULTS", help="The OUTPUT of a run.", show_default=False)]

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one line of JSON on standard output, and all else on standard error.")
]
