"""Colour image sets of 32 x 32 pixels for measurements of detection with CIFAR-10 networks.

In: DATA, folders of Parquet shards (see CONTRIBUTING). Out: for each set a folder of shards.

There are five groups of sets. The groups `REPORTED`, `CONTROL` and `SHIFTS` are used for reported measurements only.
Defaults are chosen on the `CHOOSING` sets, which are not reported. A logistic regression is fitted on the `SYNTHETIC`
sets, which are neither reported nor used to choose defaults. The `CHOOSING` and `SYNTHETIC` sets are derived from
held-out rows, and the other groups from the in-distribution rows that are reported.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from screen.demo import write_shards

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Generator = np.random.Generator

SIZE = 32
"""Height and width of the images, in pixels."""

REPORTED = {
    "near": ("Tiny ImageNet",),
    "far": ("textures", "MNIST", "notMNIST", "Fashion-MNIST"),
    "noise": ("uniform noise", "Gaussian noise"),
    "constants": ("constant colours",),
}
"""Names of the sets with reported measurements, by their kind."""

CONTROL = ("control in-distribution", "control near")
"""In-distribution rows and Tiny ImageNet, blurred and compressed in the same way, so that the files differ less."""

_GIVEN = {
    "Tiny ImageNet": "tiny_imagenet_32",
    "textures": "textures_32",
    "MNIST": "mnist/test",
    "notMNIST": "notmnist",
    "Fashion-MNIST": "fashion_mnist",
}
_SEED = 11
_CROPS = "photograph crops"


def _each(images: Images, change: Callable[[Image.Image], Image.Image]) -> Images:
    return np.stack([np.asarray(change(Image.fromarray(image)).convert("RGB")) for image in images])


def _clip(values: NDArray[np.float64]) -> Images:
    clipped: Images = np.clip(values, 0, 255).astype(np.uint8)
    return clipped


def blur(images: Images, sigma: float) -> Images:
    """Images blurred with a Gaussian of standard deviation sigma, in pixels."""
    return _each(images, lambda image: image.filter(ImageFilter.GaussianBlur(sigma)))


def reduce_contrast(images: Images, factor: float) -> Images:
    """Images whose deviations from their mean colour are multiplied by a factor."""
    mean = images.mean(axis=(1, 2), keepdims=True)
    return _clip(mean + factor * (images - mean))


def compress(images: Images, quality: float) -> Images:
    """Images after JPEG compression at a quality of 1 to 95."""

    def change(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(quality))
        return Image.open(buffer)

    return _each(images, change)


@dataclass(frozen=True)
class Shift:
    """A covariate shift: a change of the images that does not change their classes.

    Attributes:
        unit: meaning of a strength.
        strengths: five values, from weak to strong.
        change: function of images, strength and random generator.
    """

    unit: str
    strengths: tuple[float, ...]
    change: Callable[[Images, float, Generator], Images]


SHIFTS = {
    "blur": Shift("sigma in pixels", (0.5, 0.8, 1.2, 1.6, 2.4), lambda images, sigma, rng: blur(images, sigma)),
    "contrast": Shift("factor", (0.7, 0.5, 0.35, 0.2, 0.1), lambda images, one, rng: reduce_contrast(images, one)),
    # The files have quality 75. Quality 50 has quantization steps of exactly twice the size, and costs more accuracy
    # than quality 30.
    "JPEG": Shift("quality", (60, 30, 15, 8, 5), lambda images, quality, rng: compress(images, quality)),
    "brightness": Shift(
        "added to each pixel", (20, 45, 70, 95, 120), lambda images, one, rng: _clip(images.astype(float) + one)
    ),
    "noise": Shift(
        "standard deviation of a pixel",
        (5, 10, 20, 35, 50),
        lambda images, spread, rng: _clip(images + rng.normal(0, spread, images.shape)),
    ),
}
"""Changes of in-distribution images at five strengths, by name."""


def shift_name(kind: str, strength: int) -> str:
    """Name of the set of a shift in `SHIFTS` at a strength of 1 to 5."""
    return f"{kind} {strength}"


def _gratings(images: Images, rng: Generator) -> Images:
    """Sinusoidal gratings of random frequency, direction and phase, between two random colours."""
    rows = (len(images), 1, 1, 1)
    frequency, angle, phase = (rng.uniform(low, high, rows) for low, high in ((0.15, 1.5), (0, np.pi), (0, 2 * np.pi)))
    y, x = np.mgrid[:SIZE, :SIZE][..., np.newaxis]
    wave = np.sin(frequency * (np.cos(angle) * x + np.sin(angle) * y) + phase)
    first, second = rng.uniform(0, 255, (2, len(images), 1, 1, 3))
    return _clip(first + (second - first) * (wave + 1) / 2)


def _power_law_noise(images: Images, rng: Generator, slope: float) -> Images:
    """Noise whose power falls with frequency to the power of -slope, in each channel."""
    squared = np.fft.fftfreq(SIZE)[:, np.newaxis] ** 2 + np.fft.fftfreq(SIZE) ** 2
    squared[0, 0] = 1
    white = np.fft.fft2(rng.normal(size=(len(images), 3, SIZE, SIZE)))
    noise = np.fft.ifft2(white / squared ** (slope / 4)).real
    noise -= noise.mean(axis=(2, 3), keepdims=True)
    return _clip(128 + 50 * (noise / noise.std(axis=(2, 3), keepdims=True)).transpose(0, 2, 3, 1))


def _shapes(images: Images, rng: Generator) -> Images:
    """One to four ellipses and rectangles of random colours on a random colour."""
    drawn = []
    for _ in images:
        canvas = Image.new("RGB", (SIZE, SIZE), tuple(rng.integers(0, 256, 3).tolist()))
        draw = ImageDraw.Draw(canvas)
        for _ in range(rng.integers(1, 5)):
            left, right, top, bottom = np.sort(rng.integers(0, SIZE, (2, 2)), axis=1).ravel().tolist()
            shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
            shape((left, top, right, bottom), fill=tuple(rng.integers(0, 256, 3).tolist()))
        drawn.append(np.asarray(canvas))
    return np.stack(drawn)


def _mosaic(images: Images, rng: Generator) -> Images:
    """Images whose four quarters come from different images."""
    half = SIZE // 2
    mosaic = images.copy()
    for rows in (slice(0, half), slice(half, SIZE)):
        for columns in (slice(0, half), slice(half, SIZE)):
            mosaic[:, rows, columns] = images[rng.permutation(len(images))][:, rows, columns]
    return mosaic


def _salt(images: Images, rng: Generator) -> Images:
    """Images in which 15 % of the pixels are black or white."""
    pixels = (*images.shape[:3], 1)
    salted: Images = np.where(rng.random(pixels) < 0.15, 255 * rng.integers(0, 2, pixels, dtype=np.uint8), images)
    return salted


def _blend(images: Images, rng: Generator) -> Images:
    """Images that are the mean of two images."""
    return ((images.astype(np.uint16) + images[::-1]) // 2).astype(np.uint8)


CHOOSING: dict[str, Callable[[Images, Generator], Images]] = {
    "gratings": _gratings,
    "pink noise": lambda images, rng: _power_law_noise(images, rng, 1.0),
    "brown noise": lambda images, rng: _power_law_noise(images, rng, 2.2),
    "shapes": _shapes,
    "mosaic": _mosaic,
    "salt and pepper": _salt,
    "upside down": lambda images, rng: images[:, ::-1],
    "blended": _blend,
    "posterized": lambda images, rng: images // 128 * 255,
    "edges": lambda images, rng: _each(images, lambda image: image.convert("L").filter(ImageFilter.FIND_EDGES)),
}
"""Functions that change held-out images, or replace them, by the name of the set."""

CHOOSING_NAMES = (_CROPS, *CHOOSING)
"""Names of the sets on which defaults are chosen: `CHOOSING`, and crops of photographs."""


def _shuffle_patches(images: Images, rng: Generator, side: int) -> Images:
    """Images cut into square patches, which are put together in one random order per image."""
    count = SIZE // side
    patches = images.reshape(len(images), count, side, count, side, 3).swapaxes(2, 3)
    flat = patches.reshape(len(images), count * count, side, side, 3)
    order = rng.permuted(np.tile(np.arange(count * count), (len(images), 1)), axis=1)
    shuffled = np.take_along_axis(flat, order[:, :, None, None, None], axis=1)
    return shuffled.reshape(patches.shape).swapaxes(2, 3).reshape(images.shape)


SYNTHETIC: dict[str, Callable[[Images, Generator], Images]] = {
    "shuffled pixels": lambda images, rng: _shuffle_patches(images, rng, 1),
    "shuffled patches": lambda images, rng: _shuffle_patches(images, rng, 8),
    "inverted": lambda images, rng: 255 - images,
    "very low contrast": lambda images, rng: reduce_contrast(images, 0.15),
    "heavy blur": lambda images, rng: blur(images, 4),
}
"""Functions that make synthetic outliers from held-out images, by the name of the set."""


_MADE: dict[str, Callable[[Images, Generator], Images]] = {
    "uniform noise": lambda images, rng: rng.integers(0, 256, images.shape, dtype=np.uint8),
    "Gaussian noise": lambda images, rng: _clip(rng.normal(128, 64, images.shape)),
    "constant colours": lambda images, rng: (
        np.zeros_like(images) + rng.integers(0, 256, (len(images), 1, 1, 3), dtype=np.uint8)
    ),
}
"""Functions that make the reported sets that have no files, with one image for each given image."""


def read_rgb(folder: Path, rows: int | None = None) -> tuple[Images, Labels]:
    """Images `[N, 32, 32, 3]` and labels `[N]` of the first `rows` rows of a folder; None for all rows."""
    images: list[Images] = []
    labels: list[int] = []
    for file in sorted(folder.glob("*.parquet")):
        table = pq.read_table(file, columns=["image", "label"])
        for row in table.slice(0, None if rows is None else rows - len(images)).to_pylist():
            image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
            if image.size != (SIZE, SIZE):
                image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
            images.append(np.asarray(image))
            labels.append(row["label"])
    return np.stack(images), np.array(labels, np.int64)


def _crops(folder: Path, rows: int, rng: Generator) -> Images:
    """Square crops of photographs, of 60 to 100 % of the shorter side, in the size of the sets."""
    tables = [pq.read_table(file, columns=["image"]) for file in sorted(folder.glob("*.parquet"))]
    encoded = [image["bytes"] for table in tables for image in table["image"].to_pylist()]
    crops = []
    for row in range(rows):
        photograph = Image.open(io.BytesIO(encoded[row % len(encoded)])).convert("RGB")
        side = int(min(photograph.size) * rng.uniform(0.6, 1))
        left, top = (int(rng.integers(0, length - side + 1)) for length in photograph.size)
        box = (left, top, left + side, top + side)
        crops.append(np.asarray(photograph.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box)))
    return np.stack(crops)


def slug(name: str) -> str:
    """Name of a set in the form of a file name."""
    return name.replace(" ", "-")


def make_colour_sets(data: Path, work: Path, rows: int) -> dict[str, Path]:
    """Folder of shards of every set, by name; each set is written only once.

    `held` and `test` are the first and the last rows of CIFAR-10's test set.

    Args:
        data: folder of the existing shards.
        work: folder of the written sets; their number of rows depends on `rows`.
        rows: maximum rows of a reported set; `held` and `test` have up to 5 times this number, other sets half of it.
    """
    shifts = [shift_name(kind, strength) for kind in SHIFTS for strength in range(1, 6)]
    names = ("held", "test", *_GIVEN, *_MADE, *CONTROL, *shifts, *CHOOSING_NAMES, *SYNTHETIC)
    folders = {name: work / slug(name) for name in names}
    waiting = {name: folder for name, folder in folders.items() if not (folder / "done").exists()}
    if not waiting:
        return folders
    images, labels = read_rgb(data / "cifar10_jpeg")
    (held, test), (held_labels, test_labels) = np.array_split(images, 2), np.array_split(labels, 2)
    for name, folder in waiting.items():
        made = _make(name, data, held, test, rows, np.random.default_rng([_SEED, *name.encode()]))
        known = {"held": held_labels, "test": test_labels, **dict.fromkeys(shifts, test_labels)}
        classes = known.get(name, np.full(len(made), -1))[: len(made)]
        write_shards(folder, made, classes, slug(name))
        (folder / "done").touch()
    return folders


def _make(name: str, data: Path, held: Images, test: Images, rows: int, rng: Generator) -> Images:
    """The images of one set, `[N, 32, 32, 3]`; see `make_colour_sets`."""
    if name in ("held", "test"):
        return (held if name == "held" else test)[: 5 * rows]
    if name in _GIVEN:
        return read_rgb(data / _GIVEN[name], rows)[0]
    if name in _MADE:
        return _MADE[name](test[:rows], rng)
    half = rows // 2
    if name in CONTROL:
        source = test[:half] if name == CONTROL[0] else read_rgb(data / _GIVEN["Tiny ImageNet"], half)[0]
        return compress(blur(source, 0.7), 75)
    if name == _CROPS:
        return _crops(data / "imagenet_sample_jpeg", half, rng)
    if name in CHOOSING:
        return CHOOSING[name](held[half:rows], rng)
    if name in SYNTHETIC:
        return SYNTHETIC[name](held[:half], rng)
    kind, strength = name.rsplit(" ", 1)
    shift = SHIFTS[kind]
    return shift.change(test[:half], shift.strengths[int(strength) - 1], rng)
