"""Progress lines and the progress bar."""

from __future__ import annotations

import io
import logging

import pytest

from screen.command_line.log import LOG, start_log
from screen.command_line.log_config import LogConfig
from screen.run.progress import LogLines, ProgressBar, make_listener


class Clock:
    """A monotonic clock that is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> list[logging.LogRecord]:
    found: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", found.append)
    start_log()
    LOG.addHandler(handler)
    return found


def test_a_line_has_rate_flags_and_time_left_and_lines_become_sparse(records: list[logging.LogRecord]) -> None:
    clock = Clock()
    listener = LogLines(clock)
    listener.started(4, 36_000, 0, "")
    lines = []
    for second in range(1, 3601):
        clock.now = 100.0 + second
        listener.advanced(10, 1)
        if len(records) > 1 and records[-1].getMessage() not in lines:
            lines.append(records[-1].getMessage())
    assert lines[0] == "100 of 36000 rows (0%), 0 of 4 shards, 10 rows/s, 10 flagged, 59 min 50 s left"
    assert lines[1].startswith("300 of 36000 rows (1%)")
    assert 12 <= len(lines) <= 20
    assert vars(records[1])["values"]["rows_per_second"] == 10.0


def test_a_calibration_flags_no_rows(records: list[logging.LogRecord]) -> None:
    clock = Clock()
    listener = LogLines(clock)
    listener.started(1, 50_000, 0, "cpu")
    clock.now += 20
    listener.advanced(5)
    assert records[0].getMessage() == "50000 rows in 1 shard(s) to score, 0 shard(s) finished earlier; cpu"
    assert records[1].getMessage() == "5 of 50000 rows (0%), 0 of 1 shards, 0.2 rows/s, 2 d 7 h left"


@pytest.mark.parametrize("width", [80, 120])
def test_the_bar_fits_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    start_log()
    with make_listener(LogConfig()) as listener:
        assert isinstance(listener, ProgressBar)
        listener.started(10, 7_000_000, 3, "")
        listener.advanced(1_200_000, 34_000)
        listener.warned("a warning above the bar")
    shown = terminal.getvalue()
    assert "WARNING a warning above the bar" in shown
    assert "1200000/7000000 rows" in shown
    assert "34000 flagged" in shown
    assert "left" in shown.replace("\n", "")
    bars = [line for line in shown.replace("\r", "\n").split("\n") if "/7000000" in line]
    assert all("left" in line or "0/7000000" in line for line in bars), "the bar is on one line"


@pytest.mark.parametrize("config", [LogConfig(quiet=True), LogConfig(log_format="json")])
def test_no_bar_is_shown_where_it_is_not_wanted(config: LogConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    with make_listener(config) as listener:
        assert not isinstance(listener, ProgressBar)
