"""Self-test of a calibration: score made-up images of several kinds, and compute the flagged share of each kind.

In: in-distribution images `uint8 [n, H, W, C]`. Out: for each kind, n made-up images of the same shape, and their
flagged share. The detectors and the threshold are not fitted on made-up images, so the shares show which images the
calibration does not detect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from screen.decide.calibration import Calibration
from screen.decide.scores import score_columns
from screen.engine.passes import PassEngine
from screen.run.failures import find_failures

Images = NDArray[np.uint8]

ROWS = 200
"""Maximum number of images of each kind; with this number, the 95 % confidence interval of a share of 50 % is 43 to
57 %."""

MUST_BE_FLAGGED = ("uniform noise", "Gaussian noise", "constant colours")
"""Kinds without any content; if a calibration flags less than `LEAST_SHARE` of one kind, a warning is logged."""

LEAST_SHARE = 0.5

_PATCHES = 4
"""Number of patches along each axis for `shuffled patches`."""

_CONTRAST = 0.15
_SEED = 0


class Examples:
    """Collects the images that the self-test changes into made-up images: the `ROWS` images with the smallest digests.

    The choice of images does not depend on the order of the rows.
    """

    def __init__(self) -> None:
        self._digests: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._images: Images | None = None

    def add(self, digests: NDArray[np.uint64], images: Images) -> None:
        """Add images `[B, H, W, C]` with digests `[B]`."""
        joined = np.concatenate([self._digests, digests])
        rows = images if self._images is None else np.concatenate([self._images, images])
        chosen = np.argsort(joined, kind="stable")[:ROWS]
        self._digests, self._images = joined[chosen], rows[chosen]

    @property
    def images(self) -> Images:
        """The chosen images, `[n, H, W, C]`, with n at most `ROWS`."""
        assert self._images is not None  # noqa: S101  a calibration requires rows
        return self._images


def make_kinds(images: Images) -> dict[str, Callable[[], Images]]:
    """For each kind of made-up image, by name, a function that makes n images of this kind.

    Args:
        images: in-distribution images, `[n, H, W, C]`, n at least 1.
    """
    makers: dict[str, Callable[[Images, np.random.Generator], Images]] = {
        "uniform noise": lambda given, rng: rng.integers(0, 256, given.shape, dtype=np.uint8),
        "Gaussian noise": lambda given, rng: _to_pixels(rng.normal(128, 64, given.shape)),
        "constant colours": _make_constant,
        "shuffled pixels": _shuffle_pixels,
        "shuffled patches": _shuffle_patches,
        "inverted": lambda given, rng: 255 - given,
        "low contrast": _reduce_contrast,
        "heavy blur": _blur,
    }
    return {name: _bind(make, images, index) for index, (name, make) in enumerate(makers.items())}


def run_self_test(
    engine: PassEngine, calibration: Calibration, images: Images, unused: Sequence[str]
) -> tuple[tuple[tuple[str, float], ...], list[str]]:
    """Score made-up images of each kind.

    Args:
        engine: the engine that scored the rows of the calibration.
        calibration: the finished calibration.
        images: in-distribution images, `[n, H, W, C]`, n at least 1.
        unused: names of the distances that the model has and the calibration does not use.

    Returns:
        The flagged share of each kind, and a warning for each kind that `find_blind` returns.
    """
    shares, surprisals = {}, {}
    for kind, make in make_kinds(images).items():
        summary = engine.summarize(make())
        failures = find_failures(summary, engine.plan.contract.task)  # a row that cannot be scored is flagged
        scores = score_columns(summary.drop(failures))
        flags = int((calibration.score(scores) > calibration.threshold).sum()) + len(failures)
        shares[kind] = flags / len(images)
        surprisals[kind] = calibration.combined_score.surprisals(scores)
    names = calibration.combined_score.names
    warnings = [describe_blindness(kind, shares[kind], surprisals[kind], names, unused) for kind in find_blind(shares)]
    return tuple(shares.items()), warnings


def find_blind(shares: Mapping[str, float]) -> list[str]:
    """Kinds of `MUST_BE_FLAGGED` of which less than `LEAST_SHARE` is flagged.

    Args:
        shares: flagged share of each kind, 0 to 1.
    """
    return [kind for kind in MUST_BE_FLAGGED if shares[kind] < LEAST_SHARE]


def describe_blindness(
    kind: str, share: float, surprisals: NDArray[np.float64], names: Sequence[str], missing: Sequence[str]
) -> str:
    """One-line warning: the kind that is not flagged, the detectors for which the images are usual, and a remedy.

    Args:
        kind: the kind of image.
        share: flagged share of the kind, 0 to 1.
        surprisals: surprisals of the images, `[n, D]`.
        names: names of the D detectors.
        missing: names of the distances that the model has and the calibration does not use.
    """
    usual = [name for name, column in zip(names, surprisals.T, strict=True) if np.median(column) < _USUAL]
    blind = (
        f"their values of {' and '.join(usual)} are common among in-distribution rows"
        if usual
        else f"their values of {' and '.join(names)} are not unusual enough"
    )
    if missing:
        remedy = f"leave out --detector and --features, so that {' and '.join(missing)} {_is_or_are(missing)} used too"
    else:
        remedy = "give more reference rows with --reference, more rows in IN_DISTRIBUTION, or a higher --review-rate"
    return f"only {share:.0%} of images of {kind} would be flagged: {blind}. Try: {remedy}"


_USUAL = -np.log(0.1)
"""Surprisal below which a score is usual: more than 10 % of in-distribution rows have a score at least as unusual."""


def _is_or_are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _bind(make: Callable[[Images, np.random.Generator], Images], images: Images, index: int) -> Callable[[], Images]:
    return lambda: np.ascontiguousarray(make(images, np.random.default_rng([_SEED, index])))


def _to_pixels(values: NDArray[np.float64]) -> Images:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _make_constant(images: Images, rng: np.random.Generator) -> Images:
    """Images of one colour each; the colours are drawn uniformly."""
    colours = rng.integers(0, 256, (len(images), 1, 1, images.shape[3]), dtype=np.uint8)
    return np.broadcast_to(colours, images.shape)


def _shuffle_pixels(images: Images, rng: np.random.Generator) -> Images:
    """All pixels of each image in random order, each with its colour."""
    flat = images.reshape(len(images), -1, images.shape[3])
    order = np.argsort(rng.random(flat.shape[:2]), axis=1)
    return np.take_along_axis(flat, order[..., np.newaxis], axis=1).reshape(images.shape)


def _shuffle_patches(images: Images, rng: np.random.Generator) -> Images:
    """Each image with the cells of a grid in random order; pixels outside the grid, at two edges, stay in place."""
    rows, height, width, channels = images.shape
    across = min(_PATCHES, width)
    down = min(_PATCHES, height)
    tall, wide = height // down, width // across
    inner = images[:, : down * tall, : across * wide]
    patches = inner.reshape(rows, down, tall, across, wide, channels).swapaxes(2, 3)
    patches = patches.reshape(rows, down * across, tall, wide, channels)
    order = np.argsort(rng.random((rows, down * across)), axis=1)
    patches = np.take_along_axis(patches, order[..., np.newaxis, np.newaxis, np.newaxis], axis=1)
    moved = patches.reshape(rows, down, across, tall, wide, channels).swapaxes(2, 3)
    shuffled = images.copy()
    shuffled[:, : down * tall, : across * wide] = moved.reshape(inner.shape)
    return shuffled


def _reduce_contrast(images: Images, _rng: np.random.Generator) -> Images:
    """Each image with its deviations from the channel means multiplied by `_CONTRAST`."""
    mean = images.mean(axis=(1, 2), keepdims=True)
    return _to_pixels(mean + _CONTRAST * (images - mean))


def _blur(images: Images, _rng: np.random.Generator) -> Images:
    """Each image after a Gaussian blur with a standard deviation of an eighth of its shorter side, at least 1 pixel."""
    sigma = max(1.0, min(images.shape[1:3]) / 8)
    blurred = images.astype(np.float64)
    for axis in (1, 2):
        blurred = np.moveaxis(np.moveaxis(blurred, axis, -1) @ _gaussian_kernel(images.shape[axis], sigma), -1, axis)
    return _to_pixels(blurred)


def _gaussian_kernel(size: int, sigma: float) -> NDArray[np.float64]:
    """Matrix `[size, size]` that blurs one axis; each column sums to 1, so edges are renormalized."""
    offsets = np.arange(size)[:, np.newaxis] - np.arange(size)[np.newaxis]
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    kernel: NDArray[np.float64] = weights / weights.sum(axis=0, keepdims=True)
    return kernel
