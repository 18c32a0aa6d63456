"""Count the draws of each site: how often it keeps an element, and how often elements of two masks are equal.

In: outputs of the sites for inputs of ones. Out: `Count`s with exact p-values, or `VerificationFailed`. Every count is
the number of successes among independent trials with a known probability, so the rate of false refusals follows from
the binomial distribution: `check_counts` refuses a correct file with probability at most `FALSE_REFUSALS`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.contract.metadata import ALPHA_KINDS, ALPHA_PRIME, GAUSSIAN_KINDS, Site
from export.errors import VerificationFailed
from export.proof.binomial import two_sided_p_value

FALSE_REFUSALS = 1e-6
"""Maximum probability that a correct file is refused because of any of its counts."""

PASSES = 8
"""Number of session runs in which the masks are drawn."""

_DRAWS = 20_000
"""Minimum number of drawn elements for each site. With this number, a rate that is wrong by 0.05 deviates
by at least 14 standard errors."""

_DROPS = 100
"""Minimum expected number of dropped elements, and of kept elements, for each site."""

_MOST_ELEMENTS = 2**17
"""Maximum number of elements of a row of a test input; the axes of larger inputs are shortened."""

_MOST_DRAWS = 2**18
"""Maximum number of elements that a site draws in a session run, even if a tiny rate would need more."""

_PAIR_DRAWS = 2**14
"""Maximum number of elements in each pass for the comparison of two sites."""

_TOLERANCE = 1e-5
"""Maximum difference of a drawn value from the nearer of the two possible values, relative to the larger of them."""

_EPSILON = 2.0**-23
"""Relative distance of adjacent float32 numbers; `1 - rate` has an error of up to half this distance."""

_QUARTILE = 0.6744897501960817
"""Third quartile of the standard normal distribution, in standard deviations from the mean."""

NEXT_STEP = (
    "export again with the versions of onnx, onnxruntime, tf2onnx and keras in the project's constraints.txt; if the "
    "result is the same, report the model to the developers of oodscreen"
)


@dataclass(frozen=True)
class Count:
    """Successes among independent trials.

    Attributes:
        site: name of the site.
        question: what was counted, such as `kept elements` or `equal elements of two rows`.
        successes: number of successes.
        trials: number of trials.
        probability: probability of a success according to the contract.
    """

    site: str
    question: str
    successes: int
    trials: int
    probability: float

    @property
    def p_value(self) -> float:
        """Exact two-sided p-value."""
        return two_sided_p_value(self.successes, self.trials, self.probability)


def rows_for(site: Site) -> int:
    """Even number of rows with which `PASSES` runs draw enough elements of a site, within `_MOST_DRAWS`."""
    rare = 1 if site.kind in GAUSSIAN_KINDS else 2 * min(site.rate, 1 - site.rate)
    elements = math.prod(own for own, shared in zip(drawn_shape(site), _shared_axes(site), strict=True) if not shared)
    wanted = max(_DRAWS, 2 * _DROPS / rare) / PASSES
    return 2 * max(1, math.ceil(min(wanted, _MOST_DRAWS) / (2 * elements)))


def drawn_shape(site: Site) -> tuple[int, ...]:
    """Shape of a row of the inputs with which a site is tested.

    The shape is that of the site with two positions along each shared axis. The longest axes of a large
    shape are halved.
    """
    shape = [min(size, 2) if shared else size for size, shared in zip(site.shape, _shared_axes(site), strict=True)]
    while math.prod(shape) > _MOST_ELEMENTS:
        longest = shape.index(max(shape))
        shape[longest] = (shape[longest] + 1) // 2
    return tuple(shape)


def count_draws(
    sites: Sequence[Site], drawn: Sequence[NDArray[np.float32]], rng: np.random.Generator
) -> tuple[Count, ...]:
    """The counts for the draws of an exported file.

    There are counts of the kept elements of each site, and of the equal elements in pairs of rows, of passes, of
    positions along each axis with independent values, and of sites. Pairs of rows, passes and positions are drawn at
    random; no mask is in two pairs of one count.

    Args:
        sites: the sites.
        drawn: for each site, its outputs `[PASSES, rows, *drawn_shape(site)]` for inputs of ones.
        rng: random generator for the pairs.

    Raises:
        VerificationFailed: a site draws a value that is not possible, or different values along a shared axis.
    """
    counts: list[Count] = []
    masks = []
    for site, values in zip(sites, drawn, strict=True):
        own = _own_values(site, values, "The exported file")
        counts += _count_kept(site, own)
        mask = _split(site, own)
        masks.append(mask)
        axes = [("two passes", 0), ("two rows", 1)]
        axes += [(f"two positions on axis {axis - 1}", axis) for axis in range(2, mask.ndim)]
        counts += [_count_equal(site, what, mask, axis, rng) for what, axis in axes if mask.shape[axis] > 1]
    flat = [mask.reshape(PASSES, -1)[:, :_PAIR_DRAWS] for mask in masks]
    for (one, mask), (other, other_mask) in combinations(zip(sites, flat, strict=True), 2):
        length = min(mask.shape[1], other_mask.shape[1])
        equal = mask[:, :length] == other_mask[:, :length]
        chances = _split_probability(one), _split_probability(other)
        probability = chances[0] * chances[1] + (1 - chances[0]) * (1 - chances[1])
        counts.append(Count(one.name, f"equal elements with {other.name}", int(equal.sum()), equal.size, probability))
    return tuple(counts)


def count_kept_in_keras(site: Site, values: NDArray[np.float32]) -> tuple[Count, ...]:
    """The counts of the kept elements in the noise of the source model, with the probability in the contract.

    Args:
        site: the site.
        values: outputs of the site in the source model for inputs of ones, `[passes, rows, *drawn_shape(site)]`, in
            the graph's axis order.

    Raises:
        VerificationFailed: the site draws a value that is not possible, or different values along a shared axis.
    """
    return tuple(_count_kept(site, _own_values(site, values, "The source model"), "in the source model"))


def check_counts(counts: Sequence[Count]) -> None:
    """Check the p-values of the counts of one file.

    Raises:
        VerificationFailed: a p-value is at most `FALSE_REFUSALS` divided by the number of counts.
    """
    limit = FALSE_REFUSALS / len(counts)
    worst = min(counts, key=lambda count: count.p_value)
    if worst.p_value <= limit:
        raise VerificationFailed(
            f"In the dropout layer {worst.site}, the share of {worst.question} is "
            f"{worst.successes / worst.trials:.2%}, counted over {worst.trials:,} trials; the p-value is "
            f"{worst.p_value:.1e}.",
            wanted=f"{worst.probability:.2%}, with a p-value above {limit:.1e}",
            next_step=NEXT_STEP,
        )


def possible_values(site: Site) -> tuple[float, float]:
    """The outputs of a site for an input of 1, if the element is dropped and if it is kept; not for Gaussian noise."""
    if site.kind in ALPHA_KINDS:
        gain = ((1 - site.rate) * (1 + site.rate * ALPHA_PRIME**2)) ** -0.5
        mean = site.rate * ALPHA_PRIME
        return gain * (ALPHA_PRIME - mean), gain * (1 - mean)
    return 0.0, 1 / (1 - site.rate)


def _shared_axes(site: Site) -> list[bool]:
    return [draw != size for draw, size in zip(site.noise_shape, site.shape, strict=True)]


def _own_values(site: Site, values: NDArray[np.float32], who: str) -> NDArray[np.float32]:
    """The values `[passes, rows, ...]` with one position along each shared axis, after a check that they are valid."""
    for axis, shared in enumerate(_shared_axes(site), start=2):
        if shared:
            first = values.take([0], axis=axis)
            if np.any(values != first):
                raise VerificationFailed(
                    f"{who} draws different values along axis {axis - 1} of the dropout layer {site.name}.",
                    wanted=f"one value for this axis, because the layer has the noise shape {list(site.noise_shape)}",
                    next_step=NEXT_STEP,
                )
            values = first
    if not np.isfinite(values).all() or (site.kind not in GAUSSIAN_KINDS and not _are_possible(site, values)):
        found = sorted({float(one) for one in np.unique(values)[:4].tolist()})
        wanted = "finite factors" if site.kind in GAUSSIAN_KINDS else f"the values {possible_values(site)}"
        raise VerificationFailed(
            f"{who} draws the values {found} in the dropout layer {site.name}, for inputs of 1.",
            wanted=f"{wanted}, at rate {site.rate:g}",
            next_step=NEXT_STEP,
        )
    return values


def _are_possible(site: Site, values: NDArray[np.float32]) -> bool:
    """Whether each value is one of the two possible values, up to the rounding of float32."""
    dropped, kept = possible_values(site)
    distance = float(np.minimum(np.abs(values - dropped), np.abs(values - kept)).max())
    return distance <= (_TOLERANCE + _EPSILON / (1 - site.rate)) * max(abs(dropped), abs(kept))


def _split(site: Site, values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether each element was kept; for Gaussian noise, whether each factor is above the mean."""
    if site.kind in GAUSSIAN_KINDS:
        return np.asarray(values > 1, np.bool_)
    return np.asarray(values > sum(possible_values(site)) / 2, np.bool_)


def _split_probability(site: Site) -> float:
    return 0.5 if site.kind in GAUSSIAN_KINDS else 1 - site.rate


def _count_kept(site: Site, values: NDArray[np.float32], where: str = "") -> Iterator[Count]:
    """The count of the kept elements; for Gaussian noise, of the factors above the mean and within the quartiles."""
    suffix = f" {where}" if where else ""
    mask = _split(site, values)
    if site.kind not in GAUSSIAN_KINDS:
        yield Count(site.name, f"kept elements{suffix}", int(mask.sum()), mask.size, 1 - site.rate)
        return
    deviation = (site.rate / (1 - site.rate)) ** 0.5
    within = np.abs(values - 1) < _QUARTILE * deviation
    yield Count(site.name, f"factors above 1{suffix}", int(mask.sum()), mask.size, 0.5)
    yield Count(site.name, f"factors within the quartiles{suffix}", int(within.sum()), within.size, 0.5)


def _count_equal(site: Site, what: str, mask: NDArray[Any], axis: int, rng: np.random.Generator) -> Count:
    """The count of equal elements in random pairs of positions along an axis; no position is in two pairs."""
    order = rng.permutation(mask.shape[axis])
    half = len(order) // 2
    equal = mask.take(order[:half], axis) == mask.take(order[half : 2 * half], axis)
    chance = _split_probability(site)
    return Count(site.name, f"equal elements of {what}", int(equal.sum()), equal.size, chance**2 + (1 - chance) ** 2)
