"""Telemetry of onnxruntime is off: no events are stored below the home folder, which stays empty."""

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
from screen.engine.device.choice import choose_device
choose_device("auto", 1)
from export.runtime import onnxruntime
from screen.engine.device.choice import _probe_graph
onnxruntime.InferenceSession(_probe_graph(), providers=["CPUExecutionProvider"])
"""


def left_behind(home: Path, script: str, **variables: str) -> list[str]:
    """Files that a new Python process leaves in its home folder, without variables that mark a test or a CI."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH") if name in os.environ}
    folders = {name: str(home) for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    environment = {**kept, **folders, **variables}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, cwd=Path(__file__).parents[2])
    return [str(path.relative_to(home)) for path in home.rglob("*")]


@pytest.mark.parametrize("variables", [{}, {OPT_OUT: ""}, {OPT_OUT: "1"}])
def test_a_session_leaves_no_identifier_and_nothing_to_send(tmp_path: Path, variables: dict[str, str]) -> None:
    assert left_behind(tmp_path, MAKE_A_SESSION, **variables) == []


@pytest.mark.parametrize("given", ["0", "1"])
def test_who_has_decided_is_not_overruled(given: str) -> None:
    script = f"import os, sys; sys.modules['onnxruntime'] = sys; import export.runtime; print(os.environ[{OPT_OUT!r}])"
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, env={**os.environ, OPT_OUT: given}
    )
    assert done.stdout == f"{given}\n"
