"""The decision policy: a flag rule, a calibration or both, and the pass settings for which they are valid.

In: a `RunConfig` and a model, then a `PassSummary` for each batch. Out: `ScoredRows` with scores, flags and reasons.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.contract.metadata import ModelContract
from export.contract.reader import ExportedModel
from export.errors import OptionRefused
from screen.columns import CALIBRATED
from screen.config import RunConfig
from screen.decide.adaptive import entropy_limits, refuse_early_exit
from screen.decide.calibration import Binding, Calibration, read_calibration
from screen.decide.detectors import COMPARES_PASSES, Floats
from screen.decide.drift import Drift, FlagCount, find_drift
from screen.decide.request import default_uncertainty
from screen.decide.row_sets import threshold_rank
from screen.decide.rules.rule import MOST_UNUSUAL, Decision, FlagRule, Reason, default_rule, parse_rule
from screen.decide.scores import score_columns
from screen.engine.distance import DISTANCES, FeatureDistances
from screen.engine.masks import ALGORITHM
from screen.engine.statistics import PassSummary
from screen.settings.passes import PassSettings


@dataclass(frozen=True)
class ScoredRows:
    """B rows with their scores and flags.

    Attributes:
        summary: statistics of the passes, in float64.
        scores: score columns in the types of the result columns, by name, `[B]` or `[B, C]`; without null columns.
        decision: flags and reasons.
    """

    summary: PassSummary
    scores: dict[str, NDArray[Any]]
    decision: Decision

    @property
    def flag(self) -> NDArray[np.bool_]:
        """`[B]`, whether a person should review the row."""
        return self.decision.flag

    @property
    def reasons(self) -> list[tuple[Reason, ...]]:
        """`[B]`, the reasons for the flag; empty for rows that are not flagged."""
        return self.decision.reasons


@dataclass(frozen=True)
class DecisionPolicy:
    """Decides which rows a person should review.

    Attributes:
        settings: the pass settings for which the policy is valid.
        rule: the flag rule; with a calibration, it includes the rule of the calibration.
        user_rule: the user's flag rule; None if only the calibration flags rows. Equal to `rule` without a calibration.
        calibration: the calibration, which computes `ood_score` and `p_value`; None if both columns are null.
    """

    settings: PassSettings
    rule: FlagRule
    user_rule: FlagRule | None
    calibration: Calibration | None

    def entropy_limits(self, rows: int, distances: FeatureDistances) -> Floats:
        """The predictive entropy above which each row is flagged, `[B]`, in nats.

        Args:
            rows: number of rows, B.
            distances: distances of the rows from the reference set, one array `[B]` for each group of features.
        """
        return entropy_limits(self.user_rule, self.calibration, rows, distances)

    def apply(self, summary: PassSummary) -> ScoredRows:
        """Score and flag rows.

        The last reason of a row that the calibration flags is the detector with the largest surprisal.
        """
        scores = score_columns(summary)
        if self.calibration is None:
            return ScoredRows(summary, scores, self.rule.decide(scores))
        scores["ood_score"] = self.calibration.score(scores)
        scores["p_value"] = self.calibration.p_values(scores["ood_score"])
        decision = self.rule.decide(scores)
        names = self.calibration.combined_score.names
        unusual = np.flatnonzero(decision.flag & (scores["p_value"] <= self.calibration.review_rate))
        surprisals = self.calibration.combined_score.surprisals({name: scores[name][unusual] for name in names})
        for row, largest in zip(unusual.tolist(), surprisals.argmax(axis=1).tolist(), strict=True):
            name = names[largest]
            most = Reason(f"{MOST_UNUSUAL}{name}", f"{MOST_UNUSUAL}{name} {scores[name][row]:.4g}")
            decision.reasons[row] += (most,)
        return ScoredRows(summary, scores, decision)

    def find_drift(self, counts: Iterable[FlagCount], needed: int) -> Drift | None:
        """Compare flags with the prediction interval of the calibration; None without a calibration.

        Args:
            counts: numbers of readable and flagged rows of each run, the newest first.
            needed: minimum number of rows that are tested together.
        """
        if self.calibration is None:
            return None
        calibration_rows = len(self.calibration.calibration_scores)
        rank = threshold_rank(calibration_rows, self.calibration.review_rate)
        return find_drift(calibration_rows, rank, counts, needed)


def refuse_one_pass(rule: FlagRule, contract: ModelContract) -> None:
    """Refuse a flag rule with scores that compare passes, for a run with one pass.

    Args:
        rule: the user's flag rule.
        contract: contract of the model; the kind of output determines which other scores the error names.

    Raises:
        OptionRefused: the rule contains a score that compares passes.
    """
    constant = [name for name in rule.columns if name in COMPARES_PASSES]
    if constant:
        raise OptionRefused(
            f"The flag rule {rule.text!r} contains {' and '.join(constant)}, and the number of passes is 1.",
            wanted="scores that do not compare passes: scores that compare passes are always 0 with one pass",
            next_step="give more passes, for example --passes 30, or "
            + (
                "flag by the distances of a calibration (--calibration), without --flag-if"
                if contract.task == "values"
                else f"a rule with other scores, such as '{default_uncertainty(contract)} > 0.5'"
            ),
        )


def choose_policy(model: ExportedModel, config: RunConfig) -> DecisionPolicy:
    """The decision policy for a model and the options of a run.

    Raises:
        CalibrationRefused: the calibration cannot be read, or was made for another model or other passes.
        OptionRefused: the flag rule is invalid, or required but missing; or the policy does not allow an early exit.
    """
    contract = model.contract
    if config.calibration is None:
        settings = config.settings()
        text = default_rule(contract, settings.passes) if config.flag_if is None else config.flag_if
        rule = parse_rule(text, contract)
        policy = DecisionPolicy(settings, rule, rule, None)
    else:
        calibration = read_calibration(config.calibration)
        settings = config.settings(calibration.binding.settings)
        calibration.check(Binding(model.digest, ALGORITHM, settings))
        measured = {distance.name for distance in calibration.distances}
        available = CALIBRATED - (frozenset(DISTANCES) - measured)
        user_rule = None if config.flag_if is None else parse_rule(config.flag_if, contract, available)
        text = calibration.rule if user_rule is None else f"{calibration.rule} or ({user_rule.text})"
        policy = DecisionPolicy(settings, parse_rule(text, contract, available), user_rule, calibration)
    if policy.settings.passes == 1 and policy.user_rule is not None:
        refuse_one_pass(policy.user_rule, contract)
    if config.adaptive:
        detectors = () if policy.calibration is None else policy.calibration.combined_score.names
        refuse_early_exit(contract, policy.user_rule, detectors)
    return policy
