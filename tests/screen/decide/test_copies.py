from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from screen.decide.copies import CELLS, NearCopies, describe_images
from screen.demo import read_images


def compress(images: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """The images after compression as JPEG."""
    changed = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image.squeeze()).save(buffer, "JPEG", quality=quality)
        changed.append(np.asarray(Image.open(buffer)).reshape(image.shape))
    return np.stack(changed)


def shift(images: NDArray[np.uint8], levels: int) -> NDArray[np.uint8]:
    changed: NDArray[np.uint8] = np.clip(images.astype(int) + levels, 0, 255).astype(np.uint8)
    return changed


@pytest.fixture(scope="module")
def photographs() -> NDArray[np.uint8]:
    """Colour images with structure of several sizes, `[400, 32, 32, 3]`."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 160, (400, 6, 6, 1)) + rng.integers(0, 32, (400, 6, 6, 3))
    coarse = coarse.astype(np.uint8)
    sized = np.stack([np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BICUBIC)) for one in coarse])
    noise = rng.integers(0, 32, (400, 32, 32, 1)).astype(np.uint8)
    made: NDArray[np.uint8] = sized // 4 * 3 + noise
    return made


@pytest.mark.parametrize("kind", ["digits", "photographs"])
def test_compressed_and_brighter_images_are_near_copies(kind: str, photographs: NDArray[np.uint8]) -> None:
    images = photographs if kind == "photographs" else read_images("train")[0][:400]
    copies = NearCopies(describe_images(images), images.shape[-1])
    for changed in (compress(images, 90), shift(images, 1), shift(images, -1)):
        assert copies.find(describe_images(changed)).mean() >= 0.99


def test_different_images_are_no_near_copies(photographs: NDArray[np.uint8]) -> None:
    digits = describe_images(read_images("train")[0])
    assert not NearCopies(digits, 1).find(describe_images(read_images("test")[0])).any()
    described = describe_images(photographs)
    assert not NearCopies(described[:200], 3).find(described[200:]).any()


def test_images_of_low_contrast_are_near_copies_only_if_they_show_the_same() -> None:
    rng = np.random.default_rng(1)
    dark = rng.integers(0, 12, (40, 64, 64, 1)).astype(np.uint8)
    dark = np.repeat(np.repeat(dark[:, ::8, ::8], 8, axis=1), 8, axis=2)
    described = describe_images(dark)
    assert not NearCopies(described[:20], 1).find(described[20:]).any()
    flat = np.arange(100, 110, dtype=np.uint8)[:, None, None, None] * np.ones((1, 64, 64, 1), np.uint8)
    assert not NearCopies(describe_images(flat[:5]), 1).find(describe_images(flat[5:])).any()


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (5, 40, 3), (1, 1, 1), (33, 17, 3)])
def test_a_descriptor_consists_of_the_means_of_cells(shape: tuple[int, int, int]) -> None:
    images = np.random.default_rng(2).integers(0, 256, (3, *shape)).astype(np.uint8)
    described = describe_images(images)
    rows, columns = (min(CELLS, size) for size in shape[:2])
    assert described.shape == (3, rows * columns * shape[2])
    edges = [
        np.linspace(0, size, count + 1).round().astype(int)
        for size, count in zip(shape[:2], (rows, columns), strict=True)
    ]
    cell = images[1, edges[0][-2] : edges[0][-1], edges[1][0] : edges[1][1], 0].mean()
    np.testing.assert_allclose(described[1].reshape(rows, columns, shape[2])[-1, 0, 0], cell, rtol=1e-5)
    assert NearCopies(described, shape[2]).find(described).all() or shape == (1, 1, 1)
