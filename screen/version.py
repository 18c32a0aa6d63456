"""The version of oodscreen that runs, for the files that it writes.

In: the metadata of the installed package. Out: text such as `0.1.0`.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def own_version() -> str:
    """The installed version; `unknown` if the code runs without being installed."""
    try:
        return version("oodscreen")
    except PackageNotFoundError:
        return "unknown"
