"""Conditions for early exit: the flag of a row must depend on its remaining passes through the entropy alone.

In: a flag rule, a calibration or both, and the distances of the rows. Out: for each row the predictive entropy above
which the row is flagged.
"""

from __future__ import annotations

import numpy as np

from export.contract.metadata import ModelContract
from export.errors import OptionRefused
from screen.decide.calibration import Calibration
from screen.decide.detectors import Floats, combine
from screen.decide.rules.rule import FlagRule
from screen.engine.distance import DISTANCES, FeatureDistances

_EARLY_EXIT_DETECTORS = frozenset(["entropy", *DISTANCES])
"""Detectors that allow early exit: distances are known before the first pass, so only `entropy` can change."""


def refuse_early_exit(contract: ModelContract, rule: FlagRule | None, detectors: tuple[str, ...]) -> None:
    """Refuse early exit if the decision depends on scores other than the entropy and distances.

    Args:
        contract: the model's contract.
        rule: the user's flag rule, or the default rule without a calibration; None if only the calibration flags rows.
        detectors: the scores that the calibration combines; empty without a calibration.

    Raises:
        OptionRefused: the decision depends on other scores, or the model has no predictive entropy.
    """
    problem = ""
    if contract.task in ("values", "labels"):
        problem = "the model has no predictive entropy over classes"
    elif rule is not None and rule.entropy_limit is None:
        problem = f"the flag rule {rule.text!r} does not have the form `entropy > NUMBER`"
    elif not _EARLY_EXIT_DETECTORS.issuperset(detectors):
        problem = f"the calibration combines {' + '.join(detectors)}"
    if problem:
        raise OptionRefused(
            f"--adaptive is not possible: {problem}.",
            wanted="a classifier with the flag rule `entropy > NUMBER`, or with a calibration of entropy and distances",
            next_step="leave --adaptive out, or change the flag rule or the detectors of the calibration",
        )


def entropy_limits(
    rule: FlagRule | None, calibration: Calibration | None, rows: int, distances: FeatureDistances
) -> Floats:
    """The predictive entropy above which each row is flagged, `[B]`, nats.

    Args:
        rule: the user's flag rule, or the default rule without a calibration; None if only the calibration flags rows.
        calibration: the calibration of the run, or None.
        rows: number of rows, B.
        distances: distances of the rows from the reference set, one array `[B]` for each group of features.
    """
    limits: Floats = np.full(rows, np.inf)
    if rule is not None and rule.entropy_limit is not None:
        limits[:] = rule.entropy_limit
    if calibration is None:
        return limits
    known = [detector for detector in calibration.combined_score.detectors if detector.name != "entropy"]
    scores = {name: values.astype(np.float32) for name, values in vars(distances).items() if values is not None}
    rest = combine([detector.surprisal(scores[detector.name]) for detector in known], rows)
    missing = np.sqrt(np.maximum(calibration.threshold**2 - rest**2, 0))
    flagged = rest > calibration.threshold
    entropy = next((one for one in calibration.combined_score.detectors if one.name == "entropy"), None)
    above: Floats = np.full(rows, np.inf) if entropy is None else entropy.value_at(missing)
    return np.minimum(limits, np.where(flagged, -np.inf, above))
