"""The log: time and level, text and JSON, standard error and a file; only lines that cannot be written are lost."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import pytest

from export.errors import ExitCode, OptionRefused
from screen.command_line.log import LOG, PROGRESS, log_error, print_outcome, start_log
from screen.command_line.log_config import LogConfig
from tests.conftest import oodscreen

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d (DEBUG|INFO|WARNING|ERROR) (.*)")
OUTCOME = [("300 rows", False), ("drift: ALARM", True)]


def refusal() -> OptionRefused:
    return OptionRefused("--memory is 0.", wanted="1 or more", next_step="give more")


def lines(text: str) -> list[tuple[str, str]]:
    """Level and message of each line of text."""
    found = [LINE.fullmatch(line) for line in text.splitlines()]
    assert all(found), text
    return [(one[1], one[2]) for one in found if one]


def test_each_line_has_a_time_and_a_level(capsys: pytest.CaptureFixture[str]) -> None:
    start_log()
    LOG.info("%s", "scoring")
    LOG.warning("%s", "two\nlines\x1b[31m 火")
    LOG.debug("%s", "hidden")
    assert lines(capsys.readouterr().err) == [("INFO", "scoring"), ("WARNING", r"two\nlines\x1b[31m 火")]
    start_log(LogConfig(verbose=True))
    LOG.debug("%s", "shown")
    assert lines(capsys.readouterr().err) == [("DEBUG", "shown")]


def test_json_lines_hold_the_values(capsys: pytest.CaptureFixture[str]) -> None:
    start_log(LogConfig(log_format="json"))
    PROGRESS.info("%s", "5 of 10 rows", extra={"values": {"rows": 5}})
    log_error(refusal())
    progress, error = map(json.loads, capsys.readouterr().err.splitlines())
    assert (progress["level"], progress["message"], progress["rows"]) == ("info", "5 of 10 rows", 5)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", progress["time"])
    del error["time"]
    assert error == {
        "level": "error",
        "message": "--memory is 0.",
        "wanted": "1 or more",
        "next": "give more",
        "exit_code": int(ExitCode.REFUSED),
    }


def test_quiet_prints_warnings_and_errors_alone_and_the_file_gets_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = LogConfig(quiet=True, log_file=tmp_path / "run.log")
    start_log(config)
    LOG.info("%s", "scoring")
    print_outcome(OUTCOME, config, None)
    log_error(refusal())
    told = capsys.readouterr()
    assert told.out == ""
    first, *rest = told.err.splitlines()
    assert lines(first) == [("WARNING", "drift: ALARM")]
    assert rest == ["error: --memory is 0.", "  wanted: 1 or more", "  next:   give more"]
    assert lines((tmp_path / "run.log").read_text()) == [
        ("INFO", "scoring"),
        ("INFO", "300 rows"),
        ("WARNING", "drift: ALARM"),
        ("ERROR", "--memory is 0. Wanted: 1 or more. Next: give more."),
    ]


@pytest.mark.parametrize("as_json", [False, True])
def test_the_outcome_is_printed_once(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    start_log(as_json=as_json)
    print_outcome(OUTCOME, LogConfig(), '{"rows": 300}' if as_json else None)
    told = capsys.readouterr()
    assert told.out == ('{"rows": 300}\n' if as_json else "300 rows\ndrift: ALARM\n")
    assert lines(told.err) == ([("INFO", "300 rows"), ("WARNING", "drift: ALARM")] if as_json else [])


def test_a_log_file_is_appended_to_and_may_be_renamed_at_any_time(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    path.write_text("yesterday\n")
    start_log(LogConfig(log_file=path))
    LOG.info("%s", "one")
    path.rename(tmp_path / "run.log.1")  # as logrotate does
    LOG.info("%s", "two")
    assert (tmp_path / "run.log.1").read_text().splitlines()[0] == "yesterday"
    assert [text for _, text in lines((tmp_path / "run.log.1").read_text().removeprefix("yesterday\n"))] == ["one"]
    assert [text for _, text in lines(path.read_text())] == ["two"]


@pytest.mark.parametrize("kind", ["no folder", "a folder", "a model"])
def test_a_log_file_that_cannot_be_one_is_refused(kind: str, tmp_path: Path) -> None:
    path = {"no folder": tmp_path / "missing" / "run.log", "a folder": tmp_path, "a model": tmp_path / "m.onnx"}[kind]
    (tmp_path / "m.onnx").write_bytes(b"\x08\0onnx")
    with pytest.raises(OptionRefused, match="--log-file"):
        start_log(LogConfig(log_file=path))
    assert (tmp_path / "m.onnx").read_bytes() == b"\x08\0onnx"


def test_lines_on_a_full_disk_are_lost_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, write = tmp_path / "run.log", os.write
    start_log(LogConfig(log_file=path))

    def fill(descriptor: int, data: bytes) -> int:
        if b"INFO lost" in data:
            write(descriptor, data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    with monkeypatch.context() as full:
        full.setattr(os, "write", fill)
        LOG.info("lost 1")
        LOG.info("lost 2")
    LOG.info("again")
    warnings = [text for level, text in lines(capsys.readouterr().err) if level == "WARNING"]
    assert warnings == [f"log lines are lost: {path} could not be written: No space left on device"]
    assert lines(path.read_text().splitlines()[-1]) == [("INFO", "again")]


def test_a_pipe_without_a_reader_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    os.mkfifo(tmp_path / "pipe")
    start_log(LogConfig(log_file=tmp_path / "pipe"))
    LOG.info("lost")
    assert "log lines are lost" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["--passes", "x"], ["--passes is 'x'."]),
        (["--max-bad-rows", "x"], ["--max-bad-rows is 'x'."]),
        ([], ["The model m cannot be read: No such file or directory."]),
    ],
)
@pytest.mark.parametrize("source", ["command line", "environment", "file"])
def test_all_lines_of_a_command_have_the_format_that_was_chosen_and_are_in_the_log_file(
    words: list[str],
    messages: list[str],
    source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OODSCREEN_RUN_PASES", "3")
    log: list[str] = []
    if source == "command line":
        log = ["--log-format", "json", "--log-file", "log"]
    elif source == "environment":
        monkeypatch.setenv("OODSCREEN_RUN_LOG_FORMAT", "json")
        monkeypatch.setenv("OODSCREEN_RUN_LOG_FILE", "log")
    else:
        Path("night.toml").write_text('[run]\nlog-format = "json"\nlog-file = "log"\n')
        log = ["--config", "night.toml"]
    assert oodscreen("run", "m", "in", "out", *log, *words, monkeypatch=monkeypatch) == ExitCode.REFUSED
    told = capsys.readouterr().err
    found = [json.loads(line)["message"] for line in told.splitlines()]
    assert found[0].startswith("The environment variable OODSCREEN_RUN_PASES sets no option")
    assert found[1:] == messages
    assert Path("log").read_text() == told
