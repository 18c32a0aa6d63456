"""The counts of the draws, on masks that numpy draws."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from export.contract.metadata import Site
from export.errors import VerificationFailed
from export.proof.draws import (
    FALSE_REFUSALS,
    PASSES,
    check_counts,
    count_draws,
    count_kept_in_keras,
    drawn_shape,
    possible_values,
    rows_for,
)

Floats = NDArray[np.float32]


def site(rate: float, shape: tuple[int, ...], kind: str = "MCDropout", own: tuple[int, ...] | None = None) -> Site:
    return Site(name=f"site_{rate:g}", kind=kind, rate=rate, shape=shape, noise_shape=own or shape)


def draw(of: Site, rng: np.random.Generator, rate: float | None = None) -> Floats:
    """Outputs of a correct site for inputs of ones, or of one that drops at another rate."""
    rows = rows_for(of)
    if of.kind == "MCGaussianDropout":
        used = of.rate if rate is None else rate
        return rng.normal(1, (used / (1 - used)) ** 0.5, (PASSES, rows, *of.shape)).astype(np.float32)
    kept = rng.random((PASSES, rows, *of.noise_shape)) >= (of.rate if rate is None else rate)
    values = np.where(kept, possible_values(of)[1], possible_values(of)[0]).astype(np.float32)
    return np.broadcast_to(values, (PASSES, rows, *of.shape)).copy()


def check(of: Site, values: Floats) -> None:
    check_counts(count_draws([of], [values], np.random.default_rng(0)))


SITES = [
    site(0.5, (64,)),
    site(0.25, (8, 6, 6)),
    site(0.001, (40,)),
    site(0.9, (1,)),
    site(0.2, (9, 7, 4), "MCBroadcastDropout", (1, 1, 4)),
    site(0.05, (12, 12, 8), "MCBroadcastDropout", (1, 1, 1)),
    site(0.3, (30,), "MCGaussianDropout"),
    site(0.1, (30,), "MCAlphaDropout"),
    site(0.2, (5, 5, 8), "MCBroadcastAlphaDropout", (1, 1, 8)),
]


@pytest.mark.parametrize("of", SITES, ids=lambda one: f"{one.kind}-{one.rate}-{one.noise_shape}")
def test_correct_draws_pass_and_each_fault_is_found(of: Site) -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        check(of, draw(of, rng))
    for _ in range(5):
        with pytest.raises(VerificationFailed, match="trials; the p-value is"):
            check(of, draw(of, rng, of.rate + 0.05 if of.rate < 0.9 else of.rate - 0.05))
        values = draw(of, rng)
        assert is_found(of, "equal elements of two rows", np.repeat(values[:, :1], values.shape[1], axis=1))
        assert is_found(of, "equal elements of two passes", np.repeat(values[:1], PASSES, axis=0))
        for axis, size in enumerate(of.noise_shape, start=2):
            if size > 1:
                shared = np.repeat(values.take([0], axis), values.shape[axis], axis=axis)
                assert is_found(of, f"equal elements of two positions on axis {axis - 1}", shared)


def is_found(of: Site, question: str, values: Floats) -> bool:
    """Whether the count for this question leads to a refusal."""
    counts = count_draws([of], [values], np.random.default_rng(0))
    with pytest.raises(VerificationFailed):
        check_counts(counts)
    return next(count for count in counts if count.question == question).p_value < FALSE_REFUSALS / len(counts)


def test_two_sites_with_one_mask_are_found() -> None:
    one, other = site(0.25, (64,)), site(0.5, (64,))
    uniform = np.random.default_rng(2).random((PASSES, rows_for(one), 64))
    drawn = [np.where(uniform >= of.rate, 1 / (1 - of.rate), 0).astype(np.float32) for of in (one, other)]
    with pytest.raises(VerificationFailed, match=r"equal elements with site_0\.5"):
        check_counts(count_draws([one, other], drawn, np.random.default_rng(0)))


def test_two_sites_with_one_mask_are_found_across_a_site_between_them() -> None:
    sites = [site(0.25, (64,)), site(0.4, (64,)), site(0.25, (64,))]
    rng = np.random.default_rng(2)
    drawn = [draw(of, rng) for of in sites]
    check_counts(count_draws(sites, drawn, rng))
    with pytest.raises(VerificationFailed, match=r"equal elements with site_0\.25"):
        check_counts(count_draws(sites, [*drawn[:2], drawn[0]], rng))


def test_a_kept_element_that_is_not_scaled_is_found() -> None:
    of = site(0.25, (64,))
    with pytest.raises(VerificationFailed, match=r"draws the values \[0\.0, 1\.0\]"):
        check(of, draw(of, np.random.default_rng(1)) * np.float32(0.75))


def test_different_values_along_a_shared_axis_are_found() -> None:
    shared, own = SITES[4], site(0.2, (9, 7, 4))
    with pytest.raises(VerificationFailed, match=r"along axis 1 .* noise shape \[1, 1, 4\]|along axis 1"):
        check(shared, draw(own, np.random.default_rng(1)))


def test_the_noise_of_the_keras_layer_is_counted_too() -> None:
    of = site(0.25, (64,))
    rng = np.random.default_rng(1)
    check_counts(count_kept_in_keras(of, draw(of, rng)))
    with pytest.raises(VerificationFailed, match="kept elements in the source model"):
        check_counts(count_kept_in_keras(of, draw(of, rng, 0.3)))


def test_large_inputs_are_shortened_and_rare_drops_get_more_rows() -> None:
    assert drawn_shape(site(0.5, (512, 512, 64))) == (32, 64, 64)
    assert drawn_shape(site(0.5, (64,))) == (64,)
    assert rows_for(site(0.5, (512, 512, 64))) == 2
    assert rows_for(site(0.5, (1,))) * PASSES >= 20_000
    assert rows_for(site(1e-4, (1,))) * PASSES * 1e-4 >= 100
    assert rows_for(site(0.05, (12, 12, 8), "MCBroadcastDropout", (1, 1, 1))) * PASSES >= 20_000


def test_memory_of_the_draws_is_bounded() -> None:
    """Up to 2,500 rows are drawn for a mask of one element, so its shared axes are shortened to two positions."""
    path = site(0.2, (112, 112, 96), "MCBroadcastDropout", (1, 1, 1))
    assert drawn_shape(path) == (2, 2, 2)
    assert drawn_shape(site(0.2, (1, 40, 8), "MCBroadcastDropout", (1, 1, 8))) == (1, 2, 8)
    for of in (path, site(1e-9, (64,)), site(1e-9, (1,)), site(0.5, (512, 512, 64))):
        assert rows_for(of) * np.prod(drawn_shape(of)) * PASSES <= 2**21
