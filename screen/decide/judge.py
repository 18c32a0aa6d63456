"""Who decides: a rule, a calibration, or both, and the passes that they hold for.

In: what was asked for, and a model. Out: a `Judge`, which completes a `PassSummary` and flags its rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from export.contract import ExportedModel
from screen.columns import CALIBRATED
from screen.config import PassSettings, RunConfig
from screen.decide.calibration import Binding, Calibration, read_calibration
from screen.decide.rules import Decision, FlagRule, default_rule, parse_rule
from screen.decide.scores import score_columns
from screen.engine.masks import ALGORITHM
from screen.engine.statistics import PassSummary


@dataclass(frozen=True)
class Judge:
    """How rows are judged.

    Attributes:
        settings: the passes that are judged.
        rule: when a row is flagged.
        calibration: what fills `ood_score` and `p_value`; None where they stay null.
    """

    settings: PassSettings
    rule: FlagRule
    calibration: Calibration | None

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
        surprises = self.calibration.combination.surprises(scores)
        reasons = list(decision.reasons)
        unusual = scores["p_value"] <= self.calibration.review_rate
        for row in np.flatnonzero(decision.flag & unusual).tolist():
            name = names[int(surprises[row].argmax())]
            reasons[row] += f"; most unusual: {name} {scores[name][row]:.4g}"
        return Decision(decision.flag, reasons)


def choose_judge(model: ExportedModel, config: RunConfig) -> Judge:
    """Find out who decides.

    Raises:
        CalibrationRefused: the calibration cannot be read, or was made for something else.
        OptionRefused: the rule is none, or there is none where one is needed.
    """
    contract = model.contract
    if config.calibration is None:
        text = default_rule(contract) if config.flag_if is None else config.flag_if
        return Judge(config.settings(), parse_rule(text, contract), None)
    calibration = read_calibration(config.calibration)
    settings = config.settings(calibration.binding.settings)
    calibration.check(Binding(model.digest, ALGORITHM, settings))
    known = CALIBRATED if calibration.distance is not None else CALIBRATED - {"feature_distance"}
    text = calibration.rule
    if config.flag_if is not None:
        parse_rule(config.flag_if, contract, known)  # by itself, so that a message shows what was given
        text = f"{text} or ({config.flag_if})"
    return Judge(settings, parse_rule(text, contract, known), calibration)
