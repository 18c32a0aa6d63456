"""Meanings of the scores, in plain words for reviewers who do not know the method.

In: nothing. Out: `Explanation`s. The exact definitions are those of `screen/columns.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from screen.columns import SCORES_OF_ALL_FORMATS


@dataclass(frozen=True)
class Explanation:
    """The meaning of a score.

    Attributes:
        name: column of the score.
        plain: meaning of the score in plain words.
        definition: definition of the score, as in the documentation.
        values: range and unit of the score; "" without range and unit.
    """

    name: str
    plain: str
    definition: str
    values: str


PLAIN = {
    "ood_score": "How unusual the image is compared with the calibration images, from all measurements together. "
    "The higher the score, the more unusual the image.",
    "p_value": "How common images like this are among the calibration images. Low values are suspicious: 0.01 means "
    "that about 1 in 100 calibration images is at least as unusual.",
    "layout_distance": "How much the arrangement of light, dark and edges in the image differs from that in the most "
    "similar reference images. High values are suspicious.",
    "contrast_distance": "How much the colours, contrast and texture of the image differ from those of the most "
    "similar reference images. High values are suspicious.",
    "penultimate_distance": "How much the features from which the model predicts differ from those of the most similar "
    "reference images. High values are suspicious.",
    "feature_distance": "How much the features of the image differ from those of the reference images. High values are "
    "suspicious.",
    "entropy": "How uncertain the prediction is. 0 means that one class has a probability of 100 %; with high values, "
    "several classes are about equally likely.",
    "expected_entropy": "How uncertain the prediction of a single pass is on average. High values often mean that the "
    "image itself is unclear, for example blurred or between two classes.",
    "mutual_information": "How much the predictions of the passes differ. High values often mean that the training "
    "images contained too few images like this one.",
    "confidence": "Average probability of the predicted class. Low values are suspicious.",
    "prediction_std": "How much the probability of the predicted class changes from pass to pass. High values mean "
    "that the prediction is unstable.",
    "largest_label_entropy": "How uncertain the prediction of the least certain label is. High values are suspicious.",
    "largest_std": "How much the least stable output of the model changes from pass to pass. High values mean that "
    "the prediction is unstable.",
    "variation_ratio": "Share of the passes that do not predict the most frequent class. High values are suspicious.",
    "energy": "How weak the evidence for every class is, from the outputs of the model before the conversion to "
    "probabilities. High values are suspicious.",
}
"""Meaning of each score that a report displays."""

_COLUMNS = {column.name: column for column in SCORES_OF_ALL_FORMATS}


def explain(names: Iterable[str]) -> tuple[Explanation, ...]:
    """The meanings of some scores, in the given order."""
    found = []
    for name in names:
        column = _COLUMNS[name]
        values = ", ".join(filter(None, (column.range, column.unit)))
        found.append(Explanation(name, PLAIN[name], column.sentence, values))
    return tuple(found)
