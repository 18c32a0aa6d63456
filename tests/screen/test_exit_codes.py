"""Each exit code, from a real process, with its meaning in the last line of standard output with `--json`."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from export.errors import ExitCode
from screen.demo import read_images
from screen.output.locks.hold import hold_output
from tests.conftest import encode, write_shard

OODSCREEN = Path(sys.executable).with_name("oodscreen")
RUN = [str(OODSCREEN), "run", "model.onnx", "in", "out", "--device", "cpu", "-T", "2", "--json"]


@pytest.fixture
def place(article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path) -> Path:
    shutil.copy(article_onnx, tmp_path / "model.onnx")
    encoded = [encode(image) for image in digits[:200]]
    write_shard(tmp_path / "in" / "a.parquet", encoded[:3])
    write_shard(tmp_path / "in" / "b.parquet", encoded)
    return tmp_path


def call(place: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)


def stop_by(number: signal.Signals, place: Path) -> subprocess.CompletedProcess[str]:
    """Stop a run that has finished its first shard and has much to do yet."""
    command = [*RUN, "--batch-size", "3", "-T", "120", "--threads", "1"]
    running = subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (place / "out" / "a.parquet").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(number)
    told, logged = running.communicate(timeout=120)
    names = ["_history", "_lock", "_manifest.jsonl", "a.parquet"]
    assert sorted(path.name for path in (place / "out").iterdir()) == names
    return subprocess.CompletedProcess(command, running.returncode, told, logged)


def fail(place: Path) -> subprocess.CompletedProcess[str]:
    """The system refuses files of more than a few KiB."""
    return call(place, "sh", "-c", 'ulimit -f 16; exec "$@"', "sh", *RUN)


def refuse(place: Path) -> subprocess.CompletedProcess[str]:
    return call(place, *RUN, "--image-column", "picture")


def find_bad_rows(place: Path) -> subprocess.CompletedProcess[str]:
    write_shard(place / "in" / "c.parquet", [None] * 3)
    return call(place, *RUN)


def find_locked(place: Path) -> subprocess.CompletedProcess[str]:
    with hold_output(place / "out"):
        return call(place, *RUN)


def calibrate(place: Path) -> None:
    """Every second digit is known, calibrated at 2 % in `calibration`; the others are fresh, 1,000 in `in`."""
    encoded = [encode(image) for image in read_images("valid")[0]]
    write_shard(place / "known" / "b.parquet", encoded[::2])
    write_shard(place / "in" / "b.parquet", encoded[1:2000:2])
    (place / "in" / "a.parquet").unlink(missing_ok=True)
    words = ["calibrate", "model.onnx", "known", "-o", "calibration", "--review-rate", "0.02", "-T", "2"]
    done = call(place, str(OODSCREEN), *words)
    assert done.returncode == 0, done.stderr


def drift(place: Path) -> subprocess.CompletedProcess[str]:
    """Half of the rows are noise."""
    calibrate(place)
    noise = np.random.default_rng(0).integers(0, 256, (500, 28, 28, 1), np.uint8)
    write_shard(place / "in" / "n.parquet", [encode(image) for image in noise])
    return call(place, *RUN, "--calibration", "calibration", "--alarm")


CASES: dict[ExitCode, Callable[[Path], subprocess.CompletedProcess[str]]] = {
    ExitCode.DONE: lambda place: call(place, *RUN),
    ExitCode.FAILED: fail,
    ExitCode.REFUSED: refuse,
    ExitCode.UNREADABLE_INPUT: find_bad_rows,
    ExitCode.DRIFT: drift,
    ExitCode.LOCKED: find_locked,
    ExitCode.SIGINT: lambda place: stop_by(signal.SIGINT, place),
    ExitCode.SIGTERM: lambda place: stop_by(signal.SIGTERM, place),
}


@pytest.mark.parametrize("code", ExitCode)
def test_every_exit_code_is_met_and_told(code: ExitCode, place: Path) -> None:
    ended = CASES[code](place)
    assert ended.returncode == code, ended.stderr
    assert ended.stdout.count("\n") == 1  # logs go to standard error
    told = json.loads(ended.stdout)
    assert (told["exit_code"], told["meaning"]) == (code, code.meaning)
    is_done = code in (ExitCode.DONE, ExitCode.UNREADABLE_INPUT, ExitCode.DRIFT)
    assert ("error" in told) is not is_done
    assert "Traceback" not in ended.stderr


def test_fresh_rows_like_the_known_ones_raise_no_alarm_and_bad_rows_win_over_one(place: Path) -> None:
    calibrate(place)
    words = [*RUN, "--calibration", "calibration", "--alarm"]
    told = json.loads(call(place, *words).stdout)
    assert (told["exit_code"], told["drift"]["alarm"], told["drift"]["rows"]) == (0, False, 1000)
    write_shard(place / "in" / "c.parquet", [encode(np.zeros((28, 28, 1), np.uint8))] * 1000 + [None] * 100)
    told = json.loads(call(place, *words).stdout)
    assert (told["exit_code"], told["drift"]["alarm"], told["drift"]["rows"]) == (3, True, 1000)


def test_an_option_that_cannot_be_meant_is_told_in_json_too(place: Path) -> None:
    ended = call(place, *RUN, "--max-bad-rows", "few")
    assert ended.returncode == 2
    assert json.loads(ended.stdout)["error"]["found"] == "--max-bad-rows is 'few'."


def test_a_run_that_was_stopped_goes_on_when_it_is_started_again(place: Path) -> None:
    assert stop_by(signal.SIGTERM, place).returncode == 143
    again = call(place, *RUN, "-T", "120")
    told = json.loads(again.stdout.splitlines()[-1])
    assert (told["skipped"], told["scored"]) == (["a.parquet"], {"b.parquet": "new"})
    assert call(place, str(OODSCREEN), "check", "out", "--input", "in").returncode == 0
