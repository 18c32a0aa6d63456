"""Keep pandas out of the start of a command.

In: nothing. Out: pyarrow, imported without pandas. Only the command line calls this: a program that imports oodscreen
keeps its own pandas.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from typing import Any


class _NoPandas(MetaPathFinder):
    """Reports pandas as not installed."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """Raise for pandas; leave other modules to the next finder."""
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is not imported for pyarrow", name=fullname)


def keep_pandas_out_of_pyarrow() -> None:
    """Import pyarrow, and let its test for pandas find none.

    Where pandas is installed, the first `pa.array` imports it to recognise pandas objects, which takes about 0.15 s;
    pyarrow has no option against it. Afterwards pandas can be imported, and `to_pandas` works.
    """
    if "pandas" in sys.modules:
        return
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        import pyarrow as pa

        pa.array([])
    finally:
        sys.meta_path.remove(finder)
