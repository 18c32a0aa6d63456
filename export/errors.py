"""The error classes and the exit codes of the project. From the project, this module imports only `export.addresses`.

    OodscreenError                    exit 1   the request failed; finished shards stay
    ├── Refused                       exit 2   the request is invalid as given: do not retry
    │   ├── OptionRefused                      an option with an invalid value, or options that contradict each other
    │   ├── InputRefused                       an input that is missing or unreadable, or lacks a column
    │   │   └── ShardRefused                   a shard that is damaged or encrypted as a whole
    │   ├── OutputRefused                      an output path where writing would overwrite or mix results
    │   ├── ContractRefused                    an ONNX file without a valid contract of a supported version
    │   ├── CalibrationRefused                 a calibration that is damaged, or fitted for another model or pass count
    │   └── ModelRefused                       a model that cannot be exported faithfully
    ├── VerificationFailed            exit 1   the exported file does not reproduce the source model
    ├── EngineFailed                  exit 1   onnxruntime could not load or run the model
    │   └── OutOfMemory                        too little device memory for the tensors of a session run
    ├── WriteFailed                   exit 1   a file could not be written
    ├── ReadFailed                    exit 1   a disk, an object store or a server failed during reading
    ├── InputChanged                  exit 1   an input file changed or was removed during reading
    ├── OutputLocked                  exit 75  another command holds the lock of the output: retry later
    └── Interrupted                   exit 130 SIGINT (Ctrl-C) stopped the command
        └── Terminated                exit 143 SIGTERM, which schedulers send, stopped the command

A completed run can still exit with 3 (unreadable input) or 4 (drift alarm). An error message has three parts, so that a
reader can act on the message alone: the problem found, the value or state wanted, and the next step.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from enum import IntEnum

from export.addresses import without_secrets


class ExitCode(IntEnum):
    """Exit codes of `oodscreen`, each with its meaning for a scheduler."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> ExitCode:
        """An exit code with its meaning."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    DONE = 0, "done"
    FAILED = 1, "failed; finished shards stay, and a rerun continues after them"
    REFUSED = 2, "refused: a wrong option, model or input; do not retry the same command"
    UNREADABLE_INPUT = (
        3,
        "done, but a whole shard was unreadable, too many rows could not be scored (`--max-bad-rows`), or a result is "
        "missing or damaged and its input no longer exists",
    )
    DRIFT = 4, "done, but the flag rate is outside the calibrated range (`--alarm`); 3 takes precedence over 4"
    LOCKED = 75, "another command holds the lock of the output (OUTPUT, SHARDS or a ledger); try again later"
    SIGINT = 130, "interrupted by SIGINT (Ctrl-C); finished shards stay"
    SIGTERM = 143, "interrupted by SIGTERM; finished shards stay"


class OodscreenError(Exception):
    """Base class of the errors that the user can resolve.

    The three texts are stored without the users, passwords and queries of the addresses in them.

    Args:
        found: the problem, with the offending value; a sentence.
        wanted: the value or state that is required instead.
        next_step: the action that resolves the problem.
    """

    exit_code = ExitCode.FAILED

    def __init__(self, found: str, *, wanted: str, next_step: str) -> None:
        self.found, self.wanted, self.next_step = map(without_secrets, (found, wanted, next_step))
        super().__init__(self.found)

    def __reduce__(self) -> tuple[object, ...]:
        """Make the error picklable, because workers send errors to other processes."""
        return _rebuild, (type(self), self.found, self.wanted, self.next_step)

    def reword(self, change: Callable[[str], str]) -> None:
        """Change each of the three texts.

        Args:
            change: function from a text to the text that replaces it.
        """
        self.found, self.wanted, self.next_step = map(change, (self.found, self.wanted, self.next_step))
        self.args = (self.found,)

    def __str__(self) -> str:
        return f"{printable(self.found)}\n  wanted: {printable(self.wanted)}\n  next:   {printable(self.next_step)}"


def printable(text: str) -> str:
    """The text with unprintable characters except line breaks escaped: names may contain commands for a terminal."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)


def reason_of(error: OSError) -> str:
    """The operating system's reason for an error, as text.

    Clients of object stores raise a FileNotFoundError that contains only the path, without a reason.
    """
    is_missing = isinstance(error, FileNotFoundError)
    return error.strerror or (os.strerror(errno.ENOENT) if is_missing else str(error)) or type(error).__name__


def _rebuild(kind: type[OodscreenError], found: str, wanted: str, next_step: str) -> OodscreenError:
    return kind(found, wanted=wanted, next_step=next_step)


class Refused(OodscreenError):
    """The request is invalid as given; the same request would be refused again."""

    exit_code = ExitCode.REFUSED


class OptionRefused(Refused):
    """An option has an invalid value, or contradicts another option."""


class InputRefused(Refused):
    """The input is missing, is not Parquet, or lacks a requested column."""


class ShardRefused(InputRefused):
    """A shard is damaged or encrypted, or would take too much memory, so that none of its rows is read."""


class OutputRefused(Refused):
    """Writing to the output path is impossible, or would overwrite or mix results."""


class ContractRefused(Refused):
    """The ONNX file has no valid contract of a supported version."""


class CalibrationRefused(Refused):
    """The calibration is damaged, or was fitted for another model or number of passes."""


class ModelRefused(Refused):
    """The model cannot be exported without a change of its predictions."""


class VerificationFailed(OodscreenError):
    """The exported file does not reproduce the source model. The file is not published."""


class EngineFailed(OodscreenError):
    """onnxruntime could not load or run the model."""


class OutOfMemory(EngineFailed):
    """The device memory is too small for the tensors of a session run."""


class WriteFailed(OodscreenError):
    """A file of results, or the exported model, could not be written. Finished shards stay."""


class ReadFailed(OodscreenError):
    """Reading failed because of the disk, the object store or the server, not because of the content of a file."""


class InputChanged(OodscreenError):
    """An input file, such as a shard or an image, changed or was removed during reading."""


class OutputLocked(OodscreenError):
    """Another command holds the lock of the output: of OUTPUT, SHARDS or a ledger."""

    exit_code = ExitCode.LOCKED


class Interrupted(OodscreenError):
    """SIGINT stopped the command. A run stops after its current batch, and its finished shards stay."""

    exit_code = ExitCode.SIGINT


class Terminated(Interrupted):
    """SIGTERM stopped the command. A run stops after its current batch, and its finished shards stay."""

    exit_code = ExitCode.SIGTERM
