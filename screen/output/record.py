"""Record of the last run of an OUTPUT: names of model and classes, device and durations; no result depends on it.

In: facts about a finished run. Out: `_run.json` in OUTPUT, and a `RunRecord` read back from this file. Because of the
times in them, `_run.json` and the files in `_history/` differ between equal runs; no other file in OUTPUT does. Results
are complete without the record.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from export.contract.metadata import INSERTED, ModelContract
from screen.decide.calibration import Calibration
from screen.decide.row_sets import threshold_rank
from screen.files.storage import write_text
from screen.version import own_version

RECORD_STEM = "_run."
RECORD_NAME = f"{RECORD_STEM}json"


@dataclass(frozen=True)
class TargetRate:
    """The target rate of a calibration, and its confidence interval.

    Attributes:
        review_rate: target share of in-distribution rows that are flagged.
        ranked: number of rows in the calibration set.
        rank: rank of the threshold: a row is flagged if its `ood_score` is above the rank-th highest calibration score.
        limit: the threshold, an `ood_score`.
        low: lower bound of the true flag rate of in-distribution rows, with 97.5 % confidence.
        high: upper bound of the true flag rate of in-distribution rows, with 97.5 % confidence.
        self_test: for each kind of made-up image, its name and the share that the calibration flags; empty in older
            records.
    """

    review_rate: float
    ranked: int
    rank: int
    limit: float
    low: float
    high: float
    self_test: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, calibration: Calibration) -> TargetRate:
        """The target rate of a calibration."""
        rows = len(calibration.calibration_scores)
        rank = threshold_rank(rows, calibration.review_rate)
        return cls(
            calibration.review_rate, rows, rank, calibration.threshold, *calibration.interval, calibration.self_test
        )

    @classmethod
    def parse(cls, values: dict[str, Any]) -> TargetRate:
        """Target rate parsed from JSON values."""
        shares = tuple((str(kind), float(share)) for kind, share in values.get("self_test", ()))
        return cls(**{**values, "self_test": shares})


@dataclass(frozen=True)
class RunRecord:
    """Record of the last run that scored rows.

    Attributes:
        configuration: fingerprint of the configuration, as in the manifest.
        model: file name of the model.
        output_kind: output kind in the model's contract.
        class_names: class names of the run; empty if it has none.
        image_shape: `(height, width, channels)` of the model's input images.
        promise: target rate of the calibration; None without a calibration.
        device: device of the passes; "" if the partition that ended last scored no shard.
        finished: end of the run, ISO 8601, UTC.
        seconds: wall time in seconds.
        stages: busy time of each stage in seconds; stages overlap. Empty for a partitioned run.
        shards: number of shards that the run scored.
        rows: number of rows in the scored shards.
        version: version of oodscreen that ended the run; "" in older records.
        inserted: name and rate of each dropout site that the export inserted; empty in older records.
    """

    configuration: str
    model: str
    output_kind: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    promise: TargetRate | None
    device: str
    finished: str
    seconds: float
    stages: tuple[tuple[str, float], ...]
    shards: int
    rows: int
    version: str = ""
    inserted: tuple[tuple[str, float], ...] = ()

    @classmethod
    def make(
        cls,
        *,
        configuration: str,
        model: str,
        contract: ModelContract,
        class_names: tuple[str, ...],
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
            class_names=class_names,
            image_shape=contract.image_shape,
            promise=None if calibration is None else TargetRate.of(calibration),
            device=device,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(seconds, 3),
            stages=tuple((stage, round(busy, 3)) for stage, busy in stages.items()),
            shards=shards,
            rows=rows,
            version=own_version(),
            inserted=tuple((site.name, site.rate) for site in contract.sites if site.origin == INSERTED),
        )

    def write(self, output: Path) -> None:
        """Write the record into OUTPUT.

        Raises:
            WriteFailed: the operating system refused to write.
        """
        values = asdict(self)
        if not self.inserted:
            del values["inserted"]  # older versions cannot read a record with this key
        write_text(output / RECORD_NAME, json.dumps(values) + "\n")

    @classmethod
    def read(cls, output: Path, configuration: str) -> RunRecord | None:
        """The record in OUTPUT; None if the record is missing, unreadable or of another configuration."""
        try:
            values = dict(json.loads((output / RECORD_NAME).read_text(encoding="utf-8")))
            promise = None if values["promise"] is None else TargetRate.parse(values.pop("promise"))
            record = cls(
                **{
                    **values,
                    "promise": promise,
                    "class_names": tuple(map(str, values["class_names"])),
                    "image_shape": tuple(map(int, values["image_shape"])),
                    "inserted": tuple((str(site), float(rate)) for site, rate in values.get("inserted", ())),
                    "stages": tuple((str(stage), float(busy)) for stage, busy in values["stages"]),
                }
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return record if record.configuration == configuration else None
