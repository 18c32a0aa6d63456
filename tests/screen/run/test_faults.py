"""Faults around a run: it is killed, the disk is full or read-only, its input changes, it is started twice.

Some tests mount file systems in a separate mount namespace (`unshare`); without the permission to mount they are
skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from benchmarks.faults import command, contents, kill_and_compare, write_input
from screen.output.manifest_file import MANIFEST_NAME
from screen.output.quarantine import QUARANTINE_NAME
from tests.conftest import encode, read_results, write_shard

OODSCREEN = str(Path(sys.executable).with_name("oodscreen"))


def test_runs_that_are_killed_and_started_again_end_as_one_that_was_not(article_onnx: Path, tmp_path: Path) -> None:
    """Two kills; `tests/integration/test_faults.py` has thirty."""
    met = kill_and_compare(article_onnx, kills=2, chain=2, seed=int.from_bytes(os.urandom(4)), work=tmp_path)
    assert len(met) == 2


def can_mount() -> bool:
    done = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
    )
    return done.returncode == 0


needs_mounts = pytest.mark.skipif(
    shutil.which("unshare") is None or not can_mount(), reason="no permission to mount a file system in a namespace"
)


def in_namespace(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script in a separate mount namespace, whose mounts no other process sees."""
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture
def folder(article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path) -> Path:
    shutil.copy(article_onnx, tmp_path / "model.onnx")
    encoded = [encode(image) for image in digits[:600]]
    write_shard(tmp_path / "in" / "a.parquet", encoded[:3])
    write_shard(tmp_path / "in" / "b.parquet", encoded)
    (tmp_path / "out").mkdir()
    return tmp_path


@needs_mounts
def test_a_full_file_system_loses_nothing_that_was_finished(folder: Path, digits: NDArray[np.uint8]) -> None:
    """The results are on a small tmpfs, which is enlarged for the rerun."""
    write_shard(folder / "in" / "b.parquet", [encode(image) for image in digits])
    run = f"{OODSCREEN} run model.onnx in out -T 2 --device cpu"
    done = in_namespace(
        f"""
        mount -t tmpfs -o size=96k tmpfs out
        {run}; echo "first $?"
        ls -A out; echo listed; {OODSCREEN} check out; echo "check $?"
        mount -o remount,size=64m out
        {run}; echo "second $?"
        {OODSCREEN} check out --input in; echo "check $?"
        """,
        folder,
    )
    printed = done.stdout
    assert "out/b.parquet could not be written:" in done.stderr, done.stderr
    assert "No space left on device" in done.stderr
    assert "first 1\n_history\n_lock\n_manifest.jsonl\na.parquet\nlisted\n" in printed
    assert "problem: the last run did not finish" in printed
    assert "skipped, finished earlier and unchanged: 1 shard(s)" in printed
    assert "second 0" in printed
    assert printed.rstrip().endswith("check 0")


@needs_mounts
@pytest.mark.parametrize("was_there", [False, True])
def test_an_output_that_may_not_be_written_to_fails_with_one_message(folder: Path, was_there: bool) -> None:
    """OUTPUT is mounted read-only: the tests may run as root, which ignores file permissions."""
    if was_there:
        subprocess.run([OODSCREEN, "run", "model.onnx", "in", "out", "-T", "2"], cwd=folder, check=True)
    before = contents(folder / "out")
    done = in_namespace(
        f"mount --bind out out && mount -o remount,ro,bind out && {OODSCREEN} run model.onnx in out -T 2 --force",
        folder,
    )
    assert done.returncode == 1, done.stderr
    assert "out could not be written: Read-only file system" in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(folder / "out") == before


def test_of_two_concurrent_runs_one_is_refused(folder: Path) -> None:
    """The second run fails with the process of the first, and changes nothing in its results."""
    first = subprocess.Popen(command(folder / "model.onnx", folder / "in", folder / "out"), stderr=subprocess.DEVNULL)
    holder = folder / "out" / "_lock.holder"
    deadline = time.monotonic() + 60
    while not (holder.exists() and holder.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # on a busy machine it could otherwise finish before the second has started
    second = subprocess.run(
        command(folder / "model.onnx", folder / "in", folder / "out"), capture_output=True, text=True, check=False
    )
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 75, second.stderr
    assert f"out is in use by process {first.pid} on " in second.stderr
    assert first.wait() == 0
    done = subprocess.run([OODSCREEN, "check", folder / "out", "--input", folder / "in"], check=False)
    assert done.returncode == 0


def test_the_lock_of_a_killed_run_does_not_block_another(folder: Path) -> None:
    (folder / "out" / "_lock").touch()
    (folder / "out" / "_lock.holder").write_text("process 1 on elsewhere")
    done = subprocess.run([OODSCREEN, "run", "model.onnx", "in", "out", "-T", "2"], cwd=folder, check=False)
    assert done.returncode == 0
    assert set(contents(folder / "out")) == {"a.parquet", "b.parquet", MANIFEST_NAME, QUARANTINE_NAME}


def test_an_input_that_is_replaced_while_it_is_read_leaves_no_result(folder: Path, digits: NDArray[np.uint8]) -> None:
    """The shard is replaced by a rename once its first rows are scored; a rerun scores the new shard."""
    new = write_shard(folder / "new.parquet", [encode(image) for image in digits[:50]])
    running = subprocess.Popen(
        [*command(Path("model.onnx"), Path("in"), Path("out")), "--batch-size", "4"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (folder / "out" / "a.parquet").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    new.rename(folder / "in" / "b.parquet")
    errors, _ = running.communicate(timeout=120)
    assert running.returncode == 3, errors
    assert "b.parquet changed or was removed after the command started" in errors
    assert {name for name in contents(folder / "out") if name[0] != "_"} == {"a.parquet"}
    done = subprocess.run(
        [*command(Path("model.onnx"), Path("in"), Path("out")), "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(done.stdout)["scored"] == {"b.parquet": "new"}
    assert len(read_results(folder / "out")) == 53


def test_the_input_of_the_kill_test_has_broken_and_empty_shards(tmp_path: Path) -> None:
    rows = {path.name: pq.read_table(path)["image"] for path in write_input(tmp_path / "in").iterdir()}
    assert len(rows["1.parquet"]) == 0
    assert sum(column.null_count for column in rows.values()) == 3
