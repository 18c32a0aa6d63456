"""Staging files of killed commands are removed by the next command in the folder; those of a running one stay."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from export.leftovers import StagingPlace, is_used, remove_leftovers, staging_folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no locks that the system releases")

HOLD = """
import sys
from pathlib import Path
from export.leftovers import StagingPlace
place = StagingPlace(Path(sys.argv[1]), ".staging-", is_folder=sys.argv[2] == "folder")
(place.path / "half" if place.path.is_dir() else place.path).write_text("half")
print(place.path.name, flush=True)
input()
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_is_removed_and_what_a_live_one_writes_is_kept(kind: str, tmp_path: Path) -> None:
    (tmp_path / ".staging").write_text("of a user")
    command = [sys.executable, "-c", HOLD, str(tmp_path), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        path = tmp_path / process.stdout.readline().strip()
        assert path.exists()
        assert is_used(path)
        with staging_folder(tmp_path, ".staging-"):
            assert path.exists()
        remove_leftovers(tmp_path, ".staging-")
        assert path.exists()
        process.kill()
    assert path.exists()
    assert not is_used(path)
    place = StagingPlace(tmp_path, ".staging-")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / ".staging", place.path])
    place.release()
