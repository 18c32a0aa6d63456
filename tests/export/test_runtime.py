"""That onnxruntime sends nothing: what it would send, it first keeps below the home folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from export.runtime import OPT_OUT

MAKE_A_SESSION = """
import sys
assert "onnxruntime" not in sys.modules
from screen.engine.session import choose_device
choose_device("auto", 1)
from export.runtime import onnxruntime
from screen.engine.session import _probe_graph
onnxruntime.InferenceSession(_probe_graph(), providers=["CPUExecutionProvider"])
"""


def left_behind(home: Path, script: str, **variables: str) -> list[str]:
    """What a new Python, which is no test and no CI to onnxruntime, leaves in its home folder."""
    kept = {name: value for name, value in os.environ.items() if name not in (OPT_OUT, "CI", "ORT_RUNNING_UNIT_TESTS")}
    folders = {name: str(home) for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    subprocess.run([sys.executable, "-c", script], check=True, env={**kept, **folders, **variables})
    return [str(path.relative_to(home)) for path in home.rglob("*")]


def test_a_session_leaves_no_identifier_and_nothing_to_send(tmp_path: Path) -> None:
    assert left_behind(tmp_path, MAKE_A_SESSION) == []


@pytest.mark.parametrize("given", ["0", "1", ""])
def test_who_has_decided_is_not_overruled(tmp_path: Path, given: str) -> None:
    script = f"import os, sys; sys.modules['onnxruntime'] = sys; import export.runtime; print(os.environ[{OPT_OUT!r}])"
    told = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, env={**os.environ, OPT_OUT: given}
    )
    assert told.stdout == f"{given}\n"
