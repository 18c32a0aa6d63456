"""What the last run of an OUTPUT was like: names, device and time, which decide no result.

In: what a run knows at its end. Out: `_run.json` in OUTPUT, and a `RunRecord` read back. It holds times, so it
differs from run to run; all else in OUTPUT does not. Results are whole without it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from export.contract.metadata import ModelContract
from screen.decide.calibration import Calibration, flagged_ranks
from screen.files.storage import write_text

RECORD_STEM = "_run."
RECORD_NAME = f"{RECORD_STEM}json"


@dataclass(frozen=True)
class Promise:
    """What a calibration promises.

    Attributes:
        review_rate: the share of known rows that may be flagged.
        ranked: rows that were ranked.
        rank: a row is flagged that scores above the rank-th highest of them.
        limit: that score, an `ood_score`.
        low: the true rate of flags among known rows lies above it, with 97.5 % confidence.
        high: and below it, with the same.
    """

    review_rate: float
    ranked: int
    rank: int
    limit: float
    low: float
    high: float

    @classmethod
    def of(cls, calibration: Calibration) -> Promise:
        """The promise of a calibration."""
        ranked = len(calibration.ranked)
        rank = flagged_ranks(ranked, calibration.review_rate)
        return cls(calibration.review_rate, ranked, rank, calibration.threshold, *calibration.interval)


@dataclass(frozen=True)
class RunRecord:
    """The last run that scored rows.

    Attributes:
        configuration: fingerprint of what decided its results, as in the manifest.
        model: file name of the model.
        output_kind: as in the model's contract.
        class_names: of the model; empty where it has none.
        image_shape: `(height, width, channels)` that the model takes.
        promise: None without a calibration.
        device: where the run computed.
        finished: when it came to its end, ISO 8601, UTC.
        seconds: wall time.
        stages: seconds that each stage was busy; they overlap.
        shards: how many it scored.
        rows: how many rows are in these.
    """

    configuration: str
    model: str
    output_kind: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    promise: Promise | None
    device: str
    finished: str
    seconds: float
    stages: tuple[tuple[str, float], ...]
    shards: int
    rows: int

    @classmethod
    def make(
        cls,
        *,
        configuration: str,
        model: str,
        contract: ModelContract,
        calibration: Calibration | None,
        device: str,
        seconds: float,
        stages: dict[str, float],
        shards: int,
        rows: int,
    ) -> RunRecord:
        """The record of a run that ends now."""
        return cls(
            configuration=configuration,
            model=model,
            output_kind=contract.output_kind,
            class_names=contract.class_names,
            image_shape=contract.image_shape,
            promise=None if calibration is None else Promise.of(calibration),
            device=device,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(seconds, 3),
            stages=tuple((stage, round(busy, 3)) for stage, busy in stages.items()),
            shards=shards,
            rows=rows,
        )

    def write(self, output: Path) -> None:
        """Write it into OUTPUT.

        Raises:
            WriteFailed: the system refused.
        """
        write_text(output / RECORD_NAME, json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, output: Path, configuration: str) -> RunRecord | None:
        """The record of an OUTPUT; None where there is none that can be read and is of this configuration."""
        try:
            told = json.loads((output / RECORD_NAME).read_text(encoding="utf-8"))
            promise = None if told["promise"] is None else Promise(**told.pop("promise"))
            record = cls(
                **{
                    **told,
                    "promise": promise,
                    "class_names": tuple(map(str, told["class_names"])),
                    "image_shape": tuple(map(int, told["image_shape"])),
                    "stages": tuple((str(stage), float(busy)) for stage, busy in told["stages"]),
                }
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return record if record.configuration == configuration else None
