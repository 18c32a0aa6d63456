from __future__ import annotations

import io
import itertools
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image

from export.contract.inputs import Resize
from export.contract.metadata import ModelContract
from export.contract.reader import ExportedModel
from export.errors import Terminated
from screen.columns import STATUSES
from screen.input import image_file
from screen.input.decode import _SMALL_PIXELS, Decoder, ImageBatch, _PixelBudget
from screen.input.resize import resize_image
from screen.input.row_batch import RowBatch
from screen.run.stopping import StopRequest
from tests import hostile_images
from tests.conftest import IMAGE_TYPE, encode


def decode(
    contract: ModelContract,
    column: pa.Array,
    *,
    image_root: Path | None = None,
    max_pixels: int = 10**6,
    error: str = "",
) -> ImageBatch:
    ids = tuple(str(index) for index in range(len(column)))
    shard: Any = None
    piece = RowBatch(shard, 0, len(column), None if error else column, ids, pa.table({}), error, True)
    root = None if image_root is None else str(image_root)
    decoder = Decoder(contract, max_pixels=max_pixels, image_root=root, threads=2)
    try:
        batch = decoder.decode([piece])
    finally:
        decoder.close()
    assert len(batch.images) == batch.readable.sum() == len(column) - len(batch.failures)
    assert {status for status, _ in batch.failures.values()} <= set(STATUSES)
    return batch


@pytest.fixture
def contract(article: ExportedModel) -> ModelContract:
    return article.contract


def test_png_pixels_come_back_exactly_in_order(contract: ModelContract, digits: NDArray[np.uint8]) -> None:
    batch = decode(contract, pa.array([encode(image) for image in digits[:200]]))
    np.testing.assert_array_equal(batch.images, digits[:200])


@pytest.mark.parametrize(("size", "small"), [(28, True), (65, False)])
def test_small_images_and_large_ones_come_back_in_order_around_one_that_fails(
    contract: ModelContract, size: int, *, small: bool
) -> None:
    """Small images are decoded in one thread, others in several."""
    images = np.random.default_rng(0).integers(0, 256, (150, size, size, 1), dtype=np.uint8)
    encoded = [encode(image) for image in images]
    assert (size * size <= _SMALL_PIXELS) == small
    encoded[130] = encoded[130][:20]
    batch = decode(replace(contract, height=size, width=size), pa.array(encoded))
    assert batch.failures.keys() == {130}
    np.testing.assert_array_equal(batch.images, np.delete(images, 130, axis=0))


def test_every_column_type_gives_the_same_pixels(contract: ModelContract, digits: NDArray[np.uint8]) -> None:
    encoded = [encode(image) for image in digits[:5]]
    flat = digits[:5].reshape(5, 784)
    tensors = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.uint8(), [28, 28, 1]), pa.array(flat.tolist(), pa.list_(pa.uint8(), 784))
    )
    columns = [
        pa.array([{"bytes": data, "path": None} for data in encoded], IMAGE_TYPE),
        pa.array(encoded, pa.large_binary()),
        pa.array(flat.tolist(), pa.list_(pa.uint8(), 784)),
        pa.array(digits[:5, ..., 0].tolist(), pa.list_(pa.list_(pa.uint8(), 28), 28)),
        tensors,
    ]
    for column in columns:
        np.testing.assert_array_equal(decode(contract, column).images, digits[:5])
        np.testing.assert_array_equal(decode(contract, column.slice(2, 3)).images, digits[2:5])


def test_a_null_tensor_is_a_status_and_leaves_its_neighbours(
    contract: ModelContract, digits: NDArray[np.uint8]
) -> None:
    rows = [digits[0].ravel().tolist(), None, digits[1].ravel().tolist()]
    batch = decode(contract, pa.array(rows, pa.list_(pa.uint8(), 784)))
    assert batch.failures[1][0] == "null_image"
    np.testing.assert_array_equal(batch.images, digits[:2])


def test_a_null_within_a_tensor_is_a_status_and_no_pixel(contract: ModelContract, digits: NDArray[np.uint8]) -> None:
    whole = digits[0].ravel().tolist()
    rows = [whole, [None, *whole[1:]], None, [None] * 784, whole]
    for chosen in (pa.array(rows, pa.list_(pa.uint8(), 784)), pa.array([whole, *rows], pa.list_(pa.uint8(), 784))[1:]):
        batch = decode(contract, chosen)
        assert sorted(batch.failures) == [1, 2, 3]
        np.testing.assert_array_equal(batch.images, np.stack([digits[0]] * 2))
    nested = [digits[0, ..., 0].tolist(), [None, *digits[0, 1:, :, 0].tolist()]]
    batch = decode(contract, pa.array(nested, pa.list_(pa.list_(pa.uint8(), 28), 28)))
    assert list(batch.failures) == [1]
    np.testing.assert_array_equal(batch.images, digits[:1])


def test_the_reason_of_a_failure_is_the_same_every_time(contract: ModelContract) -> None:
    column = pa.array([b"hello", b"\x89PNG"])
    assert decode(contract, column).failures == decode(contract, column).failures
    assert decode(contract, column).failures[0] == ("decode_failed", "not an image of a known format")


def bomb() -> bytes:
    """A tiny PNG whose header states 60,000 x 60,000 pixels."""
    data = bytearray(encode(np.zeros((1, 1, 1), np.uint8)))
    import struct
    import zlib

    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def sixteen_bit() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((28, 28), 40_000, np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def test_what_cannot_be_decoded_is_a_status_and_the_others_go_on(
    contract: ModelContract, digits: NDArray[np.uint8]
) -> None:
    good = encode(digits[0])
    cases = [
        (good, None),
        (None, "null_image"),
        (b"", "decode_failed"),
        (b"not an image at all", "decode_failed"),
        (good[: len(good) // 2], "decode_failed"),
        (good[:20], "decode_failed"),
        (encode(np.zeros((28, 29, 1), np.uint8)), "wrong_shape"),
        (bomb(), "too_large"),
        (sixteen_bit(), "decode_failed"),
        (b"%PDF-1.4 " + good, "decode_failed"),
        (good, None),
    ]
    batch = decode(contract, pa.array([data for data, _ in cases], pa.binary()))
    found = [batch.failures.get(row, (None, ""))[0] for row in range(len(cases))]
    assert found == [status for _, status in cases]
    assert all(reason for _, reason in batch.failures.values())
    np.testing.assert_array_equal(batch.images, np.stack([digits[0]] * 2))


def test_colour_is_what_the_contract_says(contract: ModelContract) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    grey = decode(contract, pa.array([encode(colours)])).images[0]
    weights = colours @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[..., 0] - weights).max() <= 1
    rgb = replace(contract, channels=3)
    np.testing.assert_array_equal(decode(rgb, pa.array([encode(colours)])).images[0], colours)
    np.testing.assert_array_equal(decode(rgb, pa.array([encode(grey)])).images[0], np.repeat(grey, 3, axis=2))


def test_paths_are_followed_only_when_asked_and_only_below_the_root(
    contract: ModelContract, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.png").write_bytes(encode(digits[3]))
    (tmp_path / "secret.png").write_bytes(encode(digits[4]))
    paths = ["a.png", "missing.png", "../secret.png", str(tmp_path / "secret.png"), "a\0b"]
    column = pa.array([{"bytes": None, "path": path} for path in paths] + [{"bytes": None, "path": None}], IMAGE_TYPE)
    closed = decode(contract, column)
    assert [closed.failures[row][0] for row in range(6)] == ["path_not_followed"] * 5 + ["null_image"]
    (root / "loop").symlink_to(root / "loop")
    broken = pa.array([{"bytes": None, "path": "loop"}], IMAGE_TYPE)
    assert decode(contract, broken, image_root=root).failures[0][0] == "path_not_found"
    opened = decode(contract, column, image_root=root)
    np.testing.assert_array_equal(opened.images, digits[3:4])
    assert [opened.failures[row][0] for row in range(1, 5)] == ["path_not_found"] * 4


def test_rows_of_an_unreadable_page_have_that_status(contract: ModelContract) -> None:
    batch = decode(contract, pa.nulls(3, pa.binary()), error="row group 4: broken")
    assert batch.failures == dict.fromkeys(range(3), ("unreadable_page", "row group 4: broken"))


def test_a_readable_row_can_still_fail(contract: ModelContract, digits: NDArray[np.uint8]) -> None:
    batch = decode(contract, pa.array([encode(digits[0]), None, encode(digits[1])]))
    failed = batch.fail_readable({1: ("non_finite", "NaN")})
    assert failed.readable.tolist() == [True, False, False]
    assert failed.failures[2] == ("non_finite", "NaN")
    np.testing.assert_array_equal(failed.images, digits[:1])


def files_of_every_colour() -> dict[str, bytes]:
    """The same 28 x 28 noise in every common colour mode."""
    rng = np.random.default_rng(3)
    colours = Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8))
    grey = Image.fromarray(rng.integers(0, 256, (28, 28), dtype=np.uint8))
    images = {
        "rgb": (colours, "PNG"),
        "transparent": (Image.fromarray(rng.integers(0, 256, (28, 28, 4), dtype=np.uint8)), "PNG"),
        "transparent grey": (Image.merge("LA", [grey, grey.rotate(90)]), "PNG"),
        "grey": (grey, "PNG"),
        "black and white": (grey.point(lambda value: 255 * (value > 128), "1"), "PNG"),
        "palette": (colours.quantize(16), "PNG"),
        "gif": (colours.quantize(16), "GIF"),
        "bmp": (colours, "BMP"),
        "cmyk": (colours.convert("CMYK"), "TIFF"),
    }
    files = {}
    for name, (image, kind) in images.items():
        buffer = io.BytesIO()
        image.save(buffer, kind)
        files[name] = buffer.getvalue()
    palette = io.BytesIO()
    colours.quantize(16).save(palette, "PNG", transparency=3)
    return {**files, "palette with transparency": palette.getvalue()}


@pytest.mark.parametrize("channels", [1, 3])
def test_every_colour_becomes_the_models_as_keras_and_tensorflow_do_it(
    keras: Any, contract: ModelContract, channels: int
) -> None:
    import tensorflow as tf

    files = files_of_every_colour()
    batch = decode(replace(contract, channels=channels), pa.array(list(files.values())))
    assert batch.failures == {}
    mode = "grayscale" if channels == 1 else "rgb"
    for (name, data), found in zip(files.items(), batch.images, strict=True):
        theirs = np.asarray(keras.utils.load_img(io.BytesIO(data), color_mode=mode)).reshape(found.shape)
        np.testing.assert_array_equal(found, theirs, err_msg=name)
        if name == "cmyk" or (channels == 1 and name in ("gif", "bmp")):
            continue  # TensorFlow does not decode these
        theirs = tf.io.decode_image(data, channels=channels, expand_animations=False).numpy()
        np.testing.assert_allclose(found, theirs.astype(np.int16), atol=channels % 3, err_msg=name)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 100}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation_tags_are_treated_as_by_keras_and_tensorflow(
    keras: Any, contract: ModelContract, kind: str, options: dict[str, Any], orientation: int
) -> None:
    """Keras turns TIFF images alone, because Pillow does; TensorFlow turns none, and decodes no TIFF images."""
    import tensorflow as tf

    pixels = np.zeros((28, 28, 3), np.uint8)
    pixels[:8, :14] = 250
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    tag: dict[str, Any] = {"tiffinfo": {0x0112: orientation}} if kind == "TIFF" else {"exif": exif}
    Image.fromarray(pixels).save(buffer, kind, **tag, **options)
    found = decode(replace(contract, channels=3), pa.array([buffer.getvalue()])).images[0]
    np.testing.assert_array_equal(found, np.asarray(keras.utils.load_img(io.BytesIO(buffer.getvalue()))))
    quarters = {1: 0, 3: 2, 6: 3, 8: 1}[orientation] if kind == "TIFF" else 0
    np.testing.assert_allclose(found, np.rot90(pixels, quarters).astype(np.int16), atol=15)
    if kind == "TIFF":
        with pytest.raises(tf.errors.InvalidArgumentError):
            tf.io.decode_image(buffer.getvalue())
    elif kind != "WEBP" or hasattr(tf.io, "decode_webp"):  # older versions of TensorFlow decode no WebP images
        theirs = tf.io.decode_image(buffer.getvalue(), channels=3, expand_animations=False).numpy()
        np.testing.assert_allclose(found, theirs.astype(np.int16), atol=15)


def test_a_turned_tiff_has_the_size_that_it_has_when_it_is_turned(contract: ModelContract) -> None:
    buffer = io.BytesIO()
    Image.new("L", (20, 10)).save(buffer, "TIFF", tiffinfo={0x0112: 6})
    assert decode(replace(contract, height=20, width=10), pa.array([buffer.getvalue()])).failures == {}
    assert decode(replace(contract, height=10, width=20), pa.array([buffer.getvalue()])).failures[0][0] == "wrong_shape"


def noise(size: int, kind: str) -> bytes:
    """A square RGB image, larger than the files whose reads are not counted."""
    data = encode(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8), kind)
    assert len(data) > 2**16
    return data


def test_an_image_that_takes_too_much_processor_time_has_a_status_of_its_own(
    contract: ModelContract, monkeypatch: pytest.MonkeyPatch
) -> None:
    column = pa.array([noise(400, kind) for kind in ("PNG", "JPEG", "BMP", "PPM")])
    contract = replace(contract, height=400, width=400, channels=3)
    assert decode(contract, column).failures == {}
    monkeypatch.setattr(image_file, "_SECONDS", -1.0)
    failures = decode(contract, column).failures
    assert {status for status, _ in failures.values()} == {"too_slow"}
    assert len(failures) == len(column)


def test_opening_and_decoding_an_image_reads_it_a_limited_number_of_times(
    contract: ModelContract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run-length encoded BMP image, which Pillow reads byte by byte."""
    monkeypatch.setattr(image_file, "_PIXEL_READS", 100_000)
    data = hostile_images.rle_bmp(28, 28)[: 54 + 1024] + b"\0\0" * 60_000
    assert decode(contract, pa.array([data])).failures[0] == (
        "too_large",
        "the header or the pixels need more than 100000 reads of the file",
    )


def test_a_stop_ends_a_batch_before_the_next_image(contract: ModelContract, digits: NDArray[np.uint8]) -> None:
    checked = itertools.count(1)

    def check() -> None:
        if next(checked) == 10:
            raise KeyboardInterrupt

    column = pa.array([encode(digits[0])] * 500)
    piece = RowBatch(cast(Any, None), 0, 500, column, ("",) * 500, pa.table({}), "", True)
    decoder = Decoder(contract, max_pixels=10**6, image_root=None, threads=2, check=check)
    with pytest.raises(KeyboardInterrupt):
        decoder.decode([piece])
    decoder.close()
    assert next(checked) < 20


def test_a_stop_ends_the_decoding_of_a_long_image(contract: ModelContract) -> None:
    stop, calls = StopRequest(), itertools.count(1)

    def check() -> None:
        if next(calls) == 4:
            stop.record(signal.SIGTERM)
        stop.check()

    column = pa.array([noise(1000, "BMP")])
    piece = RowBatch(cast(Any, None), 0, 1, column, ("",), pa.table({}), "", True)
    contract = replace(contract, height=1000, width=1000, channels=3)
    decoder = Decoder(contract, max_pixels=10**6, image_root=None, threads=1, check=check)
    with pytest.raises(Terminated):
        decoder.decode([piece])
    decoder.close()
    assert next(calls) < 10


def test_threads_decode_a_limited_number_of_pixels_at_the_same_time() -> None:
    budget, now, most = _PixelBudget(100), [0], [0]
    guard, both = threading.Lock(), threading.Barrier(2, timeout=60)

    def decode_one(pixels: int) -> None:
        with budget.reserve(pixels):
            with guard:
                now[0] += min(pixels, 100)
                most[0] = max(most[0], now[0])
            if pixels == 50:
                both.wait()  # two images of half the budget are decoded at the same time
            with guard:
                now[0] -= min(pixels, 100)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(decode_one, [50, 50, 70, 1000, 40, 100, 60, 99, 1]))
    assert most[0] == 100


def test_a_resize_in_the_contract_is_obeyed(contract: ModelContract) -> None:
    sizes = [(28, 28), (56, 56), (9, 70), (300, 41)]
    arrays = [np.random.default_rng(size).integers(0, 256, (*size, 1), dtype=np.uint8) for size in sizes]
    column = pa.array([encode(array) for array in arrays])
    plain = decode(contract, column)
    assert {row: status for row, (status, _) in plain.failures.items()} == dict.fromkeys((1, 2, 3), "wrong_shape")
    for text in ("bilinear", "nearest:pad", "pil-lanczos:crop", "crop-or-pad", "pil-bilinear:short=32"):
        how = Resize.parse(text)
        batch = decode(replace(contract, resize=how), column)
        assert batch.failures == {}
        for found, array in zip(batch.images, arrays, strict=True):
            np.testing.assert_array_equal(found[..., 0], resize_image(Image.fromarray(array[..., 0]), how, 28, 28))
    assert np.array_equal(decode(replace(contract, resize=Resize("bilinear")), column).images[0], arrays[0])


def make_picture(height: int, width: int, mode: str = "RGB") -> Image.Image:
    """Smooth structure and noise; another size of decoding gives other pixels."""
    coarse = np.random.default_rng((height, width)).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    fine = np.random.default_rng(1).integers(0, 32, (height, width, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray(np.maximum(smooth, fine)).convert(mode)


@pytest.mark.parametrize(
    ("text", "denominator"),
    [("bilinear", 2), ("pil-bicubic:crop", 2), ("nearest:pad", 4), ("pil-box:short=56", 1), ("bilinear:short=28", 2)],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_scaled_decoding_is_that_of_libjpeg_at_twice_the_resized_size_or_more(
    contract: ModelContract, text: str, denominator: int, mode: str, progressive: bool
) -> None:
    how = Resize.parse(f"{text}:scaled")
    buffer = io.BytesIO()
    make_picture(151, 350, mode).save(buffer, "JPEG", quality=90, progressive=progressive)
    scaled = Image.open(io.BytesIO(buffer.getvalue()))
    scaled.draft(None, (350 // denominator, 151 // denominator))
    assert scaled.size == (-(-350 // denominator), -(-151 // denominator))
    wanted = resize_image(scaled.convert("RGB"), how, 28, 28)
    batch = decode(replace(contract, channels=3, resize=how), pa.array([buffer.getvalue()]))
    np.testing.assert_array_equal(batch.images[0], wanted)
    plain = decode(replace(contract, channels=3, resize=Resize.parse(text)), pa.array([buffer.getvalue()]))
    assert np.array_equal(batch.images, plain.images) == (denominator == 1)


def test_scaled_decoding_changes_neither_other_formats_nor_a_status(contract: ModelContract) -> None:
    picture = make_picture(240, 320)
    files = {}
    for form in ("PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG"):
        buffer = io.BytesIO()
        picture.save(buffer, form)
        files[form] = buffer.getvalue()
    damaged = [files["JPEG"][:2000], files["JPEG"][:300], files["JPEG"][:-2], b"", None]
    column = pa.array([*files.values(), *damaged])
    small = replace(contract, channels=3)
    plain = decode(replace(small, resize=Resize.parse("bilinear")), column)
    scaled = decode(replace(small, resize=Resize.parse("bilinear:scaled")), column)
    assert plain.failures == scaled.failures
    others = len(files) - 1
    np.testing.assert_array_equal(scaled.images[:others], plain.images[:others])
    assert np.any(scaled.images[others] != plain.images[others])


def test_tensors_of_another_size_are_resized_too(contract: ModelContract, digits: NDArray[np.uint8]) -> None:
    column = pa.array([digits[0, :20, :20, 0].tolist(), None], pa.list_(pa.list_(pa.uint8(), 20), 20))
    batch = decode(replace(contract, resize=Resize("bilinear")), column)
    assert batch.failures == {1: ("null_image", "the tensor or one of its values is null")}
    wanted = resize_image(Image.fromarray(digits[0, :20, :20, 0]), Resize("bilinear"), 28, 28)
    np.testing.assert_array_equal(batch.images[0, ..., 0], wanted)


def test_an_image_too_long_for_its_resizing_is_too_large(contract: ModelContract) -> None:
    how = replace(contract, resize=Resize.parse("pil-bilinear:short=4000"))
    long = np.zeros((1, 400, 1), np.uint8)
    assert decode(how, pa.array([encode(long)])).failures[0][0] == "too_large"
    tensors = pa.array([long[..., 0].tolist()], pa.list_(pa.list_(pa.uint8(), 400), 1))
    assert decode(how, tensors).failures[0][0] == "too_large"
