"""Locks of an OUTPUT on a local disk: readers share, writers exclude each other, and folders that cannot be synced."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from export.errors import OutputLocked, WriteFailed
from screen.files import storage
from screen.output.locks.hold import LOCK_NAME, hold_output, refuse_if_held
from screen.output.locks.local import is_taken
from screen.partition import ShardPartition

READER = """
import sys
from pathlib import Path
from screen.output.locks.hold import refuse_if_held
print("ready", flush=True)
while True:
    try:
        refuse_if_held(Path(sys.argv[1]))
    except Exception:
        pass
"""


@pytest.mark.hostile(
    "`check` and `report` read an OUTPUT repeatedly while runs start in this OUTPUT",
    "a run waits while a reader tests the lock of OUTPUT, and does not end with exit code 75 because of a reader",
)
def test_readers_in_a_loop_never_keep_a_run_out(tmp_path: Path) -> None:
    with hold_output(tmp_path):
        pass
    readers = [
        subprocess.Popen([sys.executable, "-c", READER, str(tmp_path)], stdout=subprocess.PIPE) for _ in range(2)
    ]
    try:
        for reader in readers:
            assert reader.stdout is not None
            assert reader.stdout.readline() == b"ready\n"
        for _ in range(300):
            with hold_output(tmp_path):
                pass
    finally:
        for reader in readers:
            reader.kill()
            reader.communicate()


def test_a_second_writer_is_refused_at_once(tmp_path: Path) -> None:
    with hold_output(tmp_path):
        started = time.monotonic()
        with pytest.raises(OutputLocked, match=rf"in use by process {os.getpid()} on "), hold_output(tmp_path):
            raise AssertionError("not reached")
        assert time.monotonic() - started < 1
        assert is_taken(tmp_path / LOCK_NAME)
    assert not is_taken(tmp_path / LOCK_NAME)
    refuse_if_held(tmp_path)


def test_a_reader_without_the_right_to_write_sees_a_run(tmp_path: Path) -> None:
    with hold_output(tmp_path):
        (tmp_path / LOCK_NAME).chmod(0o444)
        with pytest.raises(OutputLocked):
            refuse_if_held(tmp_path)


@pytest.mark.hostile(
    "Two job arrays with different numbers of parts start in one OUTPUT at the same time",
    "one of the two is refused with exit code 75 before it writes",
)
@pytest.mark.parametrize("other", [ShardPartition(1, 3), ShardPartition(3, 3)])
def test_parts_of_different_counts_exclude_each_other(
    other: ShardPartition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("screen.output.locks.hold._PROBE_SECONDS", 0.01)
    with (
        hold_output(tmp_path, ShardPartition(1, 2)),
        hold_output(tmp_path, ShardPartition(2, 2)),
        pytest.raises(OutputLocked, match=r"Part \d/2 of"),
        hold_output(tmp_path, other),
    ):
        raise AssertionError("not reached")
    with hold_output(tmp_path, other):
        pass


@pytest.mark.hostile(
    "A file system that cannot sync folders (SMB, sshfs, DrvFs)",
    "the run scores all shards, and prints one notice that the last shards may be missing after a power failure",
)
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES])
def test_a_folder_that_cannot_be_synced_is_said_once(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with hold_output(tmp_path / "out") as held:
        assert "cannot sync folders" in held.note
        storage.write_text(tmp_path / "out" / "file", "text")
    assert (tmp_path / "out" / "file").read_text() == "text"


def test_a_folder_whose_sync_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(WriteFailed, match="Input/output error"), hold_output(tmp_path):
        raise AssertionError("not reached")


def test_a_writer_waits_for_a_reader_that_is_slow(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with hold_output(tmp_path):
        pass
    handle = os.open(tmp_path / LOCK_NAME, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)
    timer = threading.Timer(0.3, os.close, [handle])
    timer.start()
    with hold_output(tmp_path):
        pass
    timer.join()
