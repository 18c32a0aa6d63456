"""Choose the detectors of a calibration, and report its outcome.

In: a model's contract and the requested scores; a finished calibration. Out: the names of the detectors; a
`CalibrationReport`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.contract.metadata import ModelContract
from export.errors import OptionRefused
from screen.columns import CALIBRATED, DISTANCES, FEATURE_DISTANCE, null_columns
from screen.decide.calibration import Calibration
from screen.decide.config import CalibrationConfig
from screen.decide.detectors import COMPARES_PASSES, HIGH_IS_UNUSUAL
from screen.decide.row_sets import threshold_rank
from screen.engine.distance import group_of
from screen.engine.graph.features.plan import FeaturePlan


@dataclass(frozen=True)
class StoppingReport:
    """Effect of early exit (`run --adaptive`) on the calibration set.

    Attributes:
        flagged: share of rows flagged with early exit.
        flagged_by_all: share of rows flagged after all passes.
        mean_passes: mean number of passes per row with early exit.
    """

    flagged: float
    flagged_by_all: float
    mean_passes: float


@dataclass(frozen=True)
class CalibrationReport:
    """Summary of a finished calibration.

    Attributes:
        output: path of the calibration file.
        calibration: the calibration in this file.
        reference_rows: number of rows in the reference set.
        rows: number of in-distribution rows that were read.
        statuses: number of rows that could not be scored, by status.
        stopping: effect of early exit; None without `--adaptive`.
        copies: number of rows that were left out because their images are equal to those of other rows.
        near_copies: number of rows that were left out because their images are near-copies of reference images.
    """

    output: Path
    calibration: Calibration
    reference_rows: int
    rows: int
    statuses: dict[str, int]
    stopping: StoppingReport | None = None
    copies: int = 0
    near_copies: int = 0

    def to_json(self) -> str:
        """The report as one line of JSON."""
        early = self.stopping
        return json.dumps(
            {
                "output": str(self.output),
                **describe_values(self.calibration),
                "rows": self.rows,
                "reference_rows": self.reference_rows,
                "statuses": self.statuses,
                "copies": self.copies,
                "near_copies": self.near_copies,
                "adaptive": None if early is None else asdict(early),
            }
        )

    def to_text(self) -> str:
        """The report as several lines of text."""
        lines = [f"{self.output}  sha256 {self.calibration.digest[:16]}", *describe_lines(self.calibration)]
        if self.statuses:
            counts = ", ".join(f"{status} {count}" for status, count in sorted(self.statuses.items()))
            lines.append(f"  not scored     {sum(self.statuses.values())} of {self.rows} ({counts})")
        if self.copies or self.near_copies:
            lines.append(
                f"  left out       {self.copies} copies of other rows, {self.near_copies} near-copies of reference "
                "images"
            )
        early = self.stopping
        if early is not None:
            lines.append(
                f"  --adaptive     {early.flagged:.2%} of the calibration set is flagged, {early.flagged_by_all:.2%} "
                f"after all passes; a row takes {early.mean_passes:.1f} of {self.calibration.binding.settings.passes} "
                "passes on average"
            )
        return "\n".join(lines)


def expected_rate(calibration: Calibration) -> float:
    """Expected share of flagged rows among rows distributed like the calibration set; at most the target rate."""
    ranked = len(calibration.calibration_scores)
    return threshold_rank(ranked, calibration.review_rate) / (ranked + 1)


def describe_values(calibration: Calibration) -> dict[str, Any]:
    """The properties of a calibration as JSON values."""
    return {
        "sha256": calibration.digest,
        "model": calibration.binding.model,
        **asdict(calibration.binding.settings),
        "fit_rows": calibration.fit_rows,
        "calibration_rows": len(calibration.calibration_scores),
        "detectors": list(calibration.combined_score.names),
        "features": dict(calibration.features),
        "distances": {one.name: one.metric for one in calibration.distances},
        "self_test": dict(calibration.self_test),
        "threshold": calibration.threshold,
        "review_rate": calibration.review_rate,
        "expected_rate": expected_rate(calibration),
        "rate_interval": list(calibration.interval),
    }


def describe_lines(calibration: Calibration) -> list[str]:
    """The properties of a calibration as lines of text."""
    low, high = calibration.interval
    reference_rows = len(calibration.distances[0].reference) if calibration.distances else 0
    return [
        f"  for            model {calibration.binding.model[:16]}, {calibration.binding.settings.describe()}",
        f"  rows           {reference_rows} in the reference set, {calibration.fit_rows} in the fitting set, "
        f"{len(calibration.calibration_scores)} in the calibration set",
        f"  detectors      {' + '.join(calibration.combined_score.names)}",
        *(f"  features       {group}: {text}" for group, text in calibration.features),
        f"  flags          ood_score > {calibration.threshold:.4g} nats, which is p_value <= "
        f"{calibration.review_rate:g}",
        f"  flag rate      {expected_rate(calibration):.2%} of distinct images like those of the calibration set; 95 % "
        f"confidence interval of the true rate: {low:.2%} to {high:.2%}",
        f"  self-test      share of made-up images that would be flagged: {describe_self_test(calibration.self_test)}",
    ]


def describe_self_test(shares: Sequence[tuple[str, float]]) -> str:
    """The flagged share of each kind of made-up image, in one line."""
    return ", ".join(f"{kind} {share:.0%}" for kind, share in shares)


def choose_detectors(
    contract: ModelContract, wanted: CalibrationConfig, features: FeaturePlan, passes: int
) -> tuple[str, ...]:
    """Names of the scores to combine: the requested scores, or the default for the model's kind of output.

    Args:
        contract: contract of the model.
        wanted: the requested detectors or groups of features; if neither is given, the default detectors are chosen.
        features: the model's groups of features.
        passes: number of passes; with one pass, scores that compare passes are not available.

    Raises:
        OptionRefused: a requested score does not exist, is null for this model, or needs several passes; or no default
            detector is available.
    """
    missing = null_columns(contract, CALIBRATED) | {name for name in DISTANCES if group_of(name) not in features.groups}
    if passes == 1:
        missing |= COMPARES_PASSES
    for name in (*wanted.detectors, *(f"{group}_distance" for group in wanted.features)):
        if name in missing or name not in HIGH_IS_UNUSUAL:
            known = [one for one in HIGH_IS_UNUSUAL if one not in missing]
            given = "" if name in wanted.detectors else f"--features {group_of(name)}"
            raise no_detector(name, _why_missing(name, features, passes), known, given)
    if wanted.detectors:
        return tuple(dict.fromkeys(wanted.detectors))
    groups = set(wanted.features or features.groups)
    uncertainty = default_uncertainty(contract)
    wished = (uncertainty, *(name for name in DISTANCES if group_of(name) in groups))
    names = tuple(name for name in wished if name not in missing)
    if not names:
        raise OptionRefused(
            f"The model has no distance, and with one pass {uncertainty} is always 0.",
            wanted="at least one detector with different values for different rows",
            next_step="give more passes, for example --passes 30",
        )
    return names


def _why_missing(name: str, features: FeaturePlan, passes: int) -> str:
    if name == FEATURE_DISTANCE.name:
        return f"the score was replaced by {', '.join(DISTANCES)}"
    if name in DISTANCES:
        return (
            features.penultimate.why
            if name == "penultimate_distance"
            else "the model has no early tensor, or an early tensor without spatial axes"
        )
    if passes == 1 and name in COMPARES_PASSES:
        return "the score compares passes, and is always 0 with one pass"
    return "the score does not exist" if name not in HIGH_IS_UNUSUAL else "the score is null for this model"


def default_uncertainty(contract: ModelContract) -> str:
    """Name of the score of uncertainty that is combined with the distances by default."""
    return {"values": "largest_std", "labels": "largest_label_entropy"}.get(contract.task, "entropy")


def no_detector(name: str, why: str, known: list[str], given: str = "") -> OptionRefused:
    """The error for a detector that is not available for a model.

    Args:
        name: name of the detector.
        why: reason why the detector is not available.
        known: names of the detectors that are available.
        given: option and value by which the detector was requested; "" for `--detector`.
    """
    option = given or f"--detector {name}"
    return OptionRefused(
        f"{option} is not available for this model ({why}).",
        wanted=f"one or more of {', '.join(known)}",
        next_step=f"{'replace --features by --detector with' if given else 'give'} scores from this list, or leave "
        f"{option.split()[0]} out",
    )
