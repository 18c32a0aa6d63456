"""Find the stage that bounds a run of a model on this machine.

In: an exported model, rows of a shard or made-up images, and a `RunConfig`. Out: a `Bottleneck`.

Each stage is measured alone, with the reader, decoder and engine of a run. In a run, one thread reads, a second thread
decodes and a third thread scores; the decoder and the engine have further threads, and all threads share the cores. The
time of a run is therefore the longest of three times: the time to read and decode; the time to score (copy, trunk and
head, one after the other); and the processor time of all stages, divided by the number of cores.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from export.contract.reader import ExportedModel
from screen.config import RunConfig
from screen.cores import usable_cores
from screen.doctor.source import decode_first, decode_made
from screen.doctor.speed import product_session
from screen.doctor.timing import PER, Stopwatch, Timing
from screen.engine.device.provider import Device
from screen.engine.graph.plan import plan_engine
from screen.engine.passes import PassEngine
from screen.input.images import batch_rows

StageName = Literal["read and decode", "copy", "trunk", "head"]

_SECONDS = 0.7
"""Target duration of a measurement, in seconds."""

_LONGEST = 3.0
"""Maximum seconds of a measurement of the passes after which a further measurement follows."""

_FIRST_ROWS = 16
"""Number of rows of the first measurement of the passes."""

_GROWTH = 4
"""Factor between the numbers of rows of two consecutive measurements of the passes."""


@dataclass(frozen=True)
class Stage:
    """A stage of a run.

    Attributes:
        name: name of the stage.
        seconds: time for 1,000 images while no other stage runs, in seconds.
        cpu_seconds: processor time of all threads for 1,000 images, in seconds.
    """

    name: StageName
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Bottleneck:
    """The stages of a run of one model, and the stage that bounds the run.

    Attributes:
        model: the model, as the user named it.
        source: the shards whose first rows were measured; "" if the images were made up.
        image: height and width of the model's images.
        rows: number of rows that were read and decoded.
        unreadable: number of these rows without a readable image.
        passes: T.
        masks: `shared`, `per-row` or `none`.
        device: name of the device that runs the passes, `cpu` or `cuda`.
        threads: number of threads of the decoder and of the engine.
        cores: CPU cores that are available to this process.
        stages: the stages, in order.
        warnings: notices of the engine, such as that memory ran out.
    """

    model: str
    source: str
    image: tuple[int, int]
    rows: int
    unreadable: int
    passes: int
    masks: str
    device: str
    threads: int
    cores: int
    stages: tuple[Stage, ...]
    warnings: tuple[str, ...] = field(default=())

    @property
    def seconds(self) -> float:
        """Expected time of a run for 1,000 images, without start-up and writing, in seconds."""
        return max(self._decoding, self._scoring, self._processor)

    @property
    def rows_per_second(self) -> float:
        """Expected speed of a run, without start-up and writing."""
        return PER / self.seconds

    @property
    def bound_by(self) -> StageName:
        """The stage with the largest share of the expected time."""
        if self._processor >= max(self._decoding, self._scoring):
            return max(self.stages, key=lambda stage: stage.cpu_seconds).name
        if self._decoding >= self._scoring:
            return "read and decode"
        return max(self.stages[1:], key=lambda stage: stage.seconds).name

    @property
    def advice(self) -> str:
        """How to make the run faster, in one sentence."""
        height, width = self.image
        idle = f"raise --threads (now {self.threads}, on {self.cores} cores), " if self.threads < self.cores else ""
        if self.bound_by == "read and decode":
            stored = f"store the images at about {width} x {height} pixels, the input size of the model"
            return f"{idle or 'use a machine with more cores, '}or {stored}"
        if self.bound_by == "copy":
            return "use several GPUs, each with --part I/N; neither fewer passes nor more cores make the copies faster"
        faster = "use a GPU (--device cuda), " if self.device == "cpu" else "use a faster GPU, "
        if self.bound_by == "trunk" or self.passes == 1:
            part = "or share the shards among machines with --part I/N"
            rest = "" if self.passes == 1 else "; neither fewer --passes nor --adaptive makes the trunk faster"
            return f"{idle or faster}{part}{rest}"
        cheaper = "--masks shared, " if self.masks == "per-row" else ""
        return f"use --adaptive, {cheaper}fewer --passes (now {self.passes}), {idle}or {faster.split(',')[0]}"

    @property
    def _decoding(self) -> float:
        return self.stages[0].seconds

    @property
    def _scoring(self) -> float:
        return sum(stage.seconds for stage in self.stages[1:])

    @property
    def _processor(self) -> float:
        return sum(stage.cpu_seconds for stage in self.stages) / self.cores

    def to_lines(self) -> list[str]:
        """The report as lines of text, without the name of the model."""
        height, width = self.image
        made = f"made-up JPEG images of {width} x {height} pixels; name a shard to measure real images"
        failed = f", {self.unreadable} of them unreadable" if self.unreadable else ""
        rows = f"{self.rows} rows of {self.source}{failed}" if self.source else made
        lines = [
            f"measured   {rows}",
            f"           T = {self.passes}, on {self.device}, {self.threads} thread(s)",
            *(f"{stage.name:15} {stage.seconds:9.3f} s for {PER:,} images" for stage in self.stages),
            f"expected   {self.rows_per_second:,.0f} rows/s, without start-up and writing",
            f"bound by   {self.bound_by}: {self.advice}",
        ]
        return [*lines, *(f"note       {text}" for text in self.warnings)]


def measure_bottleneck(
    name: str, model: ExportedModel, source: str | None, config: RunConfig, device: Device
) -> Bottleneck:
    """Measure each stage of a run; the measurements take a few seconds, or longer if the first rows take longer.

    Args:
        name: the model, as the user named it.
        model: the exported model.
        source: a shard, a folder of shards or a glob, whose first rows are measured; None for made-up images.
        config: options of the passes (passes, masks and seed) and of the rows (such as the image column).
        device: device of the passes.

    Raises:
        ContractRefused: the model's graph cannot be run (see `plan_engine`).
        InputRefused: no image of `source` can be read.
        OptionRefused: the model does not run entirely on the device.
        OutOfMemory: two rows do not fit into memory.
    """
    contract, settings = model.contract, config.settings()
    height, width, _ = contract.image_shape
    decoded = (
        decode_made(height, width, contract, config, _SECONDS)
        if source is None
        else decode_first(source, contract, config, _SECONDS)
    )
    notices: list[str] = []
    engine = PassEngine(
        plan_engine(model, masks=settings.masks),
        passes=settings.passes,
        seed=settings.seed,
        device=device,
        notify=notices.append,
    )
    images = _repeat(decoded.images, batch_rows(config, contract))
    scoring, rows = _time_scoring(engine, images)
    copy = _time_copy(images[:rows], device)
    trunk = _time_trunk(engine, images[:rows])
    timings: tuple[tuple[StageName, Timing], ...] = (
        ("read and decode", decoded.timing),
        ("copy", copy),
        ("trunk", trunk - copy),
        ("head", scoring - trunk),
    )
    return Bottleneck(
        model=name,
        source=source or "",
        image=(height, width),
        rows=decoded.rows,
        unreadable=decoded.unreadable,
        passes=settings.passes,
        masks=settings.masks,
        device=device.name,
        threads=device.threads,
        cores=usable_cores(),
        stages=tuple(Stage(stage, timing.seconds, timing.cpu_seconds) for stage, timing in timings),
        warnings=tuple(notices),
    )


def _repeat(images: NDArray[np.uint8], rows: int) -> NDArray[np.uint8]:
    """The images, repeated to a number of rows: the time of the passes does not depend on the pixels."""
    return images[np.arange(rows) % len(images)]


def _time_scoring(engine: PassEngine, images: NDArray[np.uint8]) -> tuple[Timing, int]:
    """Time of copy, trunk and head, and the largest number of rows that was measured.

    A session run of the head has a cost for each pass, whatever the number of rows. If a whole batch takes too long,
    its time is extrapolated: from measurements with two numbers of rows, or from the first measurement alone if it
    takes `_LONGEST` seconds or more.
    """
    engine.summarize(images[:2])  # draws the masks of all passes, and allocates memory
    most = min(len(images), engine.rows_per_run)
    rows = min(_FIRST_ROWS, most)
    before, now = None, _time_summary(engine, images[:rows])
    while rows < most and (now.seconds < _SECONDS / 2 or (before is None and now.seconds < _LONGEST)):
        before, previous, rows = now, rows, min(_GROWTH * rows, most)
        now = _time_summary(engine, images[:rows])
    if now.seconds < _LONGEST:  # the first batch of a size allocates memory, which later batches of a run use again
        now = min(now, _time_summary(engine, images[:rows]), key=lambda watch: watch.cpu_seconds)
    if before is None or rows == most:
        return now.timing(rows), rows
    return now.extrapolate(before, rows, previous, most).timing(most), rows


def _time_summary(engine: PassEngine, images: NDArray[np.uint8]) -> Stopwatch:
    watch = Stopwatch()
    with watch.running():
        engine.summarize(images)
    return watch


def _time_trunk(engine: PassEngine, images: NDArray[np.uint8]) -> Timing:
    """Time of copy and trunk; each piece of rows that fits into memory is freed before the next piece runs."""
    watch, rows = Stopwatch(), engine.rows_per_run
    for start in range(0, len(images), rows):
        with watch.running():
            engine.run_trunk(images[start : start + rows])
    return watch.timing(len(images))


def _time_copy(images: NDArray[np.uint8], device: Device) -> Timing:
    """Time of the copy to a GPU; on the CPU nothing is copied."""
    if device.name == "cpu":
        return Timing(0.0, 0.0)
    watch = Stopwatch()
    copier = product_session(device)
    copier.put(images)  # the first copy allocates memory
    with watch.running():
        copier.put(images)
    return watch.timing(len(images))
