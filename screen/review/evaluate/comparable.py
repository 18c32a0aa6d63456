"""Find the scores that have the same scale in two sets of results.

In: the `SourceRows` of two sets. Out: the scores that cannot be compared, and notes on the settings that differ.
Results of different models are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from export.errors import InputRefused
from screen.columns import CALIBRATED
from screen.decide.detectors import COMPARES_PASSES
from screen.review.evaluate.shards import SourceRows
from screen.review.text import clip

_NOTED = {
    "passes": "the number of passes",
    "seed": "the seed",
    "masks": "the mask mode",
    "precision": "the precision",
    "mask_algorithm": "the mask version",
    "adaptive": "early exit",
}
"""Settings that slightly change the scores of each row, and the mean of some scores."""

_DEFAULTS = {"precision": "float32"}
"""Values of settings that older results do not record."""


@dataclass(frozen=True)
class Comparison:
    """How two sets of results can be compared.

    Attributes:
        left_out: scores that have different scales in the two sets and, if a run had one pass, scores that compare
            passes.
        notes: sentences on the settings that differ.
    """

    left_out: frozenset[str]
    notes: tuple[str, ...]


def compare_settings(known: SourceRows, other: SourceRows) -> Comparison:
    """Compare the settings of the runs that wrote two sets of results.

    Raises:
        InputRefused: the results were produced by different models.
    """
    settings = [*known.settings, *other.settings]
    both = clip(other.name) if known is other else f"{clip(known.name)} and {clip(other.name)}"
    models = _values(settings, "model")
    if len(models) > 1:
        raise InputRefused(
            f"The results of {both} were produced by different models: {', '.join(str(one)[:12] for one in models)}.",
            wanted="results of one model, because the scores of different models have different scales",
            next_step="score all sets with the same model, and evaluate the new results",
        )
    notes = [
        f"the results of {both} differ in {words} ({', '.join(map(str, values))}): the scores are only roughly "
        "comparable"
        for name, words in _NOTED.items()
        if len(values := _values(settings, name)) > 1
    ]
    left_out: frozenset[str] = frozenset()
    if 1 in _values(settings, "passes"):
        left_out = COMPARES_PASSES
        notes.append("some results have one pass: scores that compare passes are then always 0, and are left out")
    calibrations = [one for one in _values(settings, "calibration") if one is not None]
    if len(calibrations) < 2:
        return Comparison(left_out, tuple(notes))
    digests = ", ".join(str(one)[:12] for one in calibrations)
    notes.insert(
        0,
        f"the rows of {both} were scored with different calibrations ({digests}): ood_score, p_value and the distances "
        "have different scales and are left out, and the shares of flagged rows belong to different thresholds",
    )
    return Comparison(left_out | CALIBRATED, tuple(notes))


def _values(settings: Sequence[dict[str, Any]], name: str) -> list[Any]:
    """The different values of a setting."""
    values: list[Any] = []
    for one in settings:
        value = one.get(name, _DEFAULTS.get(name))
        if value not in values:
            values.append(value)
    return values
