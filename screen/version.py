"""The installed version of oodscreen, for the files that oodscreen writes.

In: the metadata of the installed package. Out: text such as `0.1.0`.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def own_version() -> str:
    """Version of the installed package `oodscreen`; `unknown` if the package is not installed."""
    try:
        return version("oodscreen")
    except PackageNotFoundError:
        return "unknown"
