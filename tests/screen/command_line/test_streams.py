"""A log or a standard output that cannot be written: no result is lost, and the exit code is as documented."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from export.errors import ExitCode
from screen.files.paths import as_path
from screen.output.check import check_results
from tests.conftest import encode, write_shard

OODSCREEN = Path(sys.executable).with_name("oodscreen")
RUN = f"{OODSCREEN} run model.onnx in out --device cpu -T 2 --flag-if 'entropy > 0.5'"
LOST = "Standard output could not be written"

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")


@pytest.fixture
def place(article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path) -> Path:
    shutil.copy(article_onnx, tmp_path / "model.onnx")
    write_shard(tmp_path / "in" / "a.parquet", [encode(image) for image in digits[:20]])
    write_shard(tmp_path / "in" / "b.parquet", [encode(image) for image in digits[20:30]])
    return tmp_path


def call(place: Path, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", command], cwd=place, capture_output=True, text=True, check=False, timeout=120)


def call_without_reader(place: Path, command: str, stream: str) -> tuple[int, str]:
    """The command with a pipe as its `stdout` or `stderr` that no process reads; its exit code and its other stream."""
    reading, writing = os.pipe()
    os.close(reading)
    other = "stdout" if stream == "stderr" else "stderr"
    streams = {stream: writing, other: subprocess.PIPE}
    done = subprocess.run(["bash", "-c", f"exec {command}"], cwd=place, text=True, check=False, timeout=120, **streams)  # type: ignore[call-overload]
    os.close(writing)
    return done.returncode, getattr(done, other)


def assert_complete(place: Path) -> None:
    assert check_results(as_path(place / "out"), str(place / "in")).problems == ()


@pytest.mark.hostile(
    "Standard error that is closed, or goes to a full disk or to a process that has ended",
    "the log is lost; the run scores every row, and the exit code does not change",
)
@pytest.mark.parametrize("options", ["", " --json"])
@pytest.mark.parametrize("log", ["2>/dev/full", "2>&-", "2>&- <&-", "reader gone"])
def test_a_lost_log_loses_no_work(log: str, options: str, place: Path) -> None:
    if log == "reader gone":
        code, text = call_without_reader(place, RUN + options, "stderr")
    else:
        done = call(place, f"{RUN}{options} {log}")
        code, text = done.returncode, done.stdout
    assert code == ExitCode.DONE
    assert ('"rows": 30' if options else "30 rows in 2 shard(s)") in text
    assert_complete(place)


@pytest.mark.hostile(
    "Standard output that goes to a full disk or to a process that has ended",
    "the command runs to its end, and ends with exit code 1; the error states that standard output was lost",
)
@pytest.mark.parametrize("options", ["", " --json"])
@pytest.mark.parametrize("lost", [">/dev/full", "reader gone"])
def test_a_lost_output_is_an_error_after_the_work(lost: str, options: str, place: Path) -> None:
    if lost == "reader gone":
        code, text = call_without_reader(place, RUN + options, "stdout")
    else:
        done = call(place, f"{RUN}{options} {lost}")
        code, text = done.returncode, done.stderr
    assert code == ExitCode.FAILED
    assert LOST in text
    assert "Unexpected" not in text
    assert_complete(place)


def test_a_closed_output_is_an_error_only_where_it_was_asked_for(place: Path) -> None:
    done = call(place, f"{RUN} --json >&-")
    assert (done.returncode, LOST in done.stderr) == (ExitCode.FAILED, True)
    assert_complete(place)
    done = call(place, f"{RUN} >&-")
    assert (done.returncode, LOST in done.stderr) == (ExitCode.DONE, False)


def test_an_error_keeps_its_exit_code_if_its_json_is_lost(place: Path) -> None:
    done = call(place, f"{RUN} --json --image-column picture >/dev/full")
    assert done.returncode == ExitCode.REFUSED
    assert "picture" in done.stderr
    assert LOST in done.stderr


def test_all_streams_closed_or_full_at_once(place: Path) -> None:
    assert call(place, f"{RUN} --json <&- >&- 2>&-").returncode == ExitCode.FAILED
    assert_complete(place)
    assert call(place, f"{RUN} --json >/dev/full 2>&1").returncode == ExitCode.FAILED
    assert call(place, f"{RUN} --json 2>/dev/full --image-column picture").returncode == ExitCode.REFUSED


@pytest.mark.parametrize("command", ["--help", "--version", "inspect model.onnx", "doctor --json"])
def test_other_commands_end_alike(command: str, place: Path) -> None:
    full = call(place, f"{OODSCREEN} {command} >/dev/full")
    assert (full.returncode, LOST in full.stderr, "Unexpected" in full.stderr) == (ExitCode.FAILED, True, False)
    assert call(place, f"{OODSCREEN} {command} 2>&-").returncode == ExitCode.DONE
