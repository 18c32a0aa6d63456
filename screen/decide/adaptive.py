"""Conditions for early exit: the flag of a row must depend on its remaining passes through the entropy alone.

In: a flag rule, and a calibration if there is one. Out: for each row the predictive entropy above which the row is
flagged.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from export.contract.metadata import ModelContract
from export.errors import OptionRefused
from screen.decide.calibration import Calibration
from screen.decide.detectors import Floats
from screen.decide.rules import FlagRule

_EARLY_EXIT_DETECTORS = frozenset(["entropy", "feature_distance"])
"""Detectors that allow early exit: `feature_distance` is known before the first pass, so only `entropy` can change."""


def refuse_early_exit(contract: ModelContract, rule: FlagRule | None, detectors: tuple[str, ...]) -> None:
    """Refuse early exit if the decision depends on more than the entropy.

    Args:
        contract: the model's contract.
        rule: the user's flag rule, or the default rule without a calibration; None if only the calibration flags rows.
        detectors: the scores that the calibration combines; empty without a calibration.

    Raises:
        OptionRefused: the decision depends on other scores, or the model has no predictive entropy.
    """
    problem = ""
    if contract.output_kind == "regression" or (contract.output_kind == "sigmoid" and contract.classes > 1):
        problem = "the model has no predictive entropy over classes"
    elif rule is not None and rule.entropy_limit is None:
        problem = f"the flag rule {rule.text!r} does not flag rows by a lower limit of the entropy alone"
    elif not _EARLY_EXIT_DETECTORS.issuperset(detectors):
        problem = f"the calibration combines {' + '.join(detectors)}"
    if problem:
        raise OptionRefused(
            f"--adaptive is not possible: {problem}.",
            wanted="a classifier with the flag rule `entropy > NUMBER`, or with a calibration of entropy and "
            "feature_distance",
            next_step="leave --adaptive out, or change the flag rule or the detectors of the calibration",
        )


def entropy_limits(
    rule: FlagRule | None, calibration: Calibration | None, rows: int, distance: NDArray[np.float64] | None
) -> Floats:
    """The predictive entropy above which each row is flagged, `[B]`, nats.

    Args:
        rule: the user's flag rule, or the default rule without a calibration; None if only the calibration flags rows.
        calibration: the calibration; None without one.
        rows: number of rows, B.
        distance: `feature_distance`, `[B]`; None if it is not a detector of the calibration.
    """
    limits: Floats = np.full(rows, np.inf)
    if rule is not None and rule.entropy_limit is not None:
        limits[:] = rule.entropy_limit
    if calibration is None:
        return limits
    missing = np.full(rows, calibration.threshold)
    entropy = None
    for detector in calibration.combined_score.detectors:
        if detector.name == "entropy":
            entropy = detector
        elif distance is not None:
            missing = missing - detector.surprisal(distance.astype(np.float32))
    if entropy is None:
        return np.minimum(limits, np.where(missing < 0, -np.inf, np.inf))
    return np.minimum(limits, entropy.value_at(missing))
