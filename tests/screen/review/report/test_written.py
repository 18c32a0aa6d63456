from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from export.errors import WriteFailed
from screen.files.storage import UNLOCKED_PREFIX
from screen.review.report.gather import gather_findings
from screen.review.report.page import render_page, write_page


def test_a_full_disk_or_a_kill_leaves_the_earlier_page(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "report.html"
    findings = replace(gather_findings(str(drawn / "out"), top=2, look_alikes=0), histograms=())
    (tmp_path / f"{UNLOCKED_PREFIX}0123").write_text("half a page of a killed report")
    write_page(findings, target)
    earlier, later = target.read_bytes(), replace(findings, title="a later page")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def see_both(staged: Path, final: Path) -> None:
        """Fail after a look at what a kill would leave, at the last moment before the page is replaced."""
        assert final.read_bytes() == earlier
        assert Path(staged).read_text(encoding="utf-8") == render_page(later)
        fail()

    for name, step in (("fsync", fail), ("replace", see_both)):
        with monkeypatch.context() as patch:
            patch.setattr(f"screen.files.storage.os.{name}", step)
            with pytest.raises(WriteFailed, match="No space left on device"):
                write_page(later, target)
        assert target.read_bytes() == earlier
        assert list(tmp_path.iterdir()) == [target]
