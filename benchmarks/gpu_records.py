"""Records of `benchmarks.gpu`: one for each check or measurement, written immediately, in case the part is killed.

In: values, or an exception. Out: lines of JSON. A failed check does not end the other checks.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Record:
    """A check or a measurement.

    Attributes:
        part: part of the benchmark.
        network: name of the network; "" for the machine as a whole.
        name: name of the check or measurement.
        passed: whether the check passed; None for a measurement without a limit.
        values: figures, by name with their unit.
        error: the reason why the check or measurement failed; "" if it did not fail.
    """

    part: str
    network: str
    name: str
    passed: bool | None = None
    values: dict[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Setup:
    """Values that every part reads.

    Attributes:
        models: path of the exported file of each network, by name.
        scratch: folder for temporary files.
        device: `cpu` or `cuda`.
    """

    models: dict[str, Path]
    scratch: Path
    device: str


class Recorder:
    """Writes the records of one part.

    Args:
        part: name of the part.
        file: file to which lines of JSON are appended.
        seconds: time limit of the part in seconds.
    """

    def __init__(self, part: str, file: Path, seconds: float) -> None:
        self.part = part
        self._file = file
        self._end = time.monotonic() + seconds

    @property
    def seconds_left(self) -> float:
        """Seconds until the end of the part's time; negative afterwards."""
        return self._end - time.monotonic()

    def add(self, network: str, name: str, passed: bool | None = None, **values: Any) -> None:
        """Write the record of a check or measurement that ended."""
        self._write(Record(self.part, network, name, passed, values))

    def _write(self, record: Record) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record)) + "\n")

    def require_time(self) -> None:
        """Raise TimeoutError if the part's time is over."""
        if self.seconds_left <= 0:
            raise TimeoutError("the time of this part was over before this check began")

    @contextmanager
    def attempt(self, network: str, name: str) -> Iterator[None]:
        """Record an exception in the block as a failed check, and continue after the block."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  one failed check must not end the others
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(frame.filename).name}:{frame.lineno}"
            text = f"{type(error).__name__}: {error} ({where})"
            self._write(Record(self.part, network, name, passed=False, error=text))


def read_records(file: Path) -> list[Record]:
    """The records in a file; a last line that a killed process left incomplete is dropped."""
    records = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            records.append(Record(**json.loads(line)))
        except json.JSONDecodeError:
            break
    return records
