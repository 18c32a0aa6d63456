"""What can go wrong around a run: it is killed, the disk is full or read-only, its input changes, it is started twice.

Mounts need the right to make them, in a mount namespace of their own (`unshare`); where there is none, these
tests are skipped with that reason.
"""

from __future__ import annotations

import json
import os
import shutil
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
    met = kill_and_compare(article_onnx, kills=5, chain=2, seed=int.from_bytes(os.urandom(4)), work=tmp_path)
    assert len(met) == 5


def can_mount() -> bool:
    done = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
    )
    return done.returncode == 0


needs_mounts = pytest.mark.skipif(
    shutil.which("unshare") is None or not can_mount(), reason="no right to mount a file system in a namespace"
)


def in_namespace(script: str, place: Path) -> subprocess.CompletedProcess[str]:
    """A shell script in a mount namespace of its own, where mounts are seen by nobody else."""
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], cwd=place, capture_output=True, text=True, check=False
    )


@pytest.fixture
def place(article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path) -> Path:
    shutil.copy(article_onnx, tmp_path / "model.onnx")
    encoded = [encode(image) for image in digits]
    write_shard(tmp_path / "in" / "a.parquet", encoded[:3])
    write_shard(tmp_path / "in" / "b.parquet", encoded)
    (tmp_path / "out").mkdir()
    return tmp_path


@needs_mounts
def test_a_full_file_system_loses_nothing_that_was_finished(place: Path) -> None:
    """The results stay on a small tmpfs, which is made larger for the rerun."""
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
        place,
    )
    told = done.stdout
    assert "out/b.parquet could not be written:" in done.stderr, done.stderr
    assert "No space left on device" in done.stderr
    assert "first 1\n_lock\n_manifest.jsonl\na.parquet\nlisted\n" in told
    assert "problem: the last run did not finish" in told
    assert "skipped, finished earlier and unchanged: 1 shard(s)" in told
    assert "second 0" in told
    assert told.rstrip().endswith("check 0")


@needs_mounts
@pytest.mark.parametrize("was_there", [False, True])
def test_an_output_that_may_not_be_written_to_fails_with_one_message(place: Path, was_there: bool) -> None:
    """Mounted read-only, because the tests may run as root, for whom permissions do not count."""
    if was_there:
        subprocess.run([OODSCREEN, "run", "model.onnx", "in", "out", "-T", "2"], cwd=place, check=True)
    before = contents(place / "out")
    done = in_namespace(
        f"mount --bind out out && mount -o remount,ro,bind out && {OODSCREEN} run model.onnx in out -T 2 --force",
        place,
    )
    assert done.returncode == 1, done.stderr
    assert "out could not be written: Read-only file system" in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(place / "out") == before


def test_two_runs_at_once_make_one_result(place: Path) -> None:
    """The second is told who is at work, and leaves no trace in what the first writes."""
    first = subprocess.Popen(command(place / "model.onnx", place / "in", place / "out"), stderr=subprocess.DEVNULL)
    holder = place / "out" / "_lock.holder"
    deadline = time.monotonic() + 60
    while not holder.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    second = subprocess.run(
        command(place / "model.onnx", place / "in", place / "out"), capture_output=True, text=True, check=False
    )
    assert second.returncode == 75, second.stderr
    assert f"out is held by process {first.pid} on " in second.stderr
    assert first.wait() == 0
    done = subprocess.run([OODSCREEN, "check", place / "out", "--input", place / "in"], check=False)
    assert done.returncode == 0


def test_a_lock_whose_holder_was_killed_holds_nobody_up(place: Path) -> None:
    (place / "out" / "_lock").touch()
    (place / "out" / "_lock.holder").write_text("process 1 on elsewhere")
    done = subprocess.run([OODSCREEN, "run", "model.onnx", "in", "out", "-T", "2"], cwd=place, check=False)
    assert done.returncode == 0
    assert set(contents(place / "out")) == {"a.parquet", "b.parquet", MANIFEST_NAME, QUARANTINE_NAME}


def test_an_input_that_is_replaced_while_it_is_read_leaves_no_result(place: Path, digits: NDArray[np.uint8]) -> None:
    """Replaced by rename, as a careful producer does, when its first rows are scored; a rerun takes the new one."""
    new = write_shard(place / "new.parquet", [encode(image) for image in digits[:50]])
    running = subprocess.Popen(
        [*command(Path("model.onnx"), Path("in"), Path("out")), "--batch-size", "4"],
        cwd=place,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (place / "out" / "a.parquet").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    new.rename(place / "in" / "b.parquet")
    _, told = running.communicate(timeout=120)
    assert running.returncode == 1, told
    assert "b.parquet changed or was removed during the run" in told
    assert {name for name in contents(place / "out") if name[0] != "_"} == {"a.parquet"}
    done = subprocess.run(
        [*command(Path("model.onnx"), Path("in"), Path("out")), "--json"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(done.stdout)["scored"] == {"b.parquet": "new"}
    assert len(read_results(place / "out")) == 53


def test_the_input_of_the_kill_test_has_broken_and_empty_shards(tmp_path: Path) -> None:
    rows = {path.name: pq.read_table(path)["image"] for path in write_input(tmp_path / "in").iterdir()}
    assert len(rows["1.parquet"]) == 0
    assert sum(column.null_count for column in rows.values()) == 3
