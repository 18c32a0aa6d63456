"""Errors of the system and of stores end every command with an explanation, never as an unexpected error."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from export.errors import OodscreenError, ReadFailed
from screen.files.failures import explain_environment, raise_if_refused
from tests.conftest import oodscreen


class StoreError(Exception):
    """An exception of a store's library."""


StoreError.__module__ = "botocore.exceptions"


@pytest.mark.hostile(
    "A full or read-only disk, missing permissions, a name that is not UTF-8, too little memory, or a failing object "
    "store, at any step of a command except the reading of a shard",
    "the command ends with exit code 1, and the error states the reason, the path and the next step",
)
@pytest.mark.parametrize(
    ("error", "found", "next_step"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "/x/y: Permission denied", "access to the path"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "/x: No space left on device", "free space"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system", "not read-only"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files", "ulimit -n"),
        (OSError("no errno"), "no errno", "check the disk"),
        (PermissionError("Forbidden"), "Forbidden", "credentials"),
        (UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "surrogates not allowed"), r"a\\udcff", "LC_ALL to C.UTF-8"),
        (MemoryError("Unable to allocate 8 EiB"), "8 EiB", "more memory"),
        (StoreError("503 Slow Down"), "StoreError: 503 Slow Down", "credentials"),
    ],
)
def test_errors_of_the_environment_are_explained(
    error: Exception, found: str, next_step: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("screen.doctor.examination.examine", fail)
    assert oodscreen("doctor", "--json", monkeypatch=monkeypatch) == 1
    explained = json.loads(capsys.readouterr().out)["error"]
    assert found in explained["found"]
    assert next_step in explained["next"]


def test_errors_of_the_program_are_not_explained_as_errors_of_the_environment() -> None:
    assert explain_environment(ZeroDivisionError()) is None


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no users")
def test_a_refused_access_names_owner_mode_and_user(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    path.chmod(0o600)
    with pytest.raises(ReadFailed) as refused:
        raise_if_refused(path, PermissionError(errno.EACCES, "Permission denied"))
    assert f"{path} has the mode -rw-------, and belongs to user {path.stat().st_uid}" in refused.value.found
    assert f"this process runs as user {os.geteuid()}" in refused.value.found


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "x"), OSError("damaged"), ValueError("x")])
def test_absent_and_damaged_files_are_left_to_the_caller(error: Exception, tmp_path: Path) -> None:
    raise_if_refused(tmp_path, error)


@pytest.mark.hostile(
    "Results that belong to another user and cannot be read (umask 077)",
    "the errors of `report`, `evaluate` and `queue` state the file, its owner and its mode, and do not advise "
    "deleting the file",
)
def test_results_of_another_user_are_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from screen.output.manifest_file import ManifestFile

    (tmp_path / "_manifest.jsonl").write_text("{}\n")

    def refuse(self: Path, **options: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(OodscreenError) as refused:
        ManifestFile.read(tmp_path)
    assert type(refused.value) is ReadFailed
    assert "--force" not in refused.value.next_step


@pytest.mark.hostile(
    "A path that is not UTF-8, printed on a terminal or in a log of any encoding",
    "the path is printed with escapes, and the command does not end because of the path",
)
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no names that are not UTF-8")
def test_a_name_that_is_not_utf8_can_be_printed(article_onnx: Path, tmp_path: Path) -> None:
    model = os.fsencode(tmp_path) + b"/m\xff.onnx"
    Path(os.fsdecode(model)).symlink_to(article_onnx)
    words = [os.fsencode(Path(sys.executable).with_name("oodscreen")), b"inspect", model]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(words, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"m\\udcff.onnx" in done.stdout


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (
            "run memory://none/m.onnx in out",
            "The model memory://none/m.onnx cannot be read: No such file or directory.",
        ),
        ("run m in out --print-config --calibration memory://none/c", "memory://none/c cannot be read: No such file"),
        ("run --config memory://none/c.toml", "memory://none/c.toml cannot be read: No such file or directory."),
        ("labels memory://none/l.csv results -o l.parquet", "LABELS memory://none/l.csv does not exist."),
    ],
)
def test_an_object_that_does_not_exist_is_refused_as_a_file_is(
    words: str, found: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert oodscreen(*words.split(), monkeypatch=monkeypatch) == 2
    assert found in capsys.readouterr().err
