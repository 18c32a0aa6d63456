"""The log of a command: lines with time and level, on standard error and in a log file.

In: a `LogConfig`, and the records of Python's `logging` below the logger `oodscreen`. Out: lines of text or of JSON. A
line that cannot be written is lost, and the command continues. A log file is opened for each line, so it can be renamed
at any time.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import typer

from export.errors import OodscreenError, OptionRefused
from screen.command_line.log_config import LogConfig

LOG = logging.getLogger("oodscreen")
OUTCOME = LOG.getChild("outcome")
"""Logger of the lines that a command also prints on standard output. With `--json`, these lines are written to standard
error, too; with `-q`, only the warnings among them."""

PROGRESS = LOG.getChild("progress")
"""Logger of progress lines, which are not written to standard error while a progress bar is shown there."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.ENXIO)
"""Error numbers with which a log file is accepted: a full disk, an exceeded quota, and a pipe without a reader."""


def start_log(config: LogConfig | None = None, *, as_json: bool = False) -> None:
    """Send the log to standard error, and to the log file if there is one; an earlier log of this process ends.

    Args:
        config: options of the log; None for the defaults.
        as_json: whether the command prints JSON on standard output, so that its text goes to standard error.

    Raises:
        OptionRefused: the log file cannot be opened for writing, or is not a log.
    """
    config = config or LogConfig()
    LOG.handlers.clear()
    LOG.propagate = False
    LOG.setLevel(logging.DEBUG if config.verbose else logging.INFO)
    hidden = set() if as_json or config.quiet else {OUTCOME.name}
    hidden |= {PROGRESS.name} if config.shows_bar else set()
    stderr = _StandardError(hidden)
    stderr.setFormatter(_Json() if config.log_format == "json" else _Text())
    if config.quiet:
        stderr.setLevel(logging.WARNING)
    LOG.addHandler(stderr)
    if config.log_file is not None:
        file = _LogFile(config.log_file, stderr)
        file.setFormatter(_Json() if config.log_format == "json" else _OneLine())
        LOG.addHandler(file)


def print_outcome(lines: Iterable[tuple[str, bool]], config: LogConfig, as_json: str | None) -> None:
    """Print the outcome of a command on standard output, and log it.

    Args:
        lines: pairs of a line of text and whether the line is a warning.
        config: options of the log; with `quiet`, no text is printed on standard output.
        as_json: the outcome as JSON, which is printed in place of the text; None to print the text.
    """
    texts = []
    for text, is_warning in lines:
        OUTCOME.log(logging.WARNING if is_warning else logging.INFO, "%s", text)
        texts.append(text)
    if as_json is not None:
        typer.echo(as_json)
    elif not config.quiet:
        typer.echo("\n".join(texts))


def log_error(error: OodscreenError) -> None:
    """Log an error with its three parts; in the text format, standard error gets three lines, without time and level.

    If the command has not started a log, the error is logged to standard error alone.
    """
    if not any(isinstance(handler, _StandardError) for handler in LOG.handlers):
        start_log()
    LOG.error("%s", error.found, extra={"error": error})


def _local_time(record: logging.LogRecord, unit: str) -> str:
    return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec=unit)


class _OneLine(logging.Formatter):
    """Format a record as one line with time, level and message; control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of text."""
        error: OodscreenError | None = getattr(record, "error", None)
        text = record.getMessage()
        if error is not None:
            text = f"{error.found} Wanted: {error.wanted}. Next: {error.next_step}."
        text = _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)
        return f"{_local_time(record, 'seconds')} {record.levelname} {text}"


class _Text(_OneLine):
    """Format a record like `_OneLine`, but an error as three lines, one for each part."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of text; for an error, three lines."""
        error: OodscreenError | None = getattr(record, "error", None)
        return super().format(record) if error is None else f"error: {error}"


class _Json(logging.Formatter):
    """Format a record as a JSON object: time, level, message, parts of an error, and values of the progress."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        values: dict[str, Any] = {
            "time": _local_time(record, "milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "values", {}),
        }
        error: OodscreenError | None = getattr(record, "error", None)
        if error is not None:
            values |= {"wanted": error.wanted, "next": error.next_step, "exit_code": int(error.exit_code)}
        return json.dumps(values)


class _StandardError(logging.Handler):
    """Writes to the current `sys.stderr`, which a progress bar or a test may have replaced.

    Args:
        hidden: names of the loggers whose records are left out.
    """

    def __init__(self, hidden: set[str]) -> None:
        super().__init__()
        self.addFilter(lambda record: record.name not in hidden)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line; a line that cannot be written is lost."""
        with suppress(OSError):
            print(self.format(record), file=sys.stderr, flush=True)


class _LogFile(logging.Handler):
    """Appends each line to a file with one write, so that processes can share the file; logrotate may rename the file.

    Args:
        path: path of the log file.
        stderr: handler for the notice that lines are lost.

    Raises:
        OptionRefused: the file cannot be opened for writing, or contains binary data.
    """

    def __init__(self, path: Path, stderr: logging.Handler) -> None:
        super().__init__()
        self._path, self._stderr, self._is_lost = path, stderr, False
        self._start = b""
        """Bytes before the next line: a line break after a failed write, which can have written a part of its line."""
        try:
            self._append(b"")
            with open(path, "rb") as file:
                is_log = not path.is_file() or b"\0" not in file.read(4096)
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise self._refusal(f"cannot be opened for writing: {error.strerror or error}") from error
            is_log = True
        if not is_log:
            raise self._refusal("is not a log: the file contains binary data")

    def emit(self, record: logging.LogRecord) -> None:
        """Append the line; if it cannot be written, warn on standard error, unless an earlier line was lost, too."""
        line = (self.format(record) + "\n").encode(errors="backslashreplace")
        try:
            self._append(self._start + line)
            self._start = b""
        except OSError as error:
            self._start = b"\n"
            if not self._is_lost:
                self._is_lost = True
                text = f"log lines are lost: {self._path} could not be written: {error.strerror or error}"
                self._stderr.handle(LOG.makeRecord(LOG.name, logging.WARNING, "", 0, text, (), None))

    def _append(self, data: bytes) -> None:
        # A pipe without a reader, or with a slow reader, must not block the command.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(self._path, flags, 0o666)
        try:
            if data and os.write(descriptor, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)

    def _refusal(self, problem: str) -> OptionRefused:
        return OptionRefused(
            f"--log-file {str(self._path)!r} {problem}.",
            wanted="a writable log file, new or existing, in an existing folder on this machine",
            next_step="give another path, or leave out --log-file to log to standard error alone",
        )
