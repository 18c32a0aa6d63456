from __future__ import annotations

import numpy as np
import pytest

from export.contract.metadata import Site
from screen.engine.masks import draw_mask, draw_masks, draw_row_masks, identify_rows

SITE = Site("block/drop", "MCDropout", 0.3, (5, 7), (5, 7))


def test_the_words_behind_a_mask_never_change() -> None:
    """Golden values: a change means that every result of the same seed changes."""
    mask = draw_mask(1, Site("golden", "MCDropout", 0.5, (16,), (16,)), 3)
    assert (mask > 0).astype(int).tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0, 1, 0, 1]
    assert np.unique(mask).tolist() == [0.0, 2.0]


def test_seed_site_and_pass_each_give_another_mask() -> None:
    masks = [
        draw_mask(0, SITE, 0),
        draw_mask(1, SITE, 0),
        draw_mask(0, SITE, 1),
        draw_mask(0, Site("other", "MCDropout", 0.3, (5, 7), (5, 7)), 0),
    ]
    assert len({mask.tobytes() for mask in masks}) == 4
    np.testing.assert_array_equal(draw_mask(0, SITE, 0), masks[0])


def test_a_block_of_passes_is_its_passes_one_by_one() -> None:
    block = draw_masks(9, SITE, 4, 3)
    assert block.shape == (3, 1, 5, 7)
    for index in range(3):
        np.testing.assert_array_equal(block[index, 0], draw_mask(9, SITE, 4 + index))


@pytest.mark.parametrize("rate", [0.001, 0.25, 0.5, 0.9, 0.999])
def test_masks_drop_the_rate_and_keep_the_mean(rate: float) -> None:
    masks = draw_masks(2, Site("s", "MCDropout", rate, (2000,), (2000,)), 0, 200)
    error = np.sqrt(rate * (1 - rate) / masks.size)
    assert abs(np.mean(masks == 0) - rate) < 5 * error
    assert abs(masks.mean() - 1) < 5 * error / (1 - rate)


def test_elements_and_passes_are_uncorrelated() -> None:
    masks = draw_masks(3, Site("s", "MCDropout", 0.5, (50,), (50,)), 0, 4000)[:, 0]
    correlation = np.corrcoef(masks.T) - np.eye(50)
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)
    between = np.corrcoef(masks[:-1].ravel(), masks[1:].ravel())[0, 1]
    assert abs(between) < 5 / np.sqrt(masks.size)


def test_the_largest_seed_works() -> None:
    assert draw_mask(2**64 - 1, SITE, 0).shape == (5, 7)


def test_masks_per_row_are_the_rows_own_in_every_batch() -> None:
    rows = [17, 4, 99]
    together = draw_row_masks(5, SITE, rows, 0, 6)
    assert together.shape == (6, 3, 5, 7)
    for index, row in enumerate(rows):
        np.testing.assert_array_equal(draw_row_masks(5, SITE, [row], 0, 6)[:, 0], together[:, index])
    np.testing.assert_array_equal(draw_row_masks(5, SITE, rows, 4, 2), together[4:])
    assert len({together[index, row].tobytes() for index in range(6) for row in range(3)}) == 18


def test_masks_per_row_drop_the_rate_and_are_independent() -> None:
    masks = draw_row_masks(2, Site("s", "MCDropout", 0.25, (999,), (999,)), list(range(40)), 0, 50)
    error = np.sqrt(0.25 * 0.75 / masks.size)
    assert abs(np.mean(masks == 0) - 0.25) < 5 * error
    assert np.unique(masks).tolist() == [0.0, np.float32(1 / 0.75)]
    for one, other in ((masks[1:], masks[:-1]), (masks[:, 1:], masks[:, :-1])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(one.size)


def test_a_row_is_known_by_its_pixels_alone() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    assert identify_rows(images)[3] == identify_rows(images[3:4].copy())[0]
    assert len(set(identify_rows(images))) == 5


def test_the_words_behind_masks_per_row_never_change() -> None:
    mask = draw_row_masks(1, Site("golden", "MCDropout", 0.5, (16,), (16,)), [7], 3, 1)
    assert (mask > 0).astype(int).ravel().tolist() == [1, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 0, 0, 1, 0, 1]


def test_gaussian_factors_have_mean_one_and_the_variance_of_dropout() -> None:
    site = Site("s", "MCGaussianDropout", 0.2, (999,), (999,))
    for factors in (draw_masks(2, site, 0, 100), draw_row_masks(2, site, list(range(10)), 0, 10)):
        normal = (factors.astype(np.float64) - 1) / np.sqrt(0.2 / 0.8)
        for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
            error = np.sqrt(np.var(normal**power) / normal.size)
            assert abs(np.mean(normal**power) - moment) < 5 * error
    assert draw_mask(2, site, 1).tobytes() == draw_masks(2, site, 0, 2)[1, 0].tobytes()


def test_alpha_dropout_drops_where_dropout_does() -> None:
    plain, alpha = (draw_mask(1, Site("s", kind, 0.3, (99,), (99,)), 0) for kind in ("MCDropout", "MCAlphaDropout"))
    np.testing.assert_array_equal(alpha, plain > 0)
