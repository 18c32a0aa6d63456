"""The error for a missing library of an optional extra.

In: the names of the library and of the extra. Out: an `OptionRefused` to raise.
"""

from __future__ import annotations

from export.errors import OptionRefused

_PURPOSES = {"evaluate": "metrics and plots", "report": "reports"}


def missing_library(library: str, *, extra: str) -> OptionRefused:
    """The error for a library that is not installed.

    Args:
        library: name of the library.
        extra: optional extra of oodscreen that installs it: `evaluate` or `report`.
    """
    return OptionRefused(
        f"{library} is not installed.",
        wanted=f"the libraries for {_PURPOSES[extra]}",
        next_step=f"pip install 'oodscreen[{extra}]'",
    )
