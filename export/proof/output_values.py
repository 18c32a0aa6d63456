"""Check on test images that the outputs of a source model are possible for its output kind.

In: a `Reference` of the model, and a contract with the output kind. Out: a warning or None, or `ModelRefused`.
Without this check, the screener could compute scores from raw logits as if they were probabilities, with confidences
above 1 and negative entropies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from export.contract.metadata import ModelContract
from export.contract.probabilities import can_be_probabilities
from export.errors import ModelRefused
from export.model_source import SourcePass
from export.proof.probe import make_probe

_CONSTANT_IMAGES: NDArray[np.uint8] = np.array([0, 128, 255], np.uint8).reshape(-1, 1, 1, 1)
"""Black, grey and white images of one pixel."""

_PASSES = 2
"""Number of stochastic passes to check: their outputs can leave the range of the outputs without dropout."""


class Reference(Protocol):
    """Outputs of the source model for raw pixels `uint8 [B, H, W, C]`."""

    def deterministic(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Outputs `[B, C]` without dropout."""

    def draw(self, images: NDArray[np.uint8], seed: int) -> SourcePass:
        """A pass with new noise for every row."""


def check_output_values(reference: Reference, contract: ModelContract, origin: str) -> str | None:
    """Check that the outputs for test images are possible for the output kind in the contract.

    Images with an output that is not finite are left out, because a model may divide by the contrast of an image.

    Args:
        reference: outputs of the source model.
        contract: contract with the shape of the images and the output kind.
        origin: name of the model, for messages.

    Returns:
        A warning if all test images have the same outputs, because many other graphs have these outputs too; else None.

    Raises:
        ModelRefused: no image has finite outputs, probabilities are outside 0..1, class probabilities do not sum to 1,
            or the logits of several classes are probabilities for every image.
    """
    constant = np.broadcast_to(_CONSTANT_IMAGES, (len(_CONSTANT_IMAGES), *contract.image_shape))
    images = np.concatenate([make_probe(contract.image_shape, small=False, seed=0), constant])
    passes = [reference.draw(images, seed) for seed in range(_PASSES)]
    without_dropout = reference.deterministic(images)
    outputs = np.concatenate([without_dropout, *(one.outputs for one in passes)])
    outputs = outputs[np.isfinite(outputs).all(axis=1)]
    if not len(outputs):
        raise ModelRefused(
            f"{origin} returns NaN or infinity for every test image.",
            wanted="finite outputs",
            next_step="check the trained weights, because a diverging loss sets them to NaN, and export a checkpoint "
            "from before the divergence",
        )
    if contract.output_kind in ("softmax", "sigmoid") and not can_be_probabilities(outputs, 0.0, contract.task).all():
        raise _not_probabilities(outputs, contract, origin)
    is_softmax = contract.task == "classes" and can_be_probabilities(outputs, 0.0, "classes").all()
    if contract.output_kind == "logits" and is_softmax:
        raise ModelRefused(
            f"The outputs of {origin} are between 0 and 1 and sum to 1 for every test image, so they are not logits.",
            wanted="logits, to which a softmax is applied",
            next_step="export with --output-kind softmax",
        )
    if _is_constant([without_dropout]) and _is_constant([_before_activation(one) for one in passes]):
        return (
            f"{origin} returns the same outputs for every test image, with and without dropout, so the verification "
            "proves nothing about the layers before the outputs; check that the trained weights were loaded before the "
            "model was saved"
        )
    return None


def _before_activation(one: SourcePass) -> NDArray[np.float32]:
    """The values before the last activation, because it may saturate; the outputs if these values are unknown."""
    return one.outputs if one.before_activation is None else one.before_activation


def _is_constant(parts: Sequence[NDArray[np.float32]]) -> bool:
    """Whether all rows with finite values are equal."""
    values = np.concatenate([part.reshape(len(part), -1) for part in parts])
    values = values[np.isfinite(values).all(axis=1)]
    return len(values) > 0 and bool(np.all(values == values[0]))


def describe_logits(classes: int) -> str:
    """The condition under which outputs are of kind `logits`, for the next step in an error."""
    if classes == 1:
        return "the model was trained with from_logits=True (a sigmoid of the output is then the probability)"
    return (
        "the model was trained with from_logits=True and exclusive classes (a softmax of the outputs then gives the "
        "probabilities)"
    )


def _not_probabilities(outputs: NDArray[np.float32], contract: ModelContract, origin: str) -> ModelRefused:
    kind, smallest, largest = contract.output_kind, float(outputs.min()), float(outputs.max())
    is_in_range = can_be_probabilities(outputs, 0.0, "labels").all()
    if is_in_range:
        sums = outputs.sum(axis=1)
        found = f"sums from {sums.min():.4g} to {sums.max():.4g}"
        next_step = "export with --output-kind sigmoid if each output is the probability of a separate label"
    elif contract.task == "labels":
        found = f"values from {smallest:.4g} to {largest:.4g}"
        next_step = (
            "if the outputs are logits of labels, add their sigmoid and export the new model: "
            "keras.Sequential([model, keras.layers.Activation('sigmoid')])"
        )
    else:
        found = f"values from {smallest:.4g} to {largest:.4g}"
        next_step = f"export with --output-kind logits if {describe_logits(contract.classes)}"
    sums_to_one = " that sum to 1" if contract.task == "classes" else ""
    return ModelRefused(
        f"The outputs of {origin} have {found} on test images, so they are not probabilities of a {kind}.",
        wanted=f"values between 0 and 1{sums_to_one}, as the output kind {kind} requires",
        next_step=next_step,
    )
