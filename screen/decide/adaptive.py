"""Which decisions may be taken early: those that only a higher predictive entropy can turn into a flag.

In: a rule and perhaps a calibration. Out: for each row the entropy above which it is flagged.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from export.contract.metadata import ModelContract
from export.errors import OptionRefused
from screen.decide.calibration import Calibration
from screen.decide.detectors import Floats
from screen.decide.rules import FlagRule

_SETTLING = frozenset(["entropy", "feature_distance"])
"""Detectors that a decision can be taken early by: one that grows with the entropy, one that is known at once."""


def refuse_early_exit(contract: ModelContract, rule: FlagRule | None, detectors: tuple[str, ...]) -> None:
    """Refuse to stop early where more passes could turn the decision both ways.

    Args:
        contract: the model's.
        rule: what was asked for beside the calibration, or the default without one; None for nothing.
        detectors: the scores that the calibration combines; none without one.

    Raises:
        OptionRefused: the decision does not follow from the entropy alone.
    """
    what = ""
    if contract.output_kind == "regression" or (contract.output_kind == "sigmoid" and contract.classes > 1):
        what = "the model has no predictive entropy over classes"
    elif rule is not None and rule.entropy_limit is None:
        what = f"the flag rule {rule.text!r} is not one that only a higher entropy can fulfil"
    elif not _SETTLING.issuperset(detectors):
        what = f"the calibration combines {' + '.join(detectors)}"
    if what:
        raise OptionRefused(
            f"--adaptive was asked for, but {what}.",
            wanted="a rule `entropy > NUMBER`, or a calibration of entropy and feature_distance",
            next_step="leave --adaptive out, or flag by the entropy",
        )


def entropy_limits(
    rule: FlagRule | None, calibration: Calibration | None, rows: int, distance: NDArray[np.float64] | None
) -> Floats:
    """The predictive entropy above which each row is flagged, `[B]`, nats.

    Args:
        rule: what was asked for beside the calibration, or the default without one.
        calibration: None without one.
        rows: B.
        distance: `[B]`, `feature_distance`, where the calibration reads it.
    """
    limits: Floats = np.full(rows, np.inf)
    if rule is not None and rule.entropy_limit is not None:
        limits[:] = rule.entropy_limit
    if calibration is None:
        return limits
    missing = np.full(rows, calibration.threshold)
    entropy = None
    for detector in calibration.combination.detectors:
        if detector.name == "entropy":
            entropy = detector
        elif distance is not None:
            missing = missing - detector.surprisal(distance.astype(np.float32))
    if entropy is None:
        return np.minimum(limits, np.where(missing < 0, -np.inf, np.inf))
    return np.minimum(limits, entropy.value_at(missing))
