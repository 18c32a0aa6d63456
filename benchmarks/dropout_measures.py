"""Calibrate one way to use a network as a user would, score every set, and measure detection and probabilities.

In: an exported model with its number of passes, and the rows of a data set. Out: AUROC and flagged
share of each score, and accuracy, negative log-likelihood and calibration error of the mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import log_loss

from benchmarks.dropout_networks import Images, Labels
from screen.config import RunConfig
from screen.decide.config import CalibrationConfig
from screen.decide.detectors import CombinedScore, Detector
from screen.decide.row_sets import FITTING_SHARE, split_rows, threshold_rank
from screen.engine.distance import DISTANCES
from screen.engine.masks import identify_rows
from screen.review.evaluate.labelled import expected_calibration_error
from screen.review.evaluate.metrics import separate
from screen.run.calibration.calibrate import run_calibration
from screen.run.progress import LogLines
from screen.run.screener import Screener

REVIEW_RATE = 0.02

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Rows:
    """The rows of one data set.

    Attributes:
        held: folder of the held-out rows for the calibration.
        reference: folder of the rows of the reference set, which are training rows.
        known: images and labels of the sets `held` and `test`.
        others: images of each out-of-distribution set.
    """

    held: Path
    reference: Path
    known: Mapping[str, tuple[Images, Labels]]
    others: Mapping[str, Images]


@dataclass(frozen=True)
class Way:
    """A way to use a network.

    Attributes:
        name: `no dropout`, `one mask`, `passes`, or the location and the rate of an injection.
        model: exported model.
        passes: number of passes, T.
        masks: kind of masks; `none` is the network without dropout.
    """

    name: str
    model: Path
    passes: int
    masks: Literal["shared", "none"] = "shared"


def measure_way(way: Way, rows: Rows, kinds: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Calibrate as a user would, score every set, and measure detection and probabilities."""
    calibration = way.model.with_name(f"{way.model.stem}-{way.passes}-{way.masks}.calibration")
    wanted = CalibrationConfig(REVIEW_RATE, reference=str(rows.reference))
    config = RunConfig(passes=way.passes, masks=way.masks, device="cpu", threads=2)
    made = run_calibration(way.model, str(rows.held), calibration, config, wanted, LogLines()).calibration
    screener = Screener(way.model, calibration=calibration, device="cpu", threads=2)
    columns = {name: read_columns(screener, images) for name, (images, _) in rows.known.items()}
    columns |= {name: read_columns(screener, images) for name, images in rows.others.items()}
    # The rows that `calibrate` used for the detectors, and those that it used for the threshold.
    digests = np.unique(np.array(identify_rows(rows.known["held"][0]), np.uint64), return_index=True)
    fitting, ranked = (digests[1][part] for part in split_rows(digests[0], (FITTING_SHARE, 1 - FITTING_SHARE)))
    held = columns["held"]
    scores = {
        "ood_score": {name: one["ood_score"] for name, one in columns.items()},
        "distances": combine(DISTANCES, columns, fitting),
        **{one: {name: some[one] for name, some in columns.items()} for one in ("entropy", "mutual_information")},
    }
    assert np.allclose(np.sort(held["ood_score"][ranked]), made.calibration_scores)
    return {
        "passes": way.passes,
        "held": measure_mean(held["mean"], rows.known["held"][1]),
        "test": measure_mean(columns["test"]["mean"], rows.known["test"][1]),
        "known_flagged": float(columns["test"]["flag"].mean()),
        "scores": {name: measure_score(values, ranked, kinds) for name, values in scores.items()},
    }


def read_columns(screener: Screener, images: Images) -> Columns:
    """Columns of the results of some images, `[B]` each, and `mean` `[B, C]`."""
    table = screener.score(images).to_arrow()
    columns = {name: np.asarray(table[name]) for name in ("entropy", "mutual_information", *DISTANCES)}
    columns |= {name: np.asarray(table[name]) for name in ("ood_score", "flag")}
    return {**columns, "mean": np.stack(table["mean"].to_pylist())}


def combine(names: Sequence[str], columns: Mapping[str, Columns], fitting: NDArray[np.int64]) -> Columns:
    """Combined score of the rows of every set, with detectors that are fitted as in a calibration."""
    score = CombinedScore(tuple(Detector.fit(name, columns["held"][name][fitting]) for name in names))
    return {name: score.score(one) for name, one in columns.items()}


def measure_mean(mean: NDArray[np.float64], labels: Labels) -> dict[str, float]:
    """Accuracy, negative log-likelihood in nats and expected calibration error of mean probabilities `[B, C]`."""
    right = mean.argmax(axis=1) == labels
    shares = np.clip(mean / mean.sum(axis=1, keepdims=True), 1e-12, 1)
    return {
        "accuracy": float(right.mean()),
        "nll": float(log_loss(labels, shares, labels=range(mean.shape[1]))),
        "ece": expected_calibration_error(mean.max(axis=1), right),
    }


def measure_score(values: Columns, ranked: NDArray[np.int64], kinds: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """AUROC and share flagged at the target rate, for each set, and as means over each kind of sets."""
    scores = np.sort(values["held"][ranked])
    threshold = scores[-threshold_rank(len(scores), REVIEW_RATE)]
    found = {
        name: {
            "auroc": separate(values["test"], values[name], name, high_is_unusual=True).auroc,
            "flagged": float(np.mean(values[name] > threshold)),
        }
        for names in kinds.values()
        for name in names
    }
    for kind, names in kinds.items():
        mean = {key: float(np.mean([found[name][key] for name in names])) for key in ("auroc", "flagged")}
        found[f"kind {kind}"] = mean
    return {"known_flagged": float(np.mean(values["test"] > threshold)), "sets": found}
