"""The accuracy of an exported model and of its source model, a part of the contract.

In: measurements of `export.proof.accuracy`. Out: an `Accuracy` for the metadata, and its text.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of the exported model and of the source model on the same labelled rows.

    Attributes:
        rows: number of rows with an image and a usable label.
        keras: accuracy of the source model, a Keras model or an ONNX file, without dropout.
        exported: accuracy of the exported model without dropout.
        monte_carlo: accuracy of the mean over `passes` stochastic passes of the exported model.
        passes: number of stochastic passes.
        baseline: accuracy of a constant prediction: the frequency of the most frequent label; for sigmoid outputs,
            the mean of this frequency over the outputs.
        differing: number of rows for which the two models predict different classes or labels.
        unreadable: number of rows without a decodable image.
        unlabelled: number of rows without a usable label.
    """

    rows: int
    keras: float
    exported: float
    monte_carlo: float
    passes: int
    baseline: float
    differing: int
    unreadable: int
    unlabelled: int

    def describe(self, source: str) -> str:
        """The accuracy in two lines of text; `source` names the source model."""
        skipped = f"; left out: {self.unreadable} unreadable, {self.unlabelled} without a usable label"
        return (
            f"{self.exported:.2%} on {self.rows} labelled rows ({source}: {self.keras:.2%}, differing rows: "
            f"{self.differing};\n                 mean of {self.passes} passes: {self.monte_carlo:.2%}; "
            f"most frequent label: {self.baseline:.2%})" + (skipped if self.unreadable or self.unlabelled else "")
        )
