"""`oodscreen calibrate`: score in-distribution rows, and write a calibration file.

In: an exported model, shards of held-out in-distribution rows, and optional reference shards. Out: a calibration file
and a `CalibrationReport`.

If a distance is a detector, the in-distribution rows or the reference shards are read first to fill the reference set,
for which no passes are run. The in-distribution rows are then read for the T passes, and with `--adaptive` once more
for the early exit. At the end, made-up images of several kinds are scored (`self_test.py`). The digest of a row's
pixels determines whether the row belongs to the reference set, the fitting set or the calibration set. The split
therefore does not depend on the order of rows or shards. Only one of several rows with equal images is used, and
near-copies of reference rows are left out, because the images of the calibration set must be independent of each other
and of the reference set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.contract.reader import ExportedModel, read_model
from export.errors import InputRefused, OptionRefused, OutputRefused
from screen.config import RunConfig
from screen.decide.adaptive import entropy_limits, refuse_early_exit
from screen.decide.calibration import Binding, Calibration, is_calibration
from screen.decide.config import CalibrationConfig
from screen.decide.copies import NearCopies, describe_images
from screen.decide.detectors import HIGH_IS_UNUSUAL, CombinedScore, Detector
from screen.decide.reference import MIN_REFERENCE_ROWS, REFERENCE_SHARE, ReferenceSet
from screen.decide.request import (
    CalibrationReport,
    StoppingReport,
    choose_detectors,
    no_detector,
)
from screen.decide.row_sets import FITTING_SHARE, least_rows, split_rows
from screen.decide.scores import score_columns
from screen.engine.device.choice import choose_device
from screen.engine.distance import DEFAULT_METRICS, DISTANCES, NeighbourDistance, fit_distance, group_of
from screen.engine.early_exit import EarlyExitEngine
from screen.engine.graph.plan import plan_engine
from screen.engine.masks import ALGORITHM, identify_rows
from screen.engine.passes import EngineOptions, PassEngine
from screen.input.decode import ImageBatch
from screen.run.calibration.copies import CopyCounter
from screen.run.calibration.rows import CalibrationRows
from screen.run.calibration.self_test import Examples, run_self_test
from screen.run.failures import find_failures
from screen.run.runner import Listener


def run_calibration(
    model_path: str | Path,
    source: str,
    output: str | Path,
    config: RunConfig,
    wanted: CalibrationConfig,
    listener: Listener,
) -> CalibrationReport:
    """Score in-distribution rows and write a calibration file.

    Args:
        model_path: file written by `oodscreen export`.
        source: held-out in-distribution rows: a shard, a folder of shards, or a glob.
        output: calibration file to write; an existing calibration is replaced.
        config: settings for reading rows and running passes.
        wanted: target rate, reference shards, distance and detectors.
        listener: object that receives progress and notices.

    Raises:
        Refused: the model or the output cannot be used, there are too few rows, some rows are also in the reference
            shards, or an option is invalid; with `config.adaptive`, the detectors do not allow an early exit.
        OodscreenError: a session run or the write failed; an existing calibration is unchanged.
    """
    model = read_model(model_path)
    _refuse_to_replace(Path(output))
    process = _CalibrationProcess(model, source, config, wanted, listener)
    calibration, reference_rows = process.calibrate()
    stopping = process.measure_early_exit(calibration) if config.adaptive else None
    digest = calibration.save(Path(output))
    saved = replace(calibration, digest=digest)
    return CalibrationReport(
        Path(output),
        saved,
        reference_rows,
        process.rows.count,
        dict(sorted(process.rows.statuses.items())),
        stopping,
        copies=process.copies.exact,
        near_copies=len(process.copies.near),
    )


@dataclass
class _CollectedScores:
    """Digests and detector scores of the scored rows; images are not kept.

    Attributes:
        digests: digests of the pixels, one array `[B]` for each batch.
        scores: for each detector, by name, its scores, one array `[B]` for each batch.
    """

    digests: list[NDArray[np.uint64]] = field(default_factory=list)
    scores: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)

    def close(self) -> tuple[NDArray[np.uint64], dict[str, NDArray[np.float32]]]:
        """Digests and scores of the n rows with distinct images, sorted by digest.

        Returns:
            The digests `[n]`, and for each detector, by name, the scores `[n]`.
        """
        digests, first = np.unique(np.concatenate([np.zeros(0, np.uint64), *self.digests]), return_index=True)
        return digests, {name: np.concatenate(batches)[first] for name, batches in self.scores.items()}


class _CalibrationProcess:
    """Makes one calibration: checks the options, splits and scores the rows, and fits the combined score."""

    def __init__(
        self, model: ExportedModel, source: str, config: RunConfig, wanted: CalibrationConfig, listener: Listener
    ) -> None:
        self._model, self._config, self._wanted, self._listener = model, config, wanted, listener
        self.rows = CalibrationRows(model.contract, config, listener)
        self._settings = config.settings()
        plan = plan_engine(model, masks=self._settings.masks, features=True)
        self._features = plan.features
        self._detectors = choose_detectors(model.contract, wanted, plan.features, self._settings.passes)
        if not plan.features.groups and not wanted.detectors:
            listener.noted(f"no distance is available ({plan.features.early.why}); uncertainty is the only detector")
        if config.adaptive:
            refuse_early_exit(model.contract, None, self._detectors)
        shards = self.rows.find(source)
        self._require_rows(sum(shard.rows for shard in shards), "rows")
        self._shards = shards
        self.copies = CopyCounter(sum(shard.rows for shard in shards), listener.noted)
        self._reference = None if wanted.reference is None else self.rows.find(wanted.reference)
        self._device = choose_device(
            config.device, config.threads, precision=self._settings.precision, memory=config.memory
        )
        self.rows.device_note = self._device.note
        self._plan = plan
        self._options: EngineOptions = {
            "passes": self._settings.passes,
            "seed": self._settings.seed,
            "device": self._device,
            "notify": listener.noted,
        }
        self._engine = PassEngine(plan, **self._options)
        self._examples = Examples()

    @property
    def _distances(self) -> tuple[str, ...]:
        """Names of the distances among the detectors."""
        return tuple(name for name in self._detectors if name in DISTANCES)

    def calibrate(self) -> tuple[Calibration, int]:
        """Fill the reference set, run the passes, and fit the detectors.

        Returns:
            The calibration, and the number of rows in the reference set.
        """
        distances, reference, near_copies = self._fill_reference()
        own = np.zeros(0, np.uint64) if self._reference is not None else reference
        digests, by_detector = self._score_rows(own, distances, near_copies).close()
        self.copies.count(self.rows.count - sum(self.rows.statuses.values()), len(digests) + len(own))
        kind = "distinct readable rows" if self.copies.exact else "readable rows"
        self._require_rows(len(digests) + len(own), kind)
        fitting, calibration_rows = split_rows(digests, (FITTING_SHARE, 1 - FITTING_SHARE))
        self._calibration_digests = digests[calibration_rows]
        constant = [name for name in self._distances if np.ptp(by_detector[name][fitting]) == 0]
        names = [name for name in self._detectors if name not in constant]
        if not names:
            raise OptionRefused(
                f"{' and '.join(constant)} cannot be a detector: all rows have the same features.",
                wanted="at least one detector with different values for different rows",
                next_step="add another detector, for example --detector entropy",
            )
        if constant:
            self._listener.noted(f"not used, because all rows have the same features: {', '.join(constant)}")
        combined_score = CombinedScore(tuple(Detector.fit(name, by_detector[name][fitting]) for name in names))
        scores = np.sort(combined_score.score({name: by_detector[name][calibration_rows] for name in names}))
        used = tuple(distance for distance in distances if distance.name in names)
        features = self._features.describe(tuple(group_of(distance.name) for distance in used))
        calibration = Calibration(
            Binding(self._model.digest, ALGORITHM, self._settings),
            self._wanted.review_rate,
            combined_score,
            scores,
            used,
            features,
            fit_rows=len(fitting),
        )
        available = [f"{group}_distance" for group in self._features.groups]
        unused = [name for name in available if name not in (*names, *constant)]
        shares, warnings = run_self_test(self._engine, calibration, self._examples.images, unused)
        for warning in warnings:
            self._listener.warned(warning)
        return replace(calibration, self_test=shares), len(reference)

    def measure_early_exit(self, calibration: Calibration) -> StoppingReport:
        """Score the calibration set again with early exit, and compare the flags with the flags after all passes."""
        engine = EarlyExitEngine(self._plan, distances=calibration.distances, **self._options)
        limits = partial(entropy_limits, None, calibration)
        scores, passes = [], []
        for summary in engine.summarize_early_exit(self._calibration_images(), limits):
            if summary is None:
                continue
            scores.append(calibration.score(score_columns(summary)))
            passes.append(summary.passes)
        return StoppingReport(
            flagged=float(np.mean(np.concatenate(scores) > calibration.threshold)),
            flagged_by_all=float(np.mean(calibration.calibration_scores > calibration.threshold)),
            mean_passes=float(np.mean(np.concatenate(passes))),
        )

    def _calibration_images(self) -> Iterator[NDArray[np.uint8] | None]:
        """Distinct images of the calibration set, in batches; None for a batch without new images of the set."""
        left = self._calibration_digests
        for batch in self.rows.read(self._shards, count=False):
            digests, first = np.unique(_digests(batch), return_index=True)
            kept = first[np.isin(digests, left)]
            left = np.setdiff1d(left, digests)
            yield batch.images[np.sort(kept)] if len(kept) else None

    def _fill_reference(self) -> tuple[tuple[NeighbourDistance, ...], NDArray[np.uint64], NearCopies | None]:
        """Fill the reference set.

        Returns:
            The fitted distances, the digests of the rows in the reference set, and the search for their near-copies;
            the first two are empty and the last is None if no distance is a detector.
        """
        if not self._distances:
            if self._reference is not None:
                self._listener.warned("--reference has no effect: no distance is a detector of this calibration")
            return (), np.zeros(0, np.uint64), None
        groups = {name: self._features.groups[group_of(name)] for name in self._distances}
        reference = ReferenceSet(sum(columns.stop - columns.start for columns in groups.values()))
        for batch in self.rows.read(self._reference or self._shards, count=False):
            reference.add(_digests(batch), self._engine.features(batch.images), describe_images(batch.images))
        seen = reference.all_seen()
        if self._reference is None:
            self._require_rows(len(seen), "readable rows")
        else:
            self._refuse_overlap(seen)
        digests, features, descriptors = reference.close(REFERENCE_SHARE if self._reference is None else 1)
        if len(digests) < MIN_REFERENCE_ROWS:
            raise InputRefused(
                f"The reference set has {len(digests)} distinct rows, selected from {len(seen)} readable "
                f"rows{self.rows.describe_failure()}.",
                wanted=f"at least {MIN_REFERENCE_ROWS} distinct rows; thousands are better",
                next_step="give more rows with distinct images, in the image size of the model; the shards of "
                "--reference may contain training rows, IN_DISTRIBUTION may not",
            )
        metrics = {name: self._wanted.distance or DEFAULT_METRICS[name] for name in groups}
        fitted = (
            fit_distance(name, features, columns, self._device, metrics[name]) for name, columns in groups.items()
        )
        return tuple(fitted), digests, NearCopies(descriptors, self._model.contract.channels)

    def _score_rows(
        self,
        reference: NDArray[np.uint64],
        distances: tuple[NeighbourDistance, ...],
        near_copies: NearCopies | None,
    ) -> _CollectedScores:
        """Run the T passes over all rows outside the reference set, except near-copies of reference rows.

        Args:
            reference: digests of the rows that are in the reference set; empty with reference shards.
            distances: the fitted distances.
            near_copies: the search for near-copies of the reference set; None without a reference set.

        Raises:
            InputRefused: too many rows are near-copies.
        """
        self._engine.set_distances(distances)
        rows = _CollectedScores()
        for batch in self.rows.read(self._shards, count=True):
            digests = _digests(batch)
            kept = ~np.isin(digests, reference)
            if near_copies is not None:
                kept &= ~self.copies.find_near_copies(batch, near_copies, kept)
            if not kept.any():
                continue
            self._examples.add(digests[kept], batch.images[kept])
            summary = self._engine.summarize(batch.images[kept])
            failures = find_failures(summary, self._model.contract.task)
            self.rows.add_failures(failures.values())
            scores = score_columns(summary.drop(failures))
            rows.digests.append(np.delete(digests[kept], list(failures)))
            for name in self._detectors:
                if name not in scores:
                    raise no_detector(
                        name, "the graph of the model has no logits", [one for one in HIGH_IS_UNUSUAL if one in scores]
                    )
                rows.scores.setdefault(name, []).append(scores[name])
        return rows

    def _refuse_overlap(self, reference: NDArray[np.uint64]) -> None:
        """Refuse in-distribution rows whose pixels are also in the reference shards, before any row is scored."""
        digests = [_digests(batch) for batch in self.rows.read(self._shards, count=False)]
        rows = np.concatenate([np.zeros(0, np.uint64), *digests])
        both = np.isin(rows, reference)
        if both.any():
            raise InputRefused(
                f"{int(both.sum())} of {len(rows)} in-distribution rows are also in the reference shards.",
                wanted="rows outside the reference shards: the distance of a row from itself is 0",
                next_step="remove these rows from IN_DISTRIBUTION or from --reference",
            )

    def _require_rows(self, rows: int, kind: str) -> None:
        """Refuse fewer rows than the target rate requires.

        Args:
            rows: number of rows.
            kind: noun for the rows in the error: `rows` before they are read, else `readable rows` or `distinct
                readable rows`.

        Raises:
            InputRefused: there are too few rows.
        """
        share = REFERENCE_SHARE if self._distances and self._wanted.reference is None else 0.0
        needed = least_rows(self._wanted.review_rate, share)
        if rows < needed:
            raise InputRefused(
                f"The in-distribution shards contain {rows} {kind}{self.rows.describe_failure()}.",
                wanted=f"at least {needed} readable rows for a target rate of {self._wanted.review_rate:g}; "
                f"{10 * needed} are better",
                next_step="give more rows on which the model was not trained, in the image size of the model, or a "
                "higher --review-rate",
            )


def _refuse_to_replace(output: Path) -> None:
    """Refuse an output file that exists and is not a calibration; a calibration of another version can be replaced."""
    if output.exists() and not is_calibration(output):
        raise OutputRefused(
            f"{output} exists and is not a calibration.",
            wanted="the path of a new file, or of a calibration to replace",
            next_step="choose another name",
        )


def _digests(batch: ImageBatch) -> NDArray[np.uint64]:
    """Digests of the pixels of the readable rows, `[B]`."""
    return np.array(identify_rows(batch.images), np.uint64)
