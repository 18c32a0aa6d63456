"""Import pyarrow without pandas at the start of a command.

In: nothing. Out: pyarrow, imported without pandas. Only the command line does so: a program that imports oodscreen
can use pandas as before.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from typing import Any


class _NoPandas(MetaPathFinder):
    """Finder of modules that reports pandas as not installed."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """Raise `ModuleNotFoundError` for pandas; leave other modules to the next finder."""
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is not imported for pyarrow", name=fullname)


def keep_pandas_out_of_pyarrow() -> None:
    """Import pyarrow so that its test for pandas does not find pandas.

    Where pandas is installed, the first `pa.array` imports it to recognise pandas objects, which takes about 0.15 s;
    pyarrow has no option to prevent this import. Afterwards pandas can be imported, and `to_pandas` works.
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
