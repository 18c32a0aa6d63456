"""Search for signs that training scaled the pixels by another factor than the export.

In: the reference of the source model and the contract of the exported model. Out: a warning, or None. Only a
factor of about 255 can be detected, the ratio of pixels in 0..255 to pixels in 0..1 or -1..1. There are two kinds of
evidence:

- The statistics of the first BatchNormalization layer contain the scale of its inputs in training.
- If no layer has learned statistics: the logits of trained networks differ moderately between images. If the pixels are
  much larger than in training, biases have little effect, and the differences are proportional to the pixels.

`benchmarks/pixel_scale.py` measures both kinds of evidence on trained networks.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from export.contract.inputs import Preprocessing
from export.contract.metadata import ModelContract
from export.model_source import SourcePass
from export.proof.probe import dead_leaves

Images = NDArray[np.uint8]

_FITTING_GAINS = (1 / 50, 20.0)
"""Limits of the gain of a plausible scaling; see `measure_gain`.

The lower limit is farther from 1 than the upper limit because, after little training, the learned variance is near its
initial value 1."""

_FITTING_SPREADS = (0.5, 200.0)
"""Limits of the spread of a plausible scaling; see `measure_spread`.

The upper limit is high because networks in an early stage of training on pixels in 0..255 reach about 80."""

_LARGE_RANGE = 50.0
"""Minimum range of preprocessed pixels that resembles 0..255 more than 0..1."""

_SMALL_IMAGE = 64 * 64
"""Maximum number of pixels of an image for which the full number of test images is made."""

_SEED = 17


class Reference(Protocol):
    """Passes of the source model under a preprocessing; see `export.model_source.Reference`."""

    def without_noise(self, images: Images) -> SourcePass:
        """A pass without dropout on `uint8 [B, H, W, C]`."""

    def under(self, preprocessing: Preprocessing) -> Reference:
        """The same model under another preprocessing."""

    def biases(self) -> list[NDArray[np.float32]]:
        """The biases of all layers."""


def find_scale_alarm(reference: Reference, contract: ModelContract) -> str | None:
    """A warning if a scale about 255 times larger or smaller than the scale in the contract is far more plausible.

    Args:
        reference: the source model under the preprocessing of the contract.
        contract: contract of the exported model.

    Returns:
        The warning; None if the scaling is plausible, if the other scaling is not plausible, or if the network contains
        no evidence.
    """
    given = contract.preprocessing
    images = make_images(contract.image_shape)
    answer = reference.without_noise(images)
    gain, spread = measure_gain(answer), measure_spread(answer, contract.output_kind)
    if gain is not None:
        if _fits(gain, _FITTING_GAINS):
            return None
        other = _neighbour(given, larger=gain < 1)
        other_gain = measure_gain(reference.under(other).without_noise(images))
        if other_gain is None or not _fits(other_gain, _FITTING_GAINS):
            return None
        evidence = (
            f"on test images, the standard deviation of the inputs of the first BatchNormalization layer is {gain:.3g} "
            f"times the standard deviation in training, and {other_gain:.3g} times with {other.describe()}"
        )
    else:
        if spread is None or spread <= _FITTING_SPREADS[1]:
            return None
        if not _has_large_range(given) or not _are_trained(reference.biases()):
            return None
        other = _neighbour(given, larger=False)
        other_spread = measure_spread(reference.under(other).without_noise(images), contract.output_kind)
        if other_spread is None or not _fits(other_spread, _FITTING_SPREADS):
            return None
        evidence = (
            f"between test images, the logits have a standard deviation of {spread:.3g}, and of {other_spread:.3g} "
            f"with {other.describe()}"
        )
    return (
        f"probably training used another preprocessing than {given.describe()}: {evidence}; export with the scaling "
        f"in the training code, for example {_options(other)}; if it is unknown, add --check-data and compare the "
        "accuracies of both scalings"
    )


def make_images(image_shape: tuple[int, int, int]) -> Images:
    """Test images `uint8 [B, height, width, channels]`: one half dead leaves, one half white lines on black.

    Dead leaves have the statistics of photographs, and lines those of handwriting.
    """
    rng = np.random.default_rng(_SEED)
    each = 8 if image_shape[0] * image_shape[1] <= _SMALL_IMAGE else 2
    return np.stack([make(image_shape, rng) for make in (dead_leaves, _lines) for _ in range(each)])


def measure_gain(answer: SourcePass) -> float | None:
    """`NormInputs.gain` of the first BatchNormalization layer with learned statistics; None if there is none."""
    return next((norm.gain for norm in answer.norms if norm.is_trained), None)


def measure_spread(answer: SourcePass, output_kind: str) -> float | None:
    """Standard deviation of the logits between images.

    If no sigmoid follows, the mean of each image is subtracted first. None if the logits are unknown, or if the output
    kind is `regression`.
    """
    logits = answer.outputs if output_kind == "logits" else answer.before_activation
    if output_kind == "regression" or logits is None:
        return None
    if output_kind != "sigmoid":
        logits = logits - logits.mean(axis=1, keepdims=True)
    return float(np.sqrt(logits.var(axis=0).mean()))


def _lines(image_shape: tuple[int, int, int], rng: np.random.Generator) -> Images:
    """An image of four connected white lines on black."""
    height, width, _ = image_shape
    points = np.moveaxis(np.mgrid[:height, :width], 0, -1)
    corners = rng.uniform(0.2, 0.8, (5, 2)) * (height, width)
    distance = np.full((height, width), np.inf)
    for start, end in pairwise(corners):
        along = np.clip((points - start) @ (end - start) / np.sum((end - start) ** 2), 0, 1)
        distance = np.minimum(distance, np.linalg.norm(points - start - along[..., None] * (end - start), axis=-1))
    ink = np.clip(0.5 + min(height, width) / 20 - distance, 0, 1)
    return np.broadcast_to((255 * ink)[..., None], image_shape).astype(np.uint8)


def _fits(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


def _are_trained(biases: list[NDArray[np.float32]]) -> bool:
    """Whether there are biases of at least two layers, and no bias still has its initial value 0."""
    return len(biases) > 1 and all(np.any(bias) for bias in biases)


def _has_large_range(preprocessing: Preprocessing) -> bool:
    divisor = min((abs(value) for value in preprocessing.std), default=1.0)
    return 255 * abs(preprocessing.scale or 0) / divisor >= _LARGE_RANGE


def _neighbour(given: Preprocessing, *, larger: bool) -> Preprocessing:
    """The preprocessing with scale 1 or 1/255; if mean or std were given as numbers, with scale times 255 or 1/255."""
    if given.scale is not None and not given.name and (given.mean or given.std):
        return replace(given, scale=given.scale * 255 if larger else given.scale / 255)
    return replace(given, scale=1.0 if larger else 1 / 255, mean=(), std=(), name="", reverse_channels=False)


def _options(other: Preprocessing) -> str:
    """The options that select a preprocessing of `_neighbour`."""
    scale = other.scale or 0
    option = "--scale 1/255" if np.isclose(scale, 1 / 255) else f"--scale {scale:.6g}"
    if other.mean or other.std:
        return f"{option} with the same --mean and --std"
    return option if scale == 1 else f"{option} or --preprocess tf"
