"""Who decides: a rule, a calibration, or both, and the passes that they hold for.

In: what was asked for, and a model. Out: a `DecisionPolicy`, which completes a `PassSummary` and flags its rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from export.contract.reader import ExportedModel
from screen.columns import CALIBRATED
from screen.config import PassSettings, RunConfig
from screen.decide.adaptive import entropy_limits, refuse_early_exit
from screen.decide.calibration import Binding, Calibration, flagged_ranks, read_calibration
from screen.decide.detectors import Floats
from screen.decide.intervals import Drift, find_drift
from screen.decide.rules import Decision, FlagRule, default_rule, parse_rule
from screen.decide.scores import score_columns
from screen.engine.masks import ALGORITHM
from screen.engine.statistics import PassSummary


@dataclass(frozen=True)
class DecisionPolicy:
    """How rows are judged.

    Attributes:
        settings: the passes that are judged.
        rule: when a row is flagged.
        asked: the rule beside the calibration; without one, the same as `rule`.
        calibration: what fills `ood_score` and `p_value`; None where they stay null.
    """

    settings: PassSettings
    rule: FlagRule
    asked: FlagRule | None
    calibration: Calibration | None

    def entropy_limits(self, rows: int, distance: NDArray[np.float64] | None) -> Floats:
        """The predictive entropy above which each row is flagged, `[B]`, in nats.

        Args:
            rows: B.
            distance: `[B]`, `feature_distance`, where the calibration reads it.
        """
        return entropy_limits(self.asked, self.calibration, rows, distance)

    def complete(self, summary: PassSummary) -> PassSummary:
        """The summary with `ood_score` and `p_value`, where there is a calibration."""
        if self.calibration is None:
            return summary
        ood_score = self.calibration.score(score_columns(summary))
        return replace(summary, ood_score=ood_score, p_value=self.calibration.p_values(ood_score))

    def decide(self, summary: PassSummary) -> Decision:
        """Flag rows; where the calibration does, the reason names the most unusual of its detectors."""
        scores = score_columns(summary)
        decision = self.rule.decide(scores)
        if self.calibration is None:
            return decision
        names = self.calibration.combination.names
        surprisals = self.calibration.combination.surprisals(scores)
        reasons = list(decision.reasons)
        unusual = scores["p_value"] <= self.calibration.review_rate
        for row in np.flatnonzero(decision.flag & unusual).tolist():
            name = names[int(surprisals[row].argmax())]
            reasons[row] += f"; most unusual: {name} {scores[name][row]:.4g}"
        return Decision(decision.flag, reasons)

    def find_drift(self, rows: int, flags: int) -> Drift | None:
        """Whether so many flags are what the calibration lets expect; None without a calibration."""
        if self.calibration is None:
            return None
        ranked = len(self.calibration.ranked)
        return find_drift(ranked, flagged_ranks(ranked, self.calibration.review_rate), rows, flags)


def choose_policy(model: ExportedModel, config: RunConfig) -> DecisionPolicy:
    """Find out who decides.

    Raises:
        CalibrationRefused: the calibration cannot be read, or was made for something else.
        OptionRefused: the rule is none, or there is none where one is needed.
    """
    contract = model.contract
    if config.calibration is None:
        rule = parse_rule(default_rule(contract) if config.flag_if is None else config.flag_if, contract)
        policy = DecisionPolicy(config.settings(), rule, rule, None)
    else:
        calibration = read_calibration(config.calibration)
        settings = config.settings(calibration.binding.settings)
        calibration.check(Binding(model.digest, ALGORITHM, settings))
        known = CALIBRATED if calibration.distance is not None else CALIBRATED - {"feature_distance"}
        asked = None if config.flag_if is None else parse_rule(config.flag_if, contract, known)
        text = calibration.rule if asked is None else f"{calibration.rule} or ({asked.text})"
        policy = DecisionPolicy(settings, parse_rule(text, contract, known), asked, calibration)
    if config.adaptive:
        detectors = () if policy.calibration is None else policy.calibration.combination.names
        refuse_early_exit(contract, policy.asked, detectors)
    return policy
