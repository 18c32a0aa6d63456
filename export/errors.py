"""Every error this project raises on purpose, drawn once; this file imports nothing of the project.

    OodscreenError                    exit 1   failed; what is finished stays
    ├── Refused                       exit 2   the request cannot be served as it stands: do not retry
    │   ├── OptionRefused                      an option's value, or two options together
    │   ├── InputRefused                       image shards that cannot be read, or not as asked
    │   ├── OutputRefused                      an output place that would lose or mix something
    │   ├── ContractRefused                    an ONNX file that is not one of ours, or of another version
    │   ├── CalibrationRefused                 a calibration that is damaged, or of another model or other passes
    │   └── ModelRefused                       a Keras model that cannot be exported faithfully
    ├── VerificationFailed            exit 1   the exported file does not do what the Keras model does
    ├── EngineFailed                  exit 1   onnxruntime could not run the model
    │   └── OutOfMemory                        the device has no room for a run's tensors
    ├── WriteFailed                   exit 1   results could not be written
    ├── InputChanged                  exit 1   a shard changed while it was read
    └── OutputLocked                  exit 75  another run holds the output: try again later

A run that ends well can still exit with 3 (some input was unreadable), and one that is interrupted by
Ctrl-C exits with 130. An error says what was found, what was wanted and the
next step, in this order, so that a log line is enough to act on.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a process status of `oodscreen` means."""

    DONE = 0
    FAILED = 1
    REFUSED = 2
    UNREADABLE_INPUT = 3
    LOCKED = 75
    SIGINT = 130


class OodscreenError(Exception):
    """What was found, what was wanted, and the next step.

    Args:
        found: what the program met, with the value it met.
        wanted: what it needed instead.
        next_step: what the user can do now.
    """

    exit_code = ExitCode.FAILED

    def __init__(self, found: str, *, wanted: str, next_step: str) -> None:
        super().__init__(found)
        self.found = found
        self.wanted = wanted
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.found}\n  wanted: {self.wanted}\n  next:   {self.next_step}"


class Refused(OodscreenError):
    """The request cannot be served as it stands; nothing was written."""

    exit_code = ExitCode.REFUSED


class OptionRefused(Refused):
    """An option has a value that cannot be meant, or contradicts another."""


class InputRefused(Refused):
    """The input is missing, is not Parquet, or lacks the columns asked for."""


class OutputRefused(Refused):
    """Writing to this output would overwrite or mix what must be kept apart."""


class ContractRefused(Refused):
    """The ONNX file does not carry a contract that this version understands."""


class CalibrationRefused(Refused):
    """The calibration is damaged, or does not belong to this model and these passes."""


class ModelRefused(Refused):
    """The Keras model cannot be exported without changing what it says."""


class VerificationFailed(OodscreenError):
    """The written file does not behave like the Keras model; it was not kept."""


class EngineFailed(OodscreenError):
    """onnxruntime could not load or run the model."""


class OutOfMemory(EngineFailed):
    """The device has no room for the tensors of a run."""


class WriteFailed(OodscreenError):
    """Results could not be written; finished shards stay."""


class InputChanged(OodscreenError):
    """A shard was replaced or altered while it was being read."""


class OutputLocked(OodscreenError):
    """Another living run holds the output."""

    exit_code = ExitCode.LOCKED
