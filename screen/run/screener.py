"""Screener: an exported model and its decision policy, for batches in memory.

In: `uint8 [B, H, W, C]`. Out: a `PassSummary`, a `Decision`, or the raw passes. The command line
runs on this very class, so its numbers are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.contract.reader import ExportedModel, read_model
from export.errors import InputRefused
from screen.config import RunConfig
from screen.decide.policy import DecisionPolicy, choose_policy
from screen.decide.rules import Decision
from screen.engine.early_exit import EarlyExitEngine
from screen.engine.graph.features import GRID
from screen.engine.graph.plan import plan_engine
from screen.engine.passes import EngineOptions, PassEngine
from screen.engine.session import choose_device
from screen.engine.statistics import PassSummary
from screen.files.paths import as_path


class Screener:
    """Scores images by T Monte Carlo dropout passes.

    Args:
        model: a file that `oodscreen export` wrote, or such a file read.
        passes: T; 100 unless a calibration has another.
        seed: of the dropout masks; the same seed gives the same numbers. 0, or the calibration's.
        masks: `shared`: every row sees the same T thinned networks, and T passes cost little.
            `per-row`: independent masks for every row, as the article has them. `shared`, or the
            calibration's.
        flag_if: when to flag a row; the default follows from the kind of output. With a
            calibration, either one flags.
        calibration: a file of `oodscreen calibrate` for this model.
        adaptive: let a row's passes stop where its decision is settled; `passes` of its summary says
            after how many. Its scores are then estimates of those after T.
        device: `auto`, `cpu` or `cuda`.
        threads: threads that share the work; 0 for all cores. Results do not depend on it.
        memory: MiB that the tensors of a run may take.
        notify: told in one line when memory ran out and the runs become smaller.
        policy: who decides, where that is chosen already; passes, seed, masks, flag_if and calibration are
            then his, and no file is read for them.

    Raises:
        Refused: the model, the rule, the calibration or the device is not to be had, or an option cannot be meant.
    """

    def __init__(
        self,
        model: str | Path | ExportedModel,
        *,
        passes: int | None = None,
        seed: int | None = None,
        masks: str | None = None,
        flag_if: str | None = None,
        calibration: str | Path | None = None,
        adaptive: bool = False,
        device: str = "auto",
        threads: int = 0,
        memory: int = 512,
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
            threads=threads,
            memory=memory,
        )
        self.model = model if isinstance(model, ExportedModel) else read_model(as_path(model))
        self.contract = self.model.contract
        self.policy = policy or choose_policy(self.model, config)
        self.device = choose_device(device, threads)
        settings = self.policy.settings
        self._options: EngineOptions = {
            "passes": settings.passes,
            "seed": settings.seed,
            "device": self.device,
            "memory": memory * 2**20,
            "notify": notify,
        }
        distance = None if self.policy.calibration is None else self.policy.calibration.distance
        plan = plan_engine(self.model, masks=settings.masks, features=0 if distance is None else GRID)
        self._leaving = EarlyExitEngine(plan, distance=distance, **self._options) if adaptive else None
        self._engine = self._leaving or PassEngine(plan, distance=distance, **self._options)
        self._raw_engine: PassEngine | None = None

    def score(self, images: NDArray[np.uint8]) -> PassSummary:
        """What T passes say of each image.

        Args:
            images: `uint8 [B, H, W, C]` of the model's size.

        Raises:
            InputRefused: the array is not of that type and shape.
        """
        (summary,) = self.score_each([images])
        assert summary is not None  # noqa: S101  it is for None alone
        return summary

    def score_each(self, batches: Iterable[NDArray[np.uint8] | None]) -> Iterator[PassSummary | None]:
        """A summary for each batch, in order; when `adaptive`, some batches are taken before the first comes back.

        Args:
            batches: each `uint8 [B, H, W, C]` of the model's size; or None for a batch of no images, of which None
                comes back.

        Raises:
            InputRefused: an array is not of that type and shape.
        """
        checked = (None if images is None else self._check(images) for images in batches)
        summaries: Iterator[PassSummary | None]
        if self._leaving is None:
            summaries = (None if images is None else self._engine.summarize(images) for images in checked)
        else:
            summaries = self._leaving.summarize_early_exit(checked, self.policy.entropy_limits)
        return (None if summary is None else self.policy.complete(summary) for summary in summaries)

    def flag(self, summary: PassSummary) -> Decision:
        """Which of the scored images a person should look at, and why."""
        return self.policy.decide(summary)

    def raw_passes(self, images: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
        """The passes themselves, in blocks `[P, B, C]` that follow each other, T in all.

        Args:
            images: `uint8 [B, H, W, C]` of the model's size.

        Raises:
            InputRefused: the array is not of that type and shape.
        """
        if self._raw_engine is None:
            plan = plan_engine(self.model, masks=self.policy.settings.masks, raw=True)
            self._raw_engine = PassEngine(plan, **self._options)
        return self._raw_engine.raw_passes(self._check(images))

    def _check(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        wanted = self.contract.image_shape
        found: tuple[int, ...] = getattr(images, "shape", ())
        if getattr(images, "dtype", None) != np.uint8 or found[1:] != wanted or len(found) != 4 or found[0] < 1:
            raise InputRefused(
                f"The images are {getattr(images, 'dtype', type(images).__name__)} {list(found)}.",
                wanted=f"uint8 [B, {wanted[0]}, {wanted[1]}, {wanted[2]}] with B at least 1, in raw 0..255",
                next_step="give raw pixels; scaling is part of the exported model",
            )
        return images
