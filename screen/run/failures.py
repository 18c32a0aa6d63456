"""Find the rows of a scored batch whose outputs cannot be scored.

In: a `PassSummary`. Out: status and reason of these rows; runs, calibrations and self-tests all use this function.
"""

from __future__ import annotations

import numpy as np

from export.contract.metadata import Task
from export.contract.probabilities import can_be_probabilities
from screen.engine.statistics import Floats, PassSummary
from screen.input.image_bytes import Failure


def find_failures(summary: PassSummary, task: Task) -> dict[int, Failure]:
    """Status and reason of each row whose outputs cannot be scored, by position of the row.

    Args:
        summary: statistics of B rows.
        task: meaning of the model's outputs.
    """
    if task == "values":
        usable = np.all(np.isfinite(summary.mean), axis=1)
    else:
        usable = can_be_probabilities(summary.mean, summary.std**2, task)
    return {row: _describe_failure(summary.mean[row], task) for row in np.flatnonzero(~usable).tolist()}


def _describe_failure(mean: Floats, task: Task) -> Failure:
    """Status and reason of a row with the predictive mean `[C]`."""
    if not np.isfinite(mean).all():
        return "non_finite", "the model returned NaN or infinity"
    found = f"from {mean.min():.4g} to {mean.max():.4g}" + (f", sum {mean.sum():.4g}" if task == "classes" else "")
    return "not_probabilities", f"the outputs are not probabilities (mean over the passes: {found})"
