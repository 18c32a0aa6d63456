"""What a calibration is asked for, and what is told of one.

In: options. Out: a `CalibrationConfig`, checked; a `CalibrationReport`, for people.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from export.contract.metadata import ModelContract
from export.errors import OptionRefused
from screen.columns import CALIBRATED, null_columns
from screen.decide.calibration import Calibration, threshold_rank
from screen.decide.detectors import HIGH_IS_UNUSUAL
from screen.engine.distance import DISTANCES
from screen.engine.graph.features import FeaturePlan


@dataclass(frozen=True)
class CalibrationConfig:
    """What a calibration is asked for, beside how rows are read and passes are run.

    Attributes:
        review_rate: the share of in-distribution rows that may be flagged, above 0, below 1.
        reference: shards that fill the bank; None takes a part of the rows.
        distance: `neighbours` or `mahalanobis`.
        detectors: scores to combine; empty for the default of the model's kind of output.
    """

    review_rate: float
    reference: str | None = None
    distance: str = "neighbours"
    detectors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.review_rate < 1:
            raise OptionRefused(
                f"--review-rate is {self.review_rate:g}.",
                wanted="a share above 0 and below 1: 0.02 lets 2 % of in-distribution rows be flagged",
                next_step="give such a share",
            )
        if self.distance not in DISTANCES:
            raise OptionRefused(
                f"--distance is {self.distance!r}.", wanted=" or ".join(DISTANCES), next_step="choose one of these"
            )


@dataclass(frozen=True)
class StoppingReport:
    """What `run --adaptive` would do with the ranked rows.

    Attributes:
        flagged: share flagged when passes stop early.
        flagged_by_all: share flagged after all passes.
        mean_passes: passes that a row had, on average.
    """

    flagged: float
    flagged_by_all: float
    mean_passes: float


@dataclass(frozen=True)
class CalibrationReport:
    """What a calibration was made of.

    Attributes:
        output: the file.
        calibration: what is in it.
        reference_rows: rows of the bank.
        rows: in-distribution rows read.
        statuses: of those that could not be scored, how many have which status.
        stopping: where that was asked for.
    """

    output: Path
    calibration: Calibration
    reference_rows: int
    rows: int
    statuses: dict[str, int]
    stopping: StoppingReport | None = None

    def to_text(self) -> str:
        """For people."""
        made = self.calibration
        settings = made.binding.settings
        low, high = made.interval
        ranked = len(made.calibration_scores)
        promised = threshold_rank(ranked, made.review_rate) / (ranked + 1)
        lines = [
            f"{self.output}  sha256 {made.digest[:16]}",
            f"  for            model {made.binding.model[:16]}, {settings.passes} passes, seed {settings.seed}, "
            f"{settings.masks} masks",
            f"  rows           {self.reference_rows} in the reference set, {made.fit_rows} in the fitting set, "
            f"{ranked} in the calibration set",
        ]
        if self.statuses:
            told = ", ".join(f"{status} {count}" for status, count in sorted(self.statuses.items()))
            lines.append(f"  not scored     {sum(self.statuses.values())} of {self.rows} ({told})")
        lines += [
            f"  detectors      {' + '.join(made.combined_score.names)}",
            f"  features       {made.features}",
            f"  flags          ood_score > {made.threshold:.4g} nats, which is p_value <= {made.review_rate:g}",
            f"  review rate    {promised:.2%} of rows like the ranked ones; with this many rows the true rate is "
            f"between {low:.2%} and {high:.2%}, 19 times in 20",
        ]
        early = self.stopping
        if early is not None:
            lines.append(
                f"  --adaptive     {early.flagged:.2%} of the ranked rows are flagged, {early.flagged_by_all:.2%} "
                f"after all passes; a row has {early.mean_passes:.1f} passes, not {settings.passes}"
            )
        return "\n".join(lines)


def choose_detectors(contract: ModelContract, wanted: tuple[str, ...], features: FeaturePlan) -> tuple[str, ...]:
    """What is combined: what was asked for, or the default of the model's kind of output.

    Args:
        contract: the model's.
        wanted: scores that were asked for; empty for the default.
        features: where features come from, if there are any.

    Raises:
        OptionRefused: the model has no such score.
    """
    missing = null_columns(contract, CALIBRATED)
    has_features = bool(features.tensor)
    for name in wanted:
        if name not in HIGH_IS_UNUSUAL or name in missing or (name == "feature_distance" and not has_features):
            why = f"features: {features.describe()}" if name == "feature_distance" else "no such score"
            raise no_detector(name, why, [one for one in HIGH_IS_UNUSUAL if one not in missing])
    return tuple(dict.fromkeys(wanted)) or default_detectors(contract, has_features=has_features)


def default_detectors(contract: ModelContract, *, has_features: bool) -> tuple[str, ...]:
    """What is combined where nothing else is asked for; chosen by benchmarks/detection.py."""
    if contract.output_kind == "regression":
        uncertainty = "largest_std"
    elif contract.output_kind == "sigmoid" and contract.classes > 1:
        uncertainty = "largest_label_entropy"
    else:
        uncertainty = "entropy"
    return (uncertainty, "feature_distance") if has_features else (uncertainty,)


def no_detector(name: str, why: str, known: list[str]) -> OptionRefused:
    """The refusal of a detector that a model does not have."""
    return OptionRefused(
        f"--detector {name} is not to be had of this model ({why}).",
        wanted=f"some of {', '.join(known)}",
        next_step="name others, or leave the option out",
    )
