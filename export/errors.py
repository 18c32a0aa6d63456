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
    ├── ReadFailed                    exit 1   a disk or a store stopped answering while a shard was read
    ├── InputChanged                  exit 1   a shard changed while it was read
    ├── OutputLocked                  exit 75  another run holds the output: try again later
    └── Interrupted                   exit 130 a run was asked to stop by SIGINT (Ctrl-C)
        └── Terminated                exit 143 the same by SIGTERM, which schedulers send

A run that ends well can still exit with 3 (some input was unreadable) or 4 (drift alarm). An error says what was found,
what was wanted and the next step, in this order, so that a log line is enough to act on.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Every process status of `oodscreen`, with what it means to whoever scheduled it."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> ExitCode:
        """A status that carries its meaning."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    DONE = 0, "done"
    FAILED = 1, "failed; finished shards stay, and a rerun goes on behind them"
    REFUSED = 2, "refused: a wrong option, model or input; nothing was written; do not retry"
    UNREADABLE_INPUT = 3, "done, but more rows were unreadable than `--max-bad-rows` allows, or a whole shard was"
    DRIFT = 4, "done, but the rate of flags left the range of the calibration (`--alarm`); 3 wins over 4"
    LOCKED = 75, "another run holds OUTPUT; try again later"
    SIGINT = 130, "interrupted by SIGINT (Ctrl-C); finished shards stay"
    SIGTERM = 143, "interrupted by SIGTERM; finished shards stay"


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

    def __reduce__(self) -> tuple[object, ...]:
        """Errors travel from one process to another."""
        return _rebuild, (type(self), self.found, self.wanted, self.next_step)

    def __str__(self) -> str:
        return f"{self.found}\n  wanted: {self.wanted}\n  next:   {self.next_step}"


def _rebuild(kind: type[OodscreenError], found: str, wanted: str, next_step: str) -> OodscreenError:
    return kind(found, wanted=wanted, next_step=next_step)


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


class ReadFailed(OodscreenError):
    """A shard could not be read to its end, through no fault of the file."""


class InputChanged(OodscreenError):
    """A shard was replaced or altered while it was being read."""


class OutputLocked(OodscreenError):
    """Another living run holds the output."""

    exit_code = ExitCode.LOCKED


class Interrupted(OodscreenError):
    """A run was asked to stop by SIGINT; it ended its batch, and finished shards stay."""

    exit_code = ExitCode.SIGINT


class Terminated(Interrupted):
    """A run was asked to stop by SIGTERM; it ended its batch, and finished shards stay."""

    exit_code = ExitCode.SIGTERM
