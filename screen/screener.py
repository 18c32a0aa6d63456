"""Screener: an exported model and how to judge with it, for batches in memory.

In: `uint8 [B, H, W, C]`. Out: a `PassSummary`, a `Decision`, or the raw passes. The command line
runs on this very class, so its numbers are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.contract import ExportedModel, read_model
from export.errors import InputRefused
from screen.config import RunConfig
from screen.decide.rules import Decision, default_rule, parse_rule
from screen.decide.scores import score_columns
from screen.engine.passes import PassEngine
from screen.engine.plan import plan_engine
from screen.engine.session import choose_device
from screen.engine.statistics import PassSummary


class Screener:
    """Scores images by T Monte Carlo dropout passes.

    Args:
        model: a file that `oodscreen export` wrote, or such a file read.
        passes: T.
        seed: of the dropout masks; the same seed gives the same numbers.
        masks: `shared`: every row sees the same T thinned networks, and T passes cost little.
            `per-row`: independent masks for every row, as the article has them.
        flag_if: when to flag a row; the default follows from the kind of output.
        device: `auto`, `cpu` or `cuda`.
        threads: threads that share the work; 0 for all cores. Results do not depend on it.
        memory: MiB that the tensors of a run may take.
        notify: told in one line when memory ran out and the runs become smaller.

    Raises:
        Refused: the model, the rule or the device is not to be had, or an option cannot be meant.
    """

    def __init__(
        self,
        model: str | Path | ExportedModel,
        *,
        passes: int = 100,
        seed: int = 0,
        masks: str = "shared",
        flag_if: str | None = None,
        device: str = "auto",
        threads: int = 0,
        memory: int = 512,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        RunConfig(passes=passes, seed=seed, masks=masks, threads=threads, memory=memory)  # checks them
        self.model = model if isinstance(model, ExportedModel) else read_model(model)
        self.contract = self.model.contract
        self.rule = parse_rule(default_rule(self.contract) if flag_if is None else flag_if, self.contract)
        self.device = choose_device(device, threads)
        self._masks = masks
        self._open_engine = partial(
            PassEngine, passes=passes, seed=seed, device=self.device, memory=memory * 2**20, notify=notify
        )
        self._engine = self._open_engine(plan_engine(self.model, masks=masks))
        self._raw_engine: PassEngine | None = None

    def score(self, images: NDArray[np.uint8]) -> PassSummary:
        """What T passes say of each image.

        Args:
            images: `uint8 [B, H, W, C]` of the model's size.

        Raises:
            InputRefused: the array is not of that type and shape.
        """
        return self._engine.summarize(self._check(images))

    def flag(self, summary: PassSummary) -> Decision:
        """Which of the scored images a person should look at, and why."""
        return self.rule.decide(score_columns(summary))

    def raw_passes(self, images: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
        """The passes themselves, in blocks `[P, B, C]` that follow each other, T in all.

        Args:
            images: `uint8 [B, H, W, C]` of the model's size.

        Raises:
            InputRefused: the array is not of that type and shape.
        """
        if self._raw_engine is None:
            self._raw_engine = self._open_engine(plan_engine(self.model, masks=self._masks, raw=True))
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
