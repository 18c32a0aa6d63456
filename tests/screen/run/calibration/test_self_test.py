from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from screen.run.calibration.self_test import MUST_BE_FLAGGED, describe_blindness, find_blind, make_kinds

IMAGES: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (20, 9, 13, 3), dtype=np.uint8)


def made(kind: str, images: NDArray[np.uint8] = IMAGES) -> NDArray[np.uint8]:
    return make_kinds(images)[kind]()


@pytest.mark.parametrize("shape", [(20, 9, 13, 3), (3, 28, 28, 1), (2, 1, 1, 3), (1, 3, 2, 1)])
def test_every_kind_has_images_of_the_models_size_and_is_the_same_every_time(shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    for kind, make in make_kinds(images).items():
        found = make()
        assert (found.shape, found.dtype) == (shape, np.dtype(np.uint8)), kind
        np.testing.assert_array_equal(found, made(kind, images))
    assert set(MUST_BE_FLAGGED) <= set(make_kinds(images))


def test_noise_has_its_moments() -> None:
    large: NDArray[np.uint8] = np.zeros((50, 32, 32, 3), np.uint8)
    uniform, gaussian = made("uniform noise", large), made("Gaussian noise", large)
    assert abs(uniform.mean() - 127.5) < 1
    assert abs(uniform.std() - 73.9) < 1
    assert abs(gaussian.mean() - 128) < 1
    assert 55 < gaussian.std() < 65


def test_a_constant_image_has_one_colour_and_images_differ() -> None:
    constant = made("constant colours")
    assert (constant == constant[:, :1, :1]).all()
    assert len(np.unique(constant[:, 0, 0], axis=0)) > 10


def test_shuffled_pixels_keep_the_colours_of_each_image() -> None:
    shuffled = made("shuffled pixels")
    assert (shuffled != IMAGES).any()
    for one, other in zip(shuffled, IMAGES, strict=True):
        kept, had = (np.unique(image.reshape(-1, 3), axis=0) for image in (one, other))
        np.testing.assert_array_equal(kept, had)


def test_shuffled_patches_move_whole_cells_and_leave_the_rest() -> None:
    numbered = np.arange(8 * 8, dtype=np.uint8).reshape(1, 8, 8, 1)
    shuffled = made("shuffled patches", numbered)[0, ..., 0]
    assert sorted(shuffled.ravel().tolist()) == list(range(64))
    for row in range(0, 8, 2):
        for column in range(0, 8, 2):
            patch = shuffled[row : row + 2, column : column + 2].astype(int)
            np.testing.assert_array_equal(patch - patch[0, 0], [[0, 1], [8, 9]])
    np.testing.assert_array_equal(made("shuffled patches")[:, 8:], IMAGES[:, 8:])


def test_changed_images_keep_what_they_promise() -> None:
    np.testing.assert_array_equal(made("inverted"), 255 - IMAGES)
    low, blurred = made("low contrast").astype(float), made("heavy blur").astype(float)
    assert abs(low.std(axis=(1, 2)) / IMAGES.std(axis=(1, 2)) - 0.15).max() < 0.02
    assert np.abs(low.mean(axis=(1, 2)) - IMAGES.mean(axis=(1, 2))).max() < 0.5
    assert blurred.std(axis=(1, 2)).max() < 0.6 * IMAGES.std(axis=(1, 2)).min()
    flat: NDArray[np.uint8] = np.full((1, 9, 13, 3), 77, np.uint8)
    np.testing.assert_array_equal(made("heavy blur", flat), flat)


def test_a_warning_names_the_kind_the_blind_detectors_and_the_remedy() -> None:
    shares = {"uniform noise": 0.02, "Gaussian noise": 0.5, "constant colours": 1.0, "inverted": 0.0}
    assert find_blind(shares) == ["uniform noise"]
    surprisals = np.array([[5.0, 0.1], [4.0, 0.2], [6.0, 0.0]])
    names = ("entropy", "layout_distance")
    text = describe_blindness("uniform noise", 0.02, surprisals, names, ["contrast_distance"])
    assert text.startswith(
        "only 2% of images of uniform noise would be flagged: their values of layout_distance are common"
    )
    assert "contrast_distance is used too" in text
    unusual = describe_blindness("uniform noise", 0.02, surprisals + 3, names, [])
    assert "their values of entropy and layout_distance are not unusual enough" in unusual
    assert "more reference rows" in describe_blindness("uniform noise", 0.02, surprisals, names, [])
