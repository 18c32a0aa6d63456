"""The colour image sets: the effect of each change, and the sets that share no images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.colour_sets import (
    CHOOSING,
    CHOOSING_NAMES,
    CONTROL,
    REPORTED,
    SHIFTS,
    SIZE,
    SYNTHETIC,
    Images,
    compress,
    make_colour_sets,
    read_rgb,
    reduce_contrast,
    shift_name,
)
from screen.demo import write_shards

Change = Callable[[Images, np.random.Generator], Images]


@pytest.fixture(scope="module")
def images() -> Images:
    """Smooth images with an edge, so that every change has an effect."""
    y, x = np.mgrid[:SIZE, :SIZE]
    one = np.stack([4 * x + 60, 4 * y + 60, np.where(x > y, 200, 60)], axis=-1)
    return np.stack([np.roll(one, row, axis=1) for row in range(8)]).astype(np.uint8)


@pytest.mark.parametrize("change", [*CHOOSING.values(), *SYNTHETIC.values()], ids=[*CHOOSING, *SYNTHETIC])
def test_a_set_has_other_images_of_the_same_shape_and_is_made_again_alike(change: Change, images: Images) -> None:
    made = change(images, np.random.default_rng(1))
    assert made.shape == images.shape
    assert made.dtype == np.uint8
    assert (made != images).any(axis=(1, 2, 3)).all()
    assert (change(images, np.random.default_rng(1)) == made).all()


@pytest.mark.parametrize("kind", SHIFTS)
def test_a_stronger_shift_changes_the_images_more(kind: str, images: Images) -> None:
    shift = SHIFTS[kind]
    changes = [
        np.abs(shift.change(images, strength, np.random.default_rng(1)).astype(float) - images).mean()
        for strength in shift.strengths
    ]
    assert len(changes) == 5
    assert changes == sorted(changes)
    assert changes[0] > 0


def test_brighter_pixels_saturate_and_do_not_overflow(images: Images) -> None:
    brighter = SHIFTS["brightness"].change(images, 70, np.random.default_rng(1))
    assert (brighter >= images).all()
    assert brighter.max() == 255


@pytest.mark.parametrize("name", ["shuffled pixels", "shuffled patches"])
def test_a_shuffled_image_has_the_pixels_of_its_original(name: str, images: Images) -> None:
    shuffled = SYNTHETIC[name](images, np.random.default_rng(1))
    for one, other in zip(images.reshape(8, -1, 3).tolist(), shuffled.reshape(8, -1, 3).tolist(), strict=True):
        assert sorted(one) == sorted(other)


def test_shuffled_patches_stay_whole(images: Images) -> None:
    def patches(image: Images) -> set[bytes]:
        return {image[y : y + 8, x : x + 8].tobytes() for y in range(0, SIZE, 8) for x in range(0, SIZE, 8)}

    shuffled = SYNTHETIC["shuffled patches"](images, np.random.default_rng(1))
    assert patches(shuffled[0]) == patches(images[0])


def test_contrast_scales_the_deviations_from_the_mean_colour(images: Images) -> None:
    low = reduce_contrast(images, 0.5).astype(float)
    assert low.std(axis=(1, 2)) == pytest.approx(0.5 * images.std(axis=(1, 2)), rel=0.02)
    assert low.mean(axis=(1, 2)) == pytest.approx(images.mean(axis=(1, 2)), abs=1)


def test_brown_noise_has_more_power_at_low_frequencies_than_pink_noise(images: Images) -> None:
    shares = {}
    for name in ("pink noise", "brown noise"):
        grey = CHOOSING[name](images, np.random.default_rng(1))[..., 0].astype(float)
        power = np.abs(np.fft.fft2(grey - grey.mean(axis=(1, 2), keepdims=True))) ** 2
        radius = np.hypot(*np.meshgrid(*[np.fft.fftfreq(SIZE)] * 2))
        shares[name] = power[:, radius < 0.1].sum() / power.sum()
    assert shares["pink noise"] + 0.2 < shares["brown noise"]


def test_colour_images_are_read_as_they_were_written(images: Images, tmp_path: Path) -> None:
    write_shards(tmp_path, images, np.arange(8), "colour")
    read, labels = read_rgb(tmp_path)
    assert (read == images).all()
    assert labels.tolist() == list(range(8))
    assert len(read_rgb(tmp_path, 3)[0]) == 3


def test_sets_of_different_purposes_are_different() -> None:
    reported = {name for names in REPORTED.values() for name in names}
    shifts = {shift_name(kind, strength) for kind in SHIFTS for strength in range(1, 6)}
    groups = [reported, set(CONTROL), shifts, set(CHOOSING_NAMES), set(SYNTHETIC)]
    assert len(set.union(*groups)) == sum(map(len, groups))


def test_all_sets_are_made_from_the_shards(data: Path, tmp_path: Path) -> None:
    sets = make_colour_sets(data, tmp_path, rows=4)
    rows = {name: len(read_rgb(folder)[0]) for name, folder in sets.items()}
    whole = {name for names in REPORTED.values() for name in names}
    assert rows == {name: 20 if name in ("held", "test") else 4 if name in whole else 2 for name in sets}
    test, labels = read_rgb(sets["test"])
    compressed, same_labels = read_rgb(sets[shift_name("JPEG", 1)])
    assert (compressed == compress(test[:2], SHIFTS["JPEG"].strengths[0])).all()
    assert (same_labels == labels[:2]).all()
    inverted = 255 - read_rgb(sets["inverted"])[0]
    assert (inverted == read_rgb(sets["held"])[0][:2]).all()
