"""Standard streams that do not end a command: text that cannot be written is lost, and the command continues.

In: the streams of the process, which may be closed, full, or without a reader. Out: `sys.stdout` and `sys.stderr`
whose writes never fail; the first failure on standard output is kept, for the exit code.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO

from export.errors import WriteFailed


class _Descriptor(io.FileIO):
    """A file descriptor; data that the system refuses to write is lost.

    Attributes:
        failure: the error of the first refused write; None if every write succeeded.
    """

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write bytes, and return the number of bytes that were written or lost."""
        try:
            written = super().write(data)
        except OSError as error:
            self.failure = self.failure or error
            return len(data)
        return len(data) if written is None else written  # None: a pipe in non-blocking mode is full


class StandardOutput:
    """Standard output of the command.

    Args:
        descriptor: the descriptor below `sys.stdout`; None if `sys.stdout` was not replaced.
    """

    def __init__(self, descriptor: _Descriptor | None) -> None:
        self._descriptor = descriptor

    def failure(self, *, required: bool) -> WriteFailed | None:
        """The error if standard output could not be written; None otherwise.

        Args:
            required: whether it is also an error if standard output is closed.
        """
        if self._descriptor is None:
            return None
        sys.stdout.flush()
        error = self._descriptor.failure
        if error is None or (error.errno == errno.EBADF and not required):
            return None
        return WriteFailed(
            f"Standard output could not be written: {error.strerror}. Only this output is lost: the command has ended, "
            "and its files are written.",
            wanted="a standard output that is open, and goes to a process that reads it or to a disk with free space",
            next_step="redirect standard output to a file on a disk with free space, and run the command again "
            "(`oodscreen run` skips finished shards)",
        )


def keep_streams() -> StandardOutput:
    """Replace `sys.stdout` and `sys.stderr` by streams whose writes never fail, not even of names that are not UTF-8.

    Closed descriptors are opened first; otherwise, the next opened file would get the descriptor of standard error,
    into which native libraries write their messages. Streams that a caller has replaced are kept, and so is the
    console of Windows, which has another interface.
    """
    for number, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):  # standard output stays unwritable
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # the system assigns the lowest free number, which is this one
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # so that a name that is not UTF-8 can be printed
    sys.stderr, _ = _keep(sys.stderr, sys.__stderr__, 2)
    sys.stdout, output = _keep(sys.stdout, sys.__stdout__, 1)
    return StandardOutput(output)


def _keep(stream: TextIO | None, original: TextIO | None, number: int) -> tuple[TextIO, _Descriptor | None]:
    if stream is not None and (stream is not original or (os.name == "nt" and stream.isatty())):
        return stream, None
    if stream is not None:
        stream.flush()
    descriptor = _Descriptor(number, "w", closefd=False)
    kept = io.TextIOWrapper(
        io.BufferedWriter(descriptor),
        encoding="utf-8" if stream is None else stream.encoding,
        errors="backslashreplace" if stream is None else stream.errors,
        line_buffering=number == 2 or descriptor.isatty(),
    )
    return kept, descriptor
