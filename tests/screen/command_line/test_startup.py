"""The start of a command imports no library that the command does not use."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from screen.command_line.startup import keep_pandas_out_of_pyarrow

keep_pandas_out_of_pyarrow()
import pyarrow as pa

numbers = pa.array([1, 2])
assert "pandas" not in sys.modules
assert pa.table({"n": numbers}).to_pandas()["n"].tolist() == [1, 2]
"""


def test_pyarrow_imports_pandas_only_where_it_is_asked_for() -> None:
    pytest.importorskip("pandas")
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
