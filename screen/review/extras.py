"""The error for a library that comes with an optional extra.

In: the name of a library and of its extra. Out: an `OptionRefused` to raise.
"""

from __future__ import annotations

from export.errors import OptionRefused

_NEEDED_FOR = {"evaluate": "evaluate with metrics and plots", "report": "make a report"}


def missing_library(library: str, *, extra: str) -> OptionRefused:
    """The error for a library that is not installed.

    Args:
        library: its name.
        extra: the optional extra of oodscreen that installs it: `evaluate` or `report`.
    """
    return OptionRefused(
        f"{library} is not installed.",
        wanted=f"the libraries that {_NEEDED_FOR[extra]}",
        next_step=f"pip install 'oodscreen[{extra}]'",
    )
