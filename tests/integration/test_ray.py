"""Runs on a real Ray cluster on this machine, with two workers."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import contents, encode, write_shard
from tests.integration.processes import ray_processes

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install '.[ray]'"),
]

OODSCREEN = str(Path(sys.executable).with_name("oodscreen"))
ROWS = {"a": 3, "b": 700, "c": 0, "d": 2900, "e": 5, "f": 900, "g": 31, "h": 800, "i": 650}
OPTIONS = ["--device", "cpu", "--threads", "1", "--batch-size", "100", "--json"]


@pytest.fixture
def place(article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path, alone_with_ray: None) -> Path:
    """Shards of uneven size, one much larger than a batch."""
    shutil.copy(article_onnx, tmp_path / "model.onnx")
    encoded: list[bytes | None] = [encode(image) for image in digits]
    encoded += encoded
    for name, rows in ROWS.items():
        bad: list[bytes | None] = [None, b"x"] if rows > 800 else []
        write_shard(tmp_path / "in" / f"{name}.parquet", [*bad, *encoded[: rows - len(bad)]], row_group_size=90)
    return tmp_path


def command(place: Path, engine: str, *more: str) -> list[str]:
    out = str(place / engine)
    return [OODSCREEN, "run", str(place / "model.onnx"), str(place / "in"), out, *OPTIONS, "--engine", engine, *more]


def start(place: Path, *more: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(place, "ray", *more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def run(place: Path, engine: str, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(place, engine, *more), capture_output=True, text=True, check=False)


def lines(place: Path) -> int:
    """Number of lines in the manifest: the header, and one for each finished shard."""
    try:
        return (place / "ray" / "_manifest.jsonl").read_text().count("\n")
    except FileNotFoundError:
        return 0


def wait_until(happened: Callable[[], bool], running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_results_equal_those_of_the_local_engine_file_by_file(place: Path) -> None:
    local, ray = run(place, "local", "-T", "5"), run(place, "ray", "-T", "5")
    assert (local.returncode, ray.returncode) == (0, 0), ray.stderr
    assert contents(place / "ray") == contents(place / "local")
    assert "Ray: 2 worker(s), 1 core(s) each" in ray.stderr
    reports = [json.loads(one.stdout) for one in (local, ray)]
    for key in ("rows", "flagged", "bad", "statuses", "scored", "device"):
        assert reports[0][key] == reports[1][key], key
    again = run(place, "ray", "-T", "5")
    assert json.loads(again.stdout)["rows"] == 0
    assert contents(place / "ray") == contents(place / "local")


def test_a_killed_worker_does_not_change_the_results(place: Path) -> None:
    running = start(place, "-T", "200")
    wait_until(lambda: lines(place) >= 2, running)
    killed = 0
    for _ in range(2):
        wait_until(lambda: bool(ray_processes("ray::Worker.score")), running)
        os.kill(next(iter(ray_processes("ray::Worker.score"))), signal.SIGKILL)
        killed += 1
        time.sleep(1)
    out, errors = running.communicate(timeout=240)
    assert running.returncode == 0, errors
    assert errors.count("a worker was lost while it scored") == killed == 2
    assert json.loads(out)["rows"] == sum(ROWS.values())
    assert run(place, "local", "-T", "200").returncode == 0
    assert contents(place / "ray") == contents(place / "local")


def test_a_killed_and_restarted_driver_continues_after_the_finished_shards(place: Path) -> None:
    running = start(place, "-T", "200")
    wait_until(lambda: lines(place) >= 3, running)
    running.kill()
    running.communicate()
    again = run(place, "ray", "-T", "200")
    assert again.returncode == 0, again.stderr
    assert 0 < len(json.loads(again.stdout)["scored"]) < len(ROWS)
    assert run(place, "local", "-T", "200").returncode == 0
    assert contents(place / "ray") == contents(place / "local")


def test_a_signal_stops_the_run_with_its_exit_code_and_leaves_no_staging_files(place: Path) -> None:
    running = start(place, "-T", "300")
    wait_until(lambda: lines(place) >= 2, running)
    running.send_signal(signal.SIGTERM)
    out, errors = running.communicate(timeout=60)
    assert running.returncode == 143, errors
    assert json.loads(out)["exit_code"] == 143
    assert not list((place / "ray").rglob(".oodscreen-*"))


KILLER = """
import os, sys

def kill_reader(event, arguments):
    if event == "open" and str(arguments[0]).endswith("h.parquet") and "default_worker.py" in " ".join(sys.orig_argv):
        os.kill(os.getpid(), 9)

sys.addaudithook(kill_reader)
"""
"""Simulates a shard that crashes a library: every worker that opens it dies."""


def test_a_shard_that_kills_its_workers_is_quarantined_and_the_rest_finish(place: Path) -> None:
    """A shard that is not Parquet is quarantined too; the next run, without the crash, scores the first one."""
    (place / "in" / "k.parquet").write_bytes(b"PAR1 no footer")
    (place / "site").mkdir()
    (place / "site" / "sitecustomize.py").write_text(KILLER)
    running = start(place, "-T", "5", PYTHONPATH=str(place / "site"))
    out, errors = running.communicate(timeout=240)
    assert running.returncode == 3, errors
    assert sorted(json.loads(out)["unreadable"]) == ["h.parquet", "k.parquet"]
    assert json.loads(out)["unreadable"]["h.parquet"] == "3 workers were lost while they scored this shard"
    assert json.loads(out)["rows"] == sum(ROWS.values()) - ROWS["h"]
    check = [OODSCREEN, "check", str(place / "ray"), "--input", str(place / "in")]
    checked = subprocess.run(check, capture_output=True, text=True, check=False)
    assert "'h.parquet': quarantined: 3 workers were lost while they scored this" in checked.stdout
    assert "no problems" in checked.stdout
    again = run(place, "ray", "-T", "5")
    assert list(json.loads(again.stdout)["scored"]) == ["h.parquet"]
    assert run(place, "local", "-T", "5").returncode == 3
    assert contents(place / "ray") == contents(place / "local")


def test_a_shard_removed_during_the_run_fails_it_and_finished_shards_stay(place: Path) -> None:
    running = start(place, "-T", "300")
    wait_until(lambda: lines(place) >= 1, running)
    (place / "in" / "i.parquet").unlink()
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 1, errors
    assert "i.parquet was removed during the run" in errors
    assert "Traceback" not in errors
    entries = (place / "ray" / "_manifest.jsonl").read_text().splitlines()[1:]
    assert {json.loads(line)["shard"] for line in entries} >= {
        path.name for path in (place / "ray").glob("[!_]*.parquet")
    }


def test_a_cluster_that_cannot_be_reached_is_refused(place: Path) -> None:
    done = run(place, "ray", "--address", "127.0.0.1:1")
    assert done.returncode == 2, done.stderr
    assert "The Ray cluster 127.0.0.1:1 cannot be reached" in done.stderr


def test_a_running_cluster_is_used_by_its_address(place: Path) -> None:
    """The cluster's head runs in a separate process with two cores and its own token, and is ended only by it."""
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray = str(Path(sys.executable).with_name("ray"))
    options = [f"--port={port}", "--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats", "--block"]
    head = subprocess.Popen(
        [ray, "start", "--head", "--node-ip-address=127.0.0.1", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **secret},
    )
    try:
        deadline = time.monotonic() + 60
        while not ray_processes("raylet") and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(3)
        running = start(place, "-T", "5", "--address", f"127.0.0.1:{port}", **secret)
        _, errors = running.communicate(timeout=120)
        assert running.returncode == 0, errors
        assert "Ray: 2 worker(s), 1 core(s) each" in errors
        assert ray_processes("raylet"), "the cluster is not ours to stop"
    finally:
        head.terminate()
        head.wait(60)
    assert run(place, "local", "-T", "5").returncode == 0
    assert contents(place / "ray") == contents(place / "local")
