"""Screener: an exported model with its decision policy, for batches in memory.

In: `uint8 [B, H, W, C]`, or a list of images. Out: `ScoredImages`, or the output of every pass. `oodscreen run` also
uses this class, so its scores equal those of a `Screener`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.contract.reader import ExportedModel, read_model
from export.errors import EngineFailed, InputRefused
from screen.config import RunConfig
from screen.decide.policy import DecisionPolicy, ScoredRows, choose_policy
from screen.engine.device.choice import choose_device
from screen.engine.early_exit import EarlyExitEngine
from screen.engine.graph.plan import EnginePlan, plan_engine
from screen.engine.passes import EngineOptions, PassEngine
from screen.engine.statistics import PassSummary
from screen.files.paths import as_path
from screen.input.decode import Decoder, ImageBatch
from screen.run.failures import find_failures
from screen.run.loose_images import LooseImage, as_source
from screen.run.scored import ScoredImages, collect_scores
from screen.settings.passes import MaskMode, Precision


class Screener:
    """Scores images by T Monte Carlo dropout passes.

    A forked process (`os.fork`, `multiprocessing`) may use its copy of a screener: the first call in the forked process
    opens the engine again. On a GPU, each process must create its own screener.

    Args:
        model: path of a file that `oodscreen export` wrote, or the model as `read_model` returns it.
        passes: number of passes, T; the default is that of the calibration, else 100.
        seed: seed for the dropout masks; equal seeds produce equal masks. The default is that of the calibration, else
            0.
        masks: `shared`: all rows pass through the same T thinned networks. `per-row`: independent masks for each row;
            the passes take longer than with `shared`. `none`: the network without dropout, for one pass. The default is
            that of the calibration, else `shared`.
        flag_if: flag rule. Without a calibration, the default depends on the kind of output; a regression requires a
            rule. With a calibration, a row is flagged if the calibration or, if given, the rule flags it.
        calibration: path of a file that `oodscreen calibrate` wrote for this model.
        adaptive: early exit: whether to stop the passes of a row once its flag is decided. `passes` in the summary is
            then the number of completed passes, and the scores are estimates of the scores after T passes.
        device: `auto`, `cpu`, `cuda` or `cuda:N`, GPU number N.
        threads: number of threads, 0 for one on each core that this process may use; results do not depend on this
            number.
        memory: maximum size of the tensors of all concurrent session runs, in MiB. The default is 512 on the CPU, and
            half of the free memory on a GPU.
        precision: `float32`, or `tf32` on a GPU. The default is that of the calibration, else `float32`.
        notify: callback for one-line notices; for example that memory ran out, so that session runs become smaller.
        policy: existing decision policy, which replaces the arguments passes, seed, masks, precision, flag_if and
            calibration.

    Raises:
        Refused: the model, rule or calibration cannot be used, the device is not available, or an option is invalid.
    """

    def __init__(
        self,
        model: str | Path | ExportedModel,
        *,
        passes: int | None = None,
        seed: int | None = None,
        masks: MaskMode | None = None,
        flag_if: str | None = None,
        calibration: str | Path | None = None,
        adaptive: bool = False,
        device: str = "auto",
        threads: int = 0,
        memory: int | None = None,
        precision: Precision | None = None,
        notify: Callable[[str], None] | None = None,
        policy: DecisionPolicy | None = None,
    ) -> None:
        config = RunConfig(
            passes=passes,
            seed=seed,
            masks=masks,
            flag_if=flag_if,
            calibration=None if calibration is None else str(calibration),
            adaptive=adaptive,
            precision=precision,
            device=device,
            threads=threads,
            memory=memory,
        )
        self.model = model if isinstance(model, ExportedModel) else read_model(as_path(model))
        self.contract = self.model.contract
        self.policy = policy or choose_policy(self.model, config)
        settings = self.policy.settings
        self.device = choose_device(device, threads, precision=settings.precision, memory=memory)
        self._options: EngineOptions = {
            "passes": settings.passes,
            "seed": settings.seed,
            "device": self.device,
            "notify": notify,
        }
        self._max_pixels, self._threads = config.max_pixels, config.threads
        self._distances = () if self.policy.calibration is None else self.policy.calibration.distances
        self._adaptive = adaptive
        self._open(plan_engine(self.model, masks=settings.masks, features=bool(self._distances)))

    def _open(self, plan: EnginePlan) -> None:
        """Open the engine in this process."""
        distances = self._distances
        self._early_exit = EarlyExitEngine(plan, distances=distances, **self._options) if self._adaptive else None
        self._engine = self._early_exit or PassEngine(plan, distances=distances, **self._options)
        self._raw_engine: PassEngine | None = None
        self._process = os.getpid()

    def _open_after_fork(self) -> None:
        """Open the engine again in a forked process, because sessions and threads do not exist after a fork.

        Raises:
            EngineFailed: the device is a GPU, which a fork cannot use.
        """
        if os.getpid() == self._process:
            return
        if self.device.name != "cpu":
            raise EngineFailed(
                f"The screener was created in process {self._process} on {self.device.name}, "
                f"and is used in process {os.getpid()}, a fork of that process.",
                wanted="a process that was not forked from a process that uses the GPU",
                next_step='start the process with multiprocessing.get_context("spawn"), and create the screener in '
                "that process",
            )
        self._open(self._engine.plan)

    def score(self, images: NDArray[np.uint8] | Sequence[LooseImage]) -> ScoredImages:
        """Score and flag images.

        A list may contain encoded images (`bytes`), paths of image files on a local disk, opened Pillow images, and
        arrays `uint8 [H, W, C]`, or `[H, W]` for a grey model. The images of a list are converted and resized as in a
        run. An image that cannot be read or scored is flagged, with its status as the reason. Its scores are NaN, and
        its prediction is -1.

        Args:
            images: `uint8 [B, H, W, C]` of the model's image size, raw pixels; or a list of B images.

        Raises:
            InputRefused: the images, or an array in the list, have another type or shape.
        """
        batch = self._decode(images)
        (summary,) = self.summarize_each([batch.images if batch.readable.any() else None])
        return collect_scores(batch, summary, *self.decide(batch, summary), self.contract, self.policy)

    def decide(self, batch: ImageBatch, summary: PassSummary | None) -> tuple[ImageBatch, ScoredRows | None]:
        """The batch with the failures of scoring, and the scores and flags of its readable rows.

        Args:
            batch: decoded rows.
            summary: statistics of the readable rows; None if no row is readable.
        """
        if summary is None:
            return batch, None
        failures = find_failures(summary, self.contract.task)
        return batch.fail_readable(failures), self.policy.apply(summary.drop(failures))

    def _decode(self, images: NDArray[np.uint8] | Sequence[LooseImage]) -> ImageBatch:
        if not isinstance(images, list | tuple) or not images:
            pixels = self._check(images)
            return ImageBatch((), pixels, np.ones(len(pixels), np.bool_), {})
        loose = [as_source(image, index, self.contract) for index, image in enumerate(images)]
        decoder = Decoder(self.contract, max_pixels=self._max_pixels, image_root=None, threads=self._threads)
        with closing(decoder):
            return decoder.decode_images(loose)

    def summarize_each(self, batches: Iterable[NDArray[np.uint8] | None]) -> Iterator[PassSummary | None]:
        """Yield the statistics of each batch, in order.

        With `adaptive`, several batches are read before the first statistics are yielded.

        Args:
            batches: images `uint8 [B, H, W, C]` of the model's image size; None for a batch without images, for which
                None is yielded.

        Raises:
            InputRefused: an array has another type or shape.
        """
        self._open_after_fork()
        checked = (None if images is None else self._check(images) for images in batches)
        if self._early_exit is not None:
            return self._early_exit.summarize_early_exit(checked, self.policy.entropy_limits)
        return (None if images is None else self._engine.summarize(images) for images in checked)

    def raw_passes(self, images: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
        """Yield the outputs of the T passes, in consecutive blocks `[P, B, C]` of P passes.

        Args:
            images: `uint8 [B, H, W, C]` of the model's image size, raw pixels.

        Raises:
            InputRefused: the array has another type or shape.
        """
        self._open_after_fork()
        if self._raw_engine is None:
            plan = plan_engine(self.model, masks=self.policy.settings.masks, raw=True)
            self._raw_engine = PassEngine(plan, **self._options)
        return self._raw_engine.raw_passes(self._check(images))

    def _check(self, images: Any) -> NDArray[np.uint8]:
        """The images, after a check of their type and shape.

        Raises:
            InputRefused: the type or the shape is wrong.
        """
        wanted = self.contract.image_shape
        found: tuple[int, ...] = getattr(images, "shape", ())
        if getattr(images, "dtype", None) != np.uint8 or found[1:] != wanted or len(found) != 4 or found[0] < 1:
            has_dtype = hasattr(images, "dtype")
            raise InputRefused(
                f"The images are {f'{images.dtype} {list(found)}' if has_dtype else _describe(images)}.",
                wanted=f"uint8 [B, {wanted[0]}, {wanted[1]}, {wanted[2]}] with B at least 1, raw pixels 0..255",
                next_step="decode and resize the images to this shape, and leave the scaling of pixels to the exported "
                "model; `score` also takes a list with any number of encoded images, paths or arrays",
            )
        checked: NDArray[np.uint8] = images
        return checked


def _describe(images: Any) -> str:
    """Description of an object that is not an array."""
    if isinstance(images, list | tuple):
        return f"{'a' if images else 'an empty'} {type(images).__name__}"
    return f"an object of type {type(images).__name__}, not a list"
