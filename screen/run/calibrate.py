"""`oodscreen calibrate`: the same loop over rows that are known to be in distribution, into one file.

In: an exported model, shards of held-out in-distribution rows, and perhaps reference shards. Out: a
calibration file and a `CalibrationReport`.

The rows are read once or twice: once to fill the bank that distances are measured to, which takes the trunk
alone, then for the T passes. Which row goes to which part follows from its pixels, so that neither
the order nor the cut into shards matters, and equal images never lie on both sides.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.contract.reader import ExportedModel, read_model
from export.errors import CalibrationRefused, InputRefused, OptionRefused, OutputRefused
from screen.config import CalibrationConfig, RunConfig
from screen.decide.adaptive import entropy_limits, refuse_early_exit
from screen.decide.calibration import (
    FITTING_SHARE,
    MIN_FITTING_ROWS,
    Binding,
    Calibration,
    min_calibration_rows,
    read_calibration,
    split_rows,
    threshold_rank,
)
from screen.decide.detectors import HIGH_IS_UNUSUAL, CombinedScore, Detector
from screen.decide.reference import MIN_REFERENCE_ROWS, REFERENCE_SHARE, ReferenceSet
from screen.decide.request import (
    CalibrationReport,
    StoppingReport,
    choose_detectors,
    no_detector,
)
from screen.decide.scores import score_columns
from screen.engine.distance import DISTANCES, Distance
from screen.engine.early_exit import EarlyExitEngine
from screen.engine.graph.features import GRID
from screen.engine.graph.plan import plan_engine
from screen.engine.masks import ALGORITHM, identify_rows
from screen.engine.passes import EngineOptions, PassEngine
from screen.engine.session import choose_device
from screen.input.decode import ImageBatch
from screen.input.images import batch_rows, decode_ahead
from screen.input.mapping import map_columns
from screen.input.overlap import StageClock
from screen.input.rows import read_batches
from screen.input.shards import ShardRef, find_shards
from screen.run.runner import Listener
from screen.run.scoring import NON_FINITE


def run_calibration(
    model_path: str | Path,
    source: str,
    output: str | Path,
    config: RunConfig,
    wanted: CalibrationConfig,
    listener: Listener,
) -> CalibrationReport:
    """Score in-distribution rows and write what follows from them.

    Args:
        model_path: a file that `oodscreen export` wrote.
        source: held-out in-distribution rows: a shard, a folder of shards, or a glob.
        output: the calibration file; replaced if there is one.
        config: how rows are read and passes are run.
        wanted: what is calibrated.
        listener: told how it goes on.

    Raises:
        Refused: too few rows, rows that are in the reference too, or an option that cannot be meant; with
            `config.adaptive`, detectors that no early decision can be taken by.
    """
    model = read_model(model_path)
    _refuse_to_replace(Path(output))
    work = _Calibrating(model, source, config, wanted, listener)
    calibration, reference_rows = work.calibrate()
    stopping = work.try_stopping(calibration) if config.adaptive else None
    digest = calibration.save(Path(output))
    made = replace(calibration, digest=digest)
    return CalibrationReport(
        Path(output), made, reference_rows, work.rows, dict(sorted(work.statuses.items())), stopping
    )


@dataclass
class _Rows:
    """What is kept of the rows that were scored: their digests and detectors, no images."""

    digests: list[NDArray[np.uint64]] = field(default_factory=list)
    scores: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)

    def all_digests(self) -> NDArray[np.uint64]:
        return np.concatenate(self.digests) if self.digests else np.zeros(0, np.uint64)

    def of(self, name: str) -> NDArray[np.float32]:
        return np.concatenate(self.scores[name])


class _Calibrating:
    """One calibration, from its checks to its parts."""

    def __init__(
        self, model: ExportedModel, source: str, config: RunConfig, wanted: CalibrationConfig, listener: Listener
    ) -> None:
        self._model, self._config, self._wanted, self._listener = model, config, wanted, listener
        self._settings = config.settings()
        plan = plan_engine(model, masks=self._settings.masks, features=GRID)
        self._features = plan.features
        self._detectors = choose_detectors(model.contract, wanted.detectors, plan.features)
        if not plan.features.tensor and not wanted.detectors:
            listener.noted(f"no distance in trunk features, uncertainty alone ({plan.features.why})")
        if config.adaptive:
            refuse_early_exit(model.contract, None, self._detectors)
        shards = find_shards(source)[0]
        self._demand_rows(sum(shard.rows for shard in shards), "hold")
        self._shards = shards
        self._reference = None if wanted.reference is None else find_shards(wanted.reference)[0]
        self._device = choose_device(config.device, config.threads)
        self._plan = plan
        self._options: EngineOptions = {
            "passes": self._settings.passes,
            "seed": self._settings.seed,
            "device": self._device,
            "memory": config.memory * 2**20,
            "notify": listener.noted,
        }
        self._engine = PassEngine(plan, **self._options)
        self.rows = 0
        self.statuses: dict[str, int] = {}
        self._first_failure = ""

    @property
    def _uses_distance(self) -> bool:
        return "feature_distance" in self._detectors

    def calibrate(self) -> tuple[Calibration, int]:
        """Fill the bank, run the passes, fit and rank."""
        distance, bank, why = self._fill_reference()
        rows = self._score_rows(None if self._reference is not None else bank, distance)
        digests = rows.all_digests()
        if self._reference is not None:
            self._refuse_overlap(digests)
        self._demand_rows(len(digests) + (0 if self._reference is not None else len(bank)), "hold readable")
        fit, ranked = split_rows(digests, (FITTING_SHARE, 1 - FITTING_SHARE))
        if 2 * len(fit) < MIN_FITTING_ROWS or not threshold_rank(len(ranked), self._wanted.review_rate):
            least = min_calibration_rows(self._wanted.review_rate)
            raise InputRefused(
                f"Too many rows repeat each other: {len(fit)} would fit the detectors and {len(ranked)} be ranked.",
                wanted=f"at least {MIN_FITTING_ROWS} and {least}, where equal rows are in one part",
                next_step="give more rows that differ",
            )
        self._ranked = digests[ranked]
        names = list(self._detectors)
        if distance is not None and np.ptp(rows.of("feature_distance")[fit]) == 0:
            names.remove("feature_distance")
            distance, why = None, "none: every row has the same features"
        if not names:
            raise OptionRefused(
                f"There is nothing to tell rows apart by ({why}).",
                wanted="at least one detector that the model yields",
                next_step="add --detector entropy, or another score",
            )
        combination = CombinedScore(tuple(Detector.fit(name, rows.of(name)[fit]) for name in names))
        scores = np.sort(combination.score({name: rows.of(name)[ranked] for name in names}))
        binding = Binding(self._model.digest, ALGORITHM, self._settings)
        calibration = Calibration(
            binding, self._wanted.review_rate, combination, scores, distance, why, fit_rows=len(fit)
        )
        return calibration, len(bank)

    def try_stopping(self, calibration: Calibration) -> StoppingReport:
        """Score the ranked rows once more, with passes that stop where the decision is settled."""
        engine = EarlyExitEngine(self._plan, distance=calibration.distance, **self._options)
        limits = partial(entropy_limits, None, calibration)
        scores, passes = [], []
        for summary in engine.summarize_early_exit(self._ranked_images(), limits):
            if summary is None:
                continue
            scores.append(calibration.score(score_columns(summary)))
            passes.append(summary.passes)
        return StoppingReport(
            flagged=float(np.mean(np.concatenate(scores) > calibration.threshold)),
            flagged_by_all=float(np.mean(calibration.calibration_scores > calibration.threshold)),
            mean_passes=float(np.mean(np.concatenate(passes))),
        )

    def _ranked_images(self) -> Iterator[NDArray[np.uint8] | None]:
        """The images of the ranked rows, in batches; None for a batch without any."""
        for batch in self._read(self._shards, count=False):
            kept = np.isin(_digests(batch), self._ranked)
            yield batch.images[kept] if kept.any() else None

    def _fill_reference(self) -> tuple[Distance | None, NDArray[np.uint64], str]:
        """The distance, the digests of its rows, and where its features come from."""
        if not self._uses_distance:
            why = self._features.describe() if not self._features.tensor else "none: feature_distance is no detector"
            if self._reference is not None:
                self._listener.noted("--reference is not read: no distance in trunk features is measured")
            return None, np.zeros(0, np.uint64), why
        bank = ReferenceSet(self._features.size)
        for batch in self._read(self._reference or self._shards, count=False):
            bank.add(_digests(batch), self._engine.features(batch.images))
        seen = bank.all_seen()
        if self._reference is None:
            self._demand_rows(len(seen), "hold readable")
        digests, features = bank.close(REFERENCE_SHARE if self._reference is None else 1)
        if len(digests) < MIN_REFERENCE_ROWS:
            raise InputRefused(
                f"The bank has {len(digests)} readable rows that differ, of {len(seen)}.",
                wanted=f"at least {MIN_REFERENCE_ROWS}, better thousands, that do not repeat each other",
                next_step="give more rows; for the reference, training rows will do",
            )
        self._reference_digests = seen
        return DISTANCES[self._wanted.distance].fit(features), digests, self._features.describe()

    def _score_rows(self, bank: NDArray[np.uint64] | None, distance: Distance | None) -> _Rows:
        """The T passes over every row that is not in the bank."""
        if distance is not None:
            self._engine.set_distance(distance)
        rows = _Rows()
        for batch in self._read(self._shards, count=True):
            digests = _digests(batch)
            kept = np.ones(len(digests), np.bool_) if bank is None else ~np.isin(digests, bank)
            if not kept.any():
                continue
            summary = self._engine.summarize(batch.images[kept])
            finite = summary.is_finite
            if not finite.all():
                self._count(NON_FINITE[0], int((~finite).sum()))
            scores = score_columns(summary.take(finite))
            rows.digests.append(digests[kept][finite])
            for name in self._detectors:
                if name not in scores:
                    raise no_detector(
                        name, "its graph has no logits", [one for one in HIGH_IS_UNUSUAL if one in scores]
                    )
                rows.scores.setdefault(name, []).append(scores[name])
        return rows

    def _read(self, shards: list[ShardRef], *, count: bool) -> Iterator[ImageBatch]:
        """Batches of images, decoded ahead; batches without a readable row are passed over."""
        config, contract = self._config, self._model.contract
        columns = map_columns(shards, config, contract)
        self._listener.started(len(shards), sum(shard.rows for shard in shards), 0, self._device.note)
        batches = read_batches(shards, columns, batch_rows(config, contract))
        with closing(decode_ahead(batches, contract, config, StageClock())) as decoded:
            for batch in decoded:
                for status, error in batch.failures.values():
                    self._first_failure = self._first_failure or f"{status}: {error}"
                    if count:
                        self._count(status, 1)
                self.rows += len(batch.readable) if count else 0
                if batch.readable.any():
                    yield batch
                self._listener.advanced(len(batch.readable))

    def _count(self, status: str, rows: int) -> None:
        self.statuses[status] = self.statuses.get(status, 0) + rows

    def _refuse_overlap(self, digests: NDArray[np.uint64]) -> None:
        if not self._uses_distance:
            return
        both = np.isin(digests, self._reference_digests)
        if both.any():
            raise InputRefused(
                f"{int(both.sum())} of {len(digests)} in-distribution rows are in the reference too, pixel by pixel.",
                wanted="rows that the reference does not hold: a row is at no distance from itself",
                next_step="take these rows out of one of the two",
            )

    def _least_rows(self) -> int:
        """The fewest rows that make parts that are large enough."""
        least = min_calibration_rows(self._wanted.review_rate)
        share = REFERENCE_SHARE if self._uses_distance and self._wanted.reference is None else 0.0

        def is_enough(rows: int) -> bool:
            rest = rows - int(rows * share)
            fit = round(rest * FITTING_SHARE)
            return fit >= MIN_FITTING_ROWS and rest - fit >= least

        start = int(max(MIN_FITTING_ROWS / FITTING_SHARE, least / (1 - FITTING_SHARE)) / (1 - share)) - 5
        return next(rows for rows in itertools.count(start) if is_enough(rows))

    def _demand_rows(self, rows: int, verb: str) -> None:
        """Refuse fewer rows than the review rate needs."""
        needed = self._least_rows()
        if rows < needed:
            failed = (
                f" (the first that failed: {self._first_failure})" if verb != "hold" and self._first_failure else ""
            )
            raise InputRefused(
                f"The in-distribution shards {verb} {rows} rows{failed}.",
                wanted=f"at least {needed} readable rows for a review rate of {self._wanted.review_rate:g}, "
                "better ten times as many",
                next_step="give more rows that the model was not trained on, of the size that it takes, or a higher "
                "--review-rate",
            )


def _refuse_to_replace(output: Path) -> None:
    """A calibration may replace an earlier one, and nothing else."""
    if not output.exists():
        return
    try:
        read_calibration(output)
    except CalibrationRefused as error:
        raise OutputRefused(
            f"{output} exists and is no calibration.",
            wanted="a new file, or an earlier calibration to replace",
            next_step="choose another name",
        ) from error


def _digests(batch: ImageBatch) -> NDArray[np.uint64]:
    return np.array(identify_rows(batch.images), np.uint64)
