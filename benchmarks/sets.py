"""Image sets for measurements of detection: MNIST, other public sets, and sets derived from MNIST.

In: DATA, folders of Parquet shards (see CONTRIBUTING). Out: for each set a folder of shards.

There are two separate groups. Defaults are chosen on the `CHOOSING` sets, which are derived here and not reported.
The `REPORTED` sets are used for reported measurements only.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from screen.demo import decode_images, write_shards

Images = NDArray[np.uint8]

_MADE_ROWS = 2000
_SEED = 11


def _each(images: Images, change: Callable[[Image.Image], Image.Image]) -> Images:
    return np.stack([np.asarray(change(Image.fromarray(image[..., 0]))) for image in images])[..., np.newaxis]


def _shrink(image: Image.Image) -> Image.Image:
    small = Image.new("L", image.size)
    small.paste(image.resize((14, 14), Image.Resampling.BILINEAR), (7, 7))
    return small


def _salt(images: Images, rng: np.random.Generator) -> Images:
    salted: Images = np.where(rng.random(images.shape) < 0.15, rng.integers(0, 2, images.shape) * 255, images)
    return salted.astype(np.uint8)


def _shuffle(images: Images, rng: np.random.Generator) -> Images:
    order = rng.permutation(784)
    return images.reshape(-1, 784)[:, order].reshape(images.shape)


def _cover(images: Images, rng: np.random.Generator) -> Images:
    covered = images.copy()
    covered[:, 14:] = 0
    return covered


def _mosaic(images: Images, rng: np.random.Generator) -> Images:
    """Images whose four quarters come from different digits."""
    sources = [images[rng.permutation(len(images))] for _ in range(4)]
    upper = np.concatenate([sources[0][:, :14, :14], sources[1][:, :14, 14:]], axis=2)
    lower = np.concatenate([sources[2][:, 14:, :14], sources[3][:, 14:, 14:]], axis=2)
    return np.concatenate([upper, lower], axis=1)


CHOOSING: dict[str, Callable[[Images, np.random.Generator], Images]] = {
    "blurred": lambda images, rng: _each(images, lambda image: image.filter(ImageFilter.GaussianBlur(2))),
    "covered": _cover,
    "flipped": lambda images, rng: images[:, ::-1],
    "gaussian noise": lambda images, rng: np.clip(rng.normal(128, 64, images.shape), 0, 255).astype(np.uint8),
    "mosaic": _mosaic,
    "salt and pepper": _salt,
    "shrunk": lambda images, rng: _each(images, _shrink),
    "shuffled": _shuffle,
    "sparse": lambda images, rng: ((rng.random(images.shape) < 0.1) * 255).astype(np.uint8),
}
"""Functions that change test digits, or replace them, by the name of the set."""

REPORTED = ("noise", "rotated", "inverted", "notMNIST", "Fashion-MNIST", "CIFAR-10 grey")
"""Names of the sets with reported measurements."""

_GIVEN = {"notMNIST": "notmnist", "Fashion-MNIST": "fashion_mnist", "CIFAR-10 grey": "cifar10_gray28"}


def read_folder(folder: Path) -> tuple[Images, NDArray[np.int64]]:
    """Images `[N, 28, 28, 1]` and labels `[N]` of all shards of a folder."""
    parts = [decode_images(pq.read_table(file)) for file in sorted(folder.glob("*.parquet"))]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return images, labels


def make_sets(data: Path, work: Path) -> dict[str, Path]:
    """Folder of shards of every set, by name; derived sets are written only once."""
    folders = {name: data / folder for name, folder in _GIVEN.items()}
    made = {name: work / "sets" / name.replace(" ", "-") for name in (*CHOOSING, *REPORTED) if name not in folders}
    if not all((folder / "done").exists() for folder in made.values()):
        digits, labels = read_folder(data / "mnist" / "test")
        for name, folder in made.items():
            rng = np.random.default_rng([_SEED, *name.encode()])
            if name == "noise":
                images = rng.integers(0, 256, digits.shape, dtype=np.uint8)
            elif name == "rotated":
                images = np.rot90(digits, axes=(1, 2))
            elif name == "inverted":
                images = 255 - digits
            else:
                images = CHOOSING[name](digits[:_MADE_ROWS], rng)
            write_shards(folder, images, labels[: len(images)], name.replace(" ", "-"))
            (folder / "done").touch()
    return folders | made
