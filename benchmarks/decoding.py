"""Compare JPEG decoders with Pillow, and threads with processes.

For each decoder, the script measures whether the pixels equal those of Pillow, and the processor time per image, alone
and with the resize. For threads and processes, the script measures images per second of wall time, so that no other
program may run. The measurement takes about two minutes.

In: photographs of `imagenet_sample_jpeg` in the data folder, cropped or tiled to the measured sizes. Out:
`results/decoding.json`. The other decoders are not dependencies of oodscreen: install simplejpeg, PyTurboJPEG,
opencv-python-headless and pyvips[binary] in a separate environment. A decoder that is not installed is left out.

    python -m benchmarks.decoding --turbojpeg PATH/libturbojpeg.so
"""

from __future__ import annotations

import argparse
import importlib
import io
import itertools
import json
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, features

from export.contract.inputs import Resize
from screen.cores import usable_cores
from screen.input.image_file import open_image
from screen.input.resize import resize_image, scale_jpeg

RESULTS = Path(__file__).parent / "results" / "decoding.json"
SIZES = {"500 x 375": (375, 500, 100), "4,000 x 3,000": (3000, 4000, 6)}
"""Height and width of the measured images in pixels, and their number."""

_INPUT = 224
_REPEATS = 5
_SMALL = "PNG of 32 x 32"
_SMALL_IMAGES, _SMALL_PER_TASK = 4096, 512
_MAX_PIXELS = 2**26

Pixels = NDArray[np.uint8]
Decode = Callable[[bytes], Pixels]


def decode_pillow(data: bytes) -> Pixels:
    """RGB pixels as decoded by Pillow, with the settings of a run."""
    return np.asarray(open_image(data, _MAX_PIXELS).convert("RGB"))


def find_decoders(turbojpeg: str | None) -> dict[str, tuple[Decode, str]]:
    """Function and version of each installed decoder, by the name of the decoder."""
    version = str(features.version_feature("libjpeg_turbo"))
    found: dict[str, tuple[Decode, str]] = {"Pillow": (decode_pillow, f"libjpeg-turbo {version}")}
    load: Callable[[str], Any] = importlib.import_module
    try:
        found["simplejpeg"] = load("simplejpeg").decode_jpeg, "libjpeg-turbo in its wheel"
    except ImportError:
        print("simplejpeg is not installed")
    try:
        module = load("turbojpeg")
        library = module.TurboJPEG(turbojpeg)
        decode = partial(library.decode, pixel_format=module.TJPF_RGB)
        found["PyTurboJPEG"] = decode, "libjpeg-turbo of --turbojpeg"
    except (ImportError, RuntimeError, OSError) as error:
        print(f"PyTurboJPEG is left out: {error}")
    try:
        cv2 = load("cv2")
        cv2.setNumThreads(1)
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        lines = [line for line in cv2.getBuildInformation().splitlines() if " JPEG:" in line]
        found["OpenCV"] = (
            lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), flags),
            lines[0].split(":")[1].strip(),
        )
    except ImportError:
        print("OpenCV is not installed")
    try:
        found["pyvips"] = partial(_decode_vips, load("pyvips")), "libjpeg-turbo in its wheel"
    except (ImportError, OSError) as error:
        print(f"pyvips is left out: {error}")
    return found


def _decode_vips(pyvips: Any, data: bytes) -> Pixels:
    pixels: Pixels = pyvips.Image.jpegload_buffer(data).numpy()
    return np.repeat(pixels.reshape(*pixels.shape[:2], -1), 3, axis=2) if pixels.ndim == 2 else pixels


def photographs(data: Path) -> list[Pixels]:
    """Photographs `[H, W, 3]` of at least 500 x 375 pixels."""
    table = pq.read_table(next((data / "imagenet_sample_jpeg").glob("*.parquet")), columns=["image"])
    images = [Image.open(io.BytesIO(row["bytes"])) for row in table["image"].to_pylist()]
    return [np.asarray(image.convert("RGB")) for image in images if image.width >= 500 and image.height >= 375]


def encode(pixels: Pixels, mode: str = "RGB", **options: Any) -> bytes:
    """JPEG file of pixels `[H, W, 3]` that are first converted to Pillow's mode `mode`."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def fit(pixels: Pixels, height: int, width: int) -> Pixels:
    """A crop of `height` x `width` pixels; a smaller photograph is repeated, with noise."""
    repeats = (-(-height // pixels.shape[0]), -(-width // pixels.shape[1]), 1)
    if max(repeats) == 1:
        return pixels[:height, :width]
    noise = np.random.default_rng(0).integers(-6, 7, (height, width, 3), dtype=np.int16)
    noisy: Pixels = np.clip(np.tile(pixels, repeats)[:height, :width] + noise, 0, 255).astype(np.uint8)
    return noisy


def made_files(images: Sequence[Pixels]) -> dict[str, list[bytes]]:
    """JPEG files of crops of random sizes, by kind of JPEG."""
    rng = np.random.default_rng(1)
    exif = Image.Exif()
    exif[274] = 6
    classes: dict[str, list[bytes]] = {}
    qualities = (5, 30, 60, 75, 85, 90, 92, 95)
    for sampling, progressive in itertools.product(("4:4:4", "4:2:2", "4:2:0"), (False, True)):
        name = f"{'progressive' if progressive else 'baseline'} {sampling}"
        for image, quality in itertools.product(images[:20], qualities):
            height, width = rng.integers(32, 200, 2)
            options: dict[str, Any] = {"subsampling": sampling, "progressive": progressive, "quality": quality}
            classes.setdefault(name, []).append(encode(image[:height, :width], **options))
    for image, quality in itertools.product(images[:10], qualities):
        crop = image[: rng.integers(32, 200), : rng.integers(32, 200)]
        classes.setdefault("grey", []).append(encode(crop, "L", quality=quality))
        classes.setdefault("CMYK", []).append(encode(crop, "CMYK", quality=quality))
        classes.setdefault("EXIF orientation", []).append(encode(crop, quality=quality, exif=exif))
        classes.setdefault("ICC profile", []).append(encode(crop, quality=quality, icc_profile=b"profile" * 40))
        whole = encode(image[:200, :200], quality=quality)
        classes.setdefault("truncated", []).append(whole[: len(whole) * 2 // 3])
    return classes


def outcome(decode: Decode, data: bytes) -> Pixels | None:
    """The decoded pixels; None if the decoder refuses the file."""
    try:
        return decode(data)
    except Exception:  # noqa: BLE001  each decoder raises different errors
        return None


def same(one: Pixels | None, other: Pixels | None) -> bool:
    """Whether two decoders give equal pixels, or both refuse the file."""
    return one is other if one is None or other is None else np.array_equal(one, other)


def measure(work: Sequence[Callable[[bytes], object]], files: Sequence[bytes]) -> list[float]:
    """Processor time of each function in ms per image: the median of interleaved repeats."""
    times: list[list[float]] = [[] for _ in work]
    for _ in range(_REPEATS):
        for function, taken in zip(work, times, strict=True):
            start = _cpu()
            for data in files:
                function(data)
            taken.append((_cpu() - start) / len(files) * 1e3)
    return [statistics.median(taken) for taken in times]


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def resized(decode: Decode, how: Resize, data: bytes) -> Pixels:
    """Pixels of a file after decoding and resizing."""
    return resize_image(Image.fromarray(decode(data)), how, _INPUT, _INPUT)


def resized_by_run(how: Resize, data: bytes) -> Pixels:
    """Pixels of a file after decoding and resizing as in a run."""
    image: Any = open_image(data, _MAX_PIXELS)
    if how.scaled:
        scale_jpeg(image, how, _INPUT, _INPUT)
    return resize_image(image.convert("RGB"), how, _INPUT, _INPUT)


def decode_many(files: Sequence[bytes]) -> Pixels:
    """Decoded pixels of images that have the input size of the model, for a worker process."""
    return np.stack([np.asarray(open_image(data, _MAX_PIXELS)) for data in files])


def resize_many(files: Sequence[bytes]) -> Pixels:
    """Decoded pixels of images that are resized with `bilinear`, for a worker process."""
    return np.stack([resized_by_run(Resize("bilinear"), data) for data in files])


def compare_pools(work: Callable[[Sequence[bytes]], Pixels], files: Sequence[bytes], per_task: int) -> dict[str, float]:
    """Images per second of wall time with threads and with processes: the best of interleaved repeats.

    Args:
        work: function that decodes the images of one task.
        files: encoded images.
        per_task: number of images of a task.
    """
    tasks = [files[start : start + per_task] for start in range(0, len(files), per_task)]
    with (
        ThreadPoolExecutor(1) as one,
        ThreadPoolExecutor(2) as two,
        ProcessPoolExecutor(2, get_context("spawn")) as processes,
    ):
        pools: dict[str, Executor] = {"1 thread": one, "2 threads": two, "2 processes": processes}
        best = dict.fromkeys(pools, 0.0)
        for pool in pools.values():  # starts threads and processes
            list(pool.map(work, tasks))
        for _ in range(_REPEATS):
            for name, pool in pools.items():
                start = time.perf_counter()
                list(pool.map(work, tasks))
                best[name] = max(best[name], len(files) / (time.perf_counter() - start))
    return best


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("OODSCREEN_DATA", "../shared/data")))
    parser.add_argument("--turbojpeg", help="path of libturbojpeg for PyTurboJPEG")
    given = parser.parse_args()
    decoders = find_decoders(given.turbojpeg)
    images = photographs(given.data)
    classes = made_files(images)
    wanted = {name: [outcome(decode_pillow, data) for data in files] for name, files in classes.items()}
    equal = {
        decoder: {
            name: sum(same(outcome(decode, data), one) for data, one in zip(files, wanted[name], strict=True))
            for name, files in classes.items()
        }
        for decoder, (decode, _) in decoders.items()
    }
    bilinear = Resize("bilinear")
    times: dict[str, Any] = {}
    methods: dict[str, Any] = {}
    speeds: dict[str, dict[str, float]] = {}
    for size, (height, width, count) in SIZES.items():
        chosen = itertools.islice(itertools.cycle(images), count)
        files = [encode(fit(image, height, width), quality=90) for image in chosen]
        work: list[Callable[[bytes], object]] = [decode for decode, _ in decoders.values()]
        work += [partial(resized, decode, bilinear) for decode, _ in decoders.values()]
        taken = measure(work, files)
        times[size] = {
            name: {"decode": taken[index], "resize": taken[index + len(decoders)]}
            for index, name in enumerate(decoders)
        }
        texts = ("bilinear", "bilinear:scaled", "pil-bilinear", "pil-bilinear:scaled")
        runs = [partial(resized_by_run, Resize.parse(text)) for text in texts]
        methods[size] = dict(zip(texts, measure(runs, files), strict=True))
        speeds[size] = compare_pools(resize_many, files, max(1, count // 20))
    small = []
    for image in itertools.islice(itertools.cycle(images), _SMALL_IMAGES):
        buffer = io.BytesIO()
        Image.fromarray(image[:32, :32]).save(buffer, "PNG")
        small.append(buffer.getvalue())
    speeds[_SMALL] = compare_pools(decode_many, small, _SMALL_PER_TASK)
    found = {
        "versions": {name: text for name, (_, text) in decoders.items()},
        "files": {name: len(files) for name, files in classes.items()},
        "equal": equal,
        "ms": times,
        "ms_of_a_run": methods,
        "images": {size: count for size, (_, _, count) in SIZES.items()},
        "cores": usable_cores(),
        "images_per_second": speeds,
    }
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
