"""Speeds of `benchmarks.gpu`: T passes, the exported file looped, decoding, and the cost of new batch sizes.

In: a `Setup`. Out: records with images per second. The number of images grows until a measurement takes long enough,
so that the same code can be used on a GPU and on two cores.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu_networks import DESCRIPTIONS, make_images, write_images
from benchmarks.gpu_records import Recorder, Setup
from benchmarks.gpu_usage import watch_card
from export.contract.reader import ExportedModel, read_model
from export.runtime import onnxruntime
from screen.config import RunConfig
from screen.input.decode import Decoder
from screen.input.images import batch_rows
from screen.input.mapping import map_columns
from screen.input.rows import read_batches
from screen.input.shards import find_shards
from screen.output.record import RECORD_NAME
from screen.run.screener import Screener

PASSES = (1, 10, 100, 500)
RUN_PASSES = 100
"""Number of passes of the measured `oodscreen run`."""

_LEAST_ROWS = 4
_GROWTH = 8


def measure_speed(run: Callable[[int], None], seconds: float, batch: int, least: int = _LEAST_ROWS) -> dict[str, Any]:
    """Images per second of `run(rows)`.

    Args:
        run: function that runs a given number of rows.
        seconds: the number of rows grows until a run takes at least a third of this time; this number is measured.
        batch: a number of rows above `batch` is a multiple of `batch`, so that all batches have the same size.
        least: first number of rows.
    """
    rows = min(least, batch)
    run(rows)  # a new shape: the first run is slower
    while True:
        started = time.perf_counter()
        run(rows)
        taken = time.perf_counter() - started
        if taken >= seconds / 3:
            break
        grown = min(_GROWTH, max(2, seconds / max(taken, 1e-6) / 2))
        rows = math.ceil(rows * grown)
        rows = rows if rows <= batch else round(rows / batch) * batch
        run(rows)
    with watch_card() as load:
        started = time.perf_counter()
        run(rows)
        taken = min(taken, time.perf_counter() - started)
    return {"rows": rows, "seconds": taken, "per_second": rows / taken, "gpu_busy": load.busy, "mib": load.memory_mib}


def throughput(setup: Setup, recorder: Recorder) -> None:
    """Measure images per second at each T, from images in host memory, and row-passes per second of a loop."""
    share = recorder.seconds_left / (len(DESCRIPTIONS) * (len(PASSES) + 2)) / 3
    for name in DESCRIPTIONS:
        model = read_model(setup.models[name])
        size = batch_rows(RunConfig(), model.contract)
        images = make_images(model.contract.image_shape, min(size, 64))
        images = np.resize(images, (size, *images.shape[1:]))
        for passes in PASSES:
            with recorder.attempt(name, f"T = {passes}"):
                recorder.require_time()
                screener = Screener(model, passes=passes, device=setup.device)

                run = _scoring(screener, images)
                recorder.add(name, f"T = {passes}", None, passes=passes, **measure_speed(run, share, size))
        variants = {"loop": {}} if setup.device == "cpu" else {"loop": {"use_tf32": "0"}, "loop with tf32": {}}
        for loop, options in variants.items():
            with recorder.attempt(name, loop):
                recorder.require_time()
                recorder.add(name, loop, None, **_loop_speed(setup, model, size, options, share))


def _scoring(screener: Screener, images: NDArray[np.uint8]) -> Callable[[int], None]:
    """A function that scores a number of rows, in batches of at most `images`."""

    def run(rows: int) -> None:
        parts = [images[: min(len(images), rows - start)] for start in range(0, rows, len(images))]
        for _ in screener.summarize_each(parts):
            pass

    return run


def _loop_speed(
    setup: Setup, model: ExportedModel, size: int, options: dict[str, str], seconds: float
) -> dict[str, Any]:
    """Row-passes per second of the exported file in a default session, with a batch that stays on the device."""
    provider: Any = ("CUDAExecutionProvider", options) if setup.device == "cuda" else "CPUExecutionProvider"
    session = onnxruntime.InferenceSession(
        str(model.path), providers=[provider, "CPUExecutionProvider"][: 1 + bool(options)]
    )
    batch = make_images(model.contract.image_shape, min(size, 64))
    bound: dict[int, Any] = {}

    def one_pass(rows: int) -> None:
        if rows not in bound:
            value = onnxruntime.OrtValue.ortvalue_from_numpy(
                np.resize(batch, (rows, *batch.shape[1:])), setup.device, 0
            )
            bound[rows] = session.io_binding()
            bound[rows].bind_ortvalue_input(model.contract.input_name, value)
            bound[rows].bind_output(model.contract.output_name, setup.device, 0)
        session.run_with_iobinding(bound[rows])
        bound[rows].synchronize_outputs()

    def run(rows: int) -> None:
        for _ in range(max(1, round(rows / size))):
            one_pass(min(rows, size))

    return measure_speed(run, seconds, size)


def costs(setup: Setup, recorder: Recorder) -> None:
    """Measure first runs with a new number of rows, and a smaller last batch, in comparison with later runs."""
    for name in DESCRIPTIONS:
        with recorder.attempt(name, "new batch size"):
            recorder.require_time()
            model = read_model(setup.models[name])
            large = setup.device != "cpu"
            images = make_images(model.contract.image_shape, 64 if large else 8)
            screener = Screener(model, passes=20, device=setup.device)
            score = _scoring(screener, images)
            taken: dict[str, list[float]] = {}
            for label, rows in (("whole", len(images)), ("one less", len(images) - 1), ("odd", 3)):
                taken[label] = [_seconds(partial(score, rows)) for _ in range(3)]
            figures = {
                f"{label} {turn}": taken[label][at] for label in taken for at, turn in ((0, "first"), (-1, "later"))
            }
            recorder.add(name, "new batch size", None, **figures)


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def runs(setup: Setup, recorder: Recorder) -> None:
    """Measure `oodscreen run` from encoded images to results, decoding alone, and the stage that takes longest."""
    share = recorder.seconds_left / len(DESCRIPTIONS) / 4
    for name in DESCRIPTIONS:
        with recorder.attempt(name, "oodscreen run"):
            recorder.require_time()
            model = read_model(setup.models[name])
            decoded = _decode_speed(setup, model, share / 2)
            recorder.add(name, "decoding", None, **decoded)
            screener = Screener(model, passes=RUN_PASSES, device=setup.device)
            images = make_images(model.contract.image_shape, 16)
            score = _scoring(screener, np.resize(images, (128, *images.shape[1:])))
            scored = measure_speed(score, share / 2, 128)
            rows = max(8, int(share * min(decoded["per_second"], scored["per_second"])))
            shards = write_images(model.contract, rows, setup.scratch / f"run-{name}")
            output = setup.scratch / f"run-{name}-out"
            command = [
                "run",
                str(model.path),
                str(shards),
                str(output),
                "-T",
                str(RUN_PASSES),
                "--device",
                setup.device,
            ]
            with watch_card() as load:
                started = time.perf_counter()
                main = "from screen.cli import main; main()"
                done = subprocess.run(
                    [sys.executable, "-c", main, *command], capture_output=True, text=True, check=False
                )
                taken = time.perf_counter() - started
            if done.returncode != 0:
                raise RuntimeError(f"oodscreen run ended with {done.returncode}: {done.stderr[-500:]}")
            record = json.loads((output / RECORD_NAME).read_text(encoding="utf-8"))
            stages = dict(record["stages"])
            figures = {"rows": rows, "seconds": taken, "per_second": rows / taken, "stages": stages}
            longest = max(stages, key=lambda stage: float(stages[stage]))
            busy = {"gpu_busy": load.busy, "mib": load.memory_mib, "device": record["device"]}
            passed = record["device"].startswith(setup.device)
            recorder.add(name, "oodscreen run", passed, passes=RUN_PASSES, bound_by=longest, **figures, **busy)


def _decode_speed(setup: Setup, model: ExportedModel, seconds: float) -> dict[str, Any]:
    """Images per second when only decoding, on all cores."""
    config = RunConfig()
    folder = write_images(model.contract, 256, setup.scratch / f"decode-{model.path.stem}")
    shards, _ = find_shards(str(folder))
    columns = map_columns(shards, config, model.contract)
    pieces = [piece for batch in read_batches(shards, columns, 256) for piece in batch if piece.count]
    decoder = Decoder(model.contract, max_pixels=config.max_pixels, image_root=None, threads=config.threads)

    def run(rows: int) -> None:
        for piece in cycle(pieces):
            some = piece.take(np.arange(min(piece.count, rows)))
            assert decoder.decode([some]).readable.all()
            rows -= some.count
            if not rows:
                return

    try:
        return measure_speed(run, seconds, 256)
    finally:
        decoder.close()
