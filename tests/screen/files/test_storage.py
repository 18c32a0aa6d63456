from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from export.errors import ExitCode
from screen.files.storage import UNLOCKED_PREFIX, StagingFile, find_stale_staging, remove_stale_staging, write_text
from screen.run.metrics import write_metrics
from tests.screen.decide.test_calibration import make_calibration

needs_locks = pytest.mark.skipif(os.name != "posix", reason="Windows has no locks that the system releases")

WRITERS: tuple[Callable[[Path], object], ...] = (
    lambda folder: make_calibration().save(folder / "target"),
    lambda folder: write_metrics(folder / "target", "out", ExitCode.FAILED, None),
    lambda folder: write_text(folder / "target", "text", unlocked=True),
)


@needs_locks
@pytest.mark.parametrize("write", WRITERS)
def test_a_command_removes_what_a_killed_one_left_in_the_folder_of_its_target(
    write: Callable[[Path], object], tmp_path: Path
) -> None:
    (tmp_path / f"{UNLOCKED_PREFIX}0123").write_text("half a file")
    (tmp_path / f"{UNLOCKED_PREFIX}4567").mkdir()
    (tmp_path / f"{UNLOCKED_PREFIX}4567" / "a.png").write_text("half a folder")
    other = StagingFile(tmp_path / "other", unlocked=True)
    write(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "target", other.path])
    other.discard()


@needs_locks
def test_a_run_removes_stale_staging_files_and_folders_but_none_that_another_command_writes(tmp_path: Path) -> None:
    (tmp_path / ".oodscreen-0123").write_text("half a shard")
    (tmp_path / "sub" / f"{UNLOCKED_PREFIX}4567").mkdir(parents=True)
    page = StagingFile(tmp_path / "report.html", unlocked=True)
    assert len(find_stale_staging(tmp_path)) == 2
    remove_stale_staging(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "sub", page.path])
    page.path.write_text("page")
    page.commit()
    assert sorted(tmp_path.rglob("*.*")) == [tmp_path / "report.html"]
