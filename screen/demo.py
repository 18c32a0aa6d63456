"""`oodscreen demo`: train, export, calibrate and screen on the bundled MNIST subset.

In: the package's own data. Out: in OUTPUT, a Keras model, the exported ONNX file, a calibration, input shards (random
noise, rotated test digits, test digits), their results and a report page. Each step and two tables of results are
printed.
"""

from __future__ import annotations

import io
import sys
import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from export.errors import OptionRefused
from screen.config import RunConfig
from screen.decide.config import CalibrationConfig
from screen.review.report.gather import gather_findings
from screen.review.report.page import write_page
from screen.run.calibration.calibrate import run_calibration
from screen.run.progress import make_listener
from screen.run.runner import run_screening
from screen.run.summary import RunSummary

EPOCHS = 5
PASSES = 100
REVIEW_RATE = 0.02
CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ARTICLE_ROW = 247
"""Row of the test image in the article on which this project is based: a 4 with an uncertain prediction."""

_NOISE_ROWS = 1000
"""Number of noise images."""

_SHARD_ROWS = 1000
"""Maximum rows per shard."""

_SEED = 7
"""Seed for training and for the noise images."""


def run_demo(output: Path) -> None:
    """Run and print all steps on the bundled data; a repeated call replaces the files.

    Args:
        output: folder for models, shards and results; created if missing.

    Raises:
        ModelRefused: TensorFlow is not installed.
    """
    started = time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    model = output / "article.onnx"
    _say(f"1. Train the article's network on 10,000 MNIST digits for {EPOCHS} epochs")
    _train_and_export(output / "article.keras", model)
    _say("3. Write shards: digits for the calibration; random noise, rotated test digits and test digits to screen")
    sets = _make_inputs(output)
    known = output / "known"
    calibration = output / "article.calibration"
    _say(
        f"4. oodscreen calibrate {model} {known / 'valid'} --reference {known / 'train'} -o {calibration} "
        f"--review-rate {REVIEW_RATE} --passes {PASSES}"
    )
    wanted = CalibrationConfig(REVIEW_RATE, reference=str(known / "train"))
    with make_listener() as listener:
        report = run_calibration(model, str(known / "valid"), calibration, RunConfig(passes=PASSES), wanted, listener)
    _say(report.to_text())
    summaries: dict[str, RunSummary] = {}
    for number, name in enumerate(sets, start=5):
        results = output / "results" / name
        _say(f"{number}. oodscreen run {model} {sets[name]} {results} --calibration {calibration} --keep label")
        config = RunConfig(calibration=str(calibration), keep=["label"], force="all")
        with make_listener() as listener:
            summaries[name] = run_screening(model, str(sets[name]), results, config, listener)
    _report(output, model, summaries)
    _make_page(output)
    _say(f"Done in {time.monotonic() - started:.0f} s.")


def read_images(subset: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images `uint8 [N, 28, 28, 1]` and labels `[N]` of the subset `train`, `valid` or `test`."""
    with as_file(files("screen") / "demo_data" / f"mnist-{subset}.parquet") as path:
        return decode_images(pq.read_table(path))


def decode_images(table: pa.Table) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images `uint8 [N, H, W, 1]` of equal size, and labels `[N]`, of a table in the Hugging Face `Image` layout."""
    encoded = pc.struct_field(table.column("image").combine_chunks(), "bytes")
    images = [np.asarray(Image.open(io.BytesIO(data.as_py()))) for data in encoded]
    return np.stack(images)[..., np.newaxis], np.asarray(table.column("label"))


def write_shards(folder: Path, images: NDArray[np.uint8], labels: NDArray[np.int64], prefix: str) -> None:
    """Write shards of PNG images and labels, in the Hugging Face `Image` layout, with at most `_SHARD_ROWS` rows each.

    Args:
        folder: folder of the shards; created if missing.
        images: `uint8 [N, H, W, 1]` or `uint8 [N, H, W, 3]`.
        labels: labels `[N]`.
        prefix: start of the names of the shards, and of the ids and paths of the rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "image": {"bytes": _png(image), "path": f"{prefix}-{row:05d}.png"},
            "label": int(label),
            "id": f"{prefix}-{row:05d}",
        }
        for row, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", kind), ("label", pa.int64()), ("id", pa.string())])
    for start in range(0, len(rows), _SHARD_ROWS):
        table = pa.Table.from_pylist(rows[start : start + _SHARD_ROWS], schema=schema)
        pq.write_table(
            table, folder / f"{prefix}-{start // _SHARD_ROWS:03d}.parquet", compression="zstd", row_group_size=500
        )


def _train_and_export(keras_file: Path, onnx_file: Path) -> None:
    from export.article import SCALE, train_article_network
    from export.exporter import export_file
    from export.source.describe import import_keras

    keras = import_keras()
    images, labels = read_images("train")
    epochs = _EpochLines(len(images))
    callback = keras.callbacks.LambdaCallback(
        on_epoch_begin=epochs.begin, on_train_batch_end=epochs.batch, on_epoch_end=epochs.end
    )
    train_article_network(images, labels, epochs=EPOCHS, seed=_SEED, callbacks=[callback]).save(keras_file)
    names = onnx_file.with_name("classes.txt")
    names.write_text("".join(f"{name}\n" for name in CLASS_NAMES), encoding="utf-8")
    _say(f"2. oodscreen export {keras_file} {onnx_file} --scale 1/255 --classes {names}")
    _say(export_file(keras_file, onnx_file, scale=SCALE, class_names=CLASS_NAMES).describe())


class _EpochLines:
    """Prints the training progress on standard error: a line for each epoch, and on a terminal a count of batches."""

    def __init__(self, rows: int) -> None:
        self._batches = -(-rows // 128)
        self._started = 0.0

    def begin(self, epoch: int, logs: Any = None) -> None:
        self._started = time.monotonic()

    def batch(self, batch: int, logs: Any = None) -> None:
        if sys.stderr.isatty():
            print(f"\r   batch {batch + 1} of {self._batches}", end="", file=sys.stderr, flush=True)

    def end(self, epoch: int, logs: Any = None) -> None:
        seconds = time.monotonic() - self._started
        start = "\r" if sys.stderr.isatty() else ""
        print(
            f"{start}   epoch {epoch + 1} of {EPOCHS}: accuracy {logs['accuracy']:.3f} (dropout on), {seconds:.0f} s",
            file=sys.stderr,
            flush=True,
        )


def _make_inputs(output: Path) -> dict[str, Path]:
    for subset in ("train", "valid"):
        write_shards(output / "known" / subset, *read_images(subset), subset)
    folder = output / "input"
    images, labels = read_images("test")
    noise = np.random.default_rng(_SEED).integers(0, 256, (_NOISE_ROWS, 28, 28, 1), dtype=np.uint8)
    write_shards(folder / "noise", noise, np.full(_NOISE_ROWS, -1), "noise")
    write_shards(folder / "rotated", np.rot90(images, axes=(1, 2)), labels, "rotated")
    write_shards(folder / "digits", images, labels, "digit")
    return {name: folder / name for name in ("noise", "rotated", "digits")}


def _report(output: Path, model: Path, summaries: dict[str, RunSummary]) -> None:
    results = {name: pq.read_table(output / "results" / name) for name in summaries}
    console = Console(width=100, highlight=False)
    # With this entropy threshold, as many digits are flagged as with the calibration.
    entropies = np.sort(np.asarray(results["digits"]["entropy"]))[::-1]
    limit = entropies[summaries["digits"].flagged]
    table = Table("set", "rows", "confidence", "entropy", "flagged", "by entropy alone", "missed by entropy alone")
    table.title = "Flagged rows"
    for name, rows in results.items():
        entropy, flag = np.asarray(rows["entropy"]), np.asarray(rows["flag"])
        table.add_row(
            name,
            str(len(rows)),
            f"{pc.mean(rows['confidence']).as_py():.2f}",
            f"{entropy.mean():.2f}",
            f"{flag.mean():.1%}",
            f"{np.mean(entropy > limit):.1%}",
            str(int(np.sum(flag & (entropy <= limit)))),
        )
    console.print(table)
    console.print(
        f"By entropy alone: the {summaries['digits'].flagged} digits with the highest entropy, "
        f"and rows of the other sets above the same threshold ({limit:.2f} nats)."
    )

    digits = results["digits"]
    order = pc.sort_indices(digits, sort_keys=[("entropy", "descending")])
    table = Table(
        "id", "label", "prediction", "confidence", "std", "entropy", title="The five most uncertain test digits"
    )
    for row in digits.take(order[:5]).to_pylist():
        table.add_row(*_cells(row))
    console.print(table)
    article = digits.slice(ARTICLE_ROW, 1).to_pylist()[0]
    rank = order.to_pylist().index(ARTICLE_ROW) + 1
    console.print(
        f"Row {ARTICLE_ROW}, the article's uncertain {article['label']}: prediction {article['prediction']} with "
        f"confidence {article['confidence']:.2f} +- {article['prediction_std']:.2f}, rank {rank} of {len(digits)} by "
        "entropy."
    )
    _say(f"Files in {output}: {model.name}, article.calibration, known/, input/, results/")


def _make_page(output: Path) -> None:
    """Write the report page of the digits, if the libraries for report pages are installed."""
    page = output / "report.html"
    _say(f"oodscreen report {output / 'results' / 'digits'} -o {page}")
    try:
        size = write_page(gather_findings(str(output / "results" / "digits")), page)
    except OptionRefused as error:
        _say(f"   skipped: {error.found} {error.next_step}")
    else:
        _say(f"   {size / 1e6:.1f} MB, open it in a browser: {page.resolve().as_uri()}")


def _cells(row: dict[str, Any]) -> list[str]:
    numbers = [f"{row[name]:.2f}" for name in ("confidence", "prediction_std", "entropy")]
    return [row["id"], str(row["label"]), str(row["prediction"]), *numbers]


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def _say(text: str) -> None:
    typer.echo(text)
