"""A calibration: what known rows score, bound to the model and the passes that scored them, in one file.

In: scores of known rows. Out: `ood_score`, `p_value` and the rule that flags, for any row.

Split conformal prediction (Vovk et al. 2005; Lei et al. 2018, sec. 2): the combined score is ranked
among rows that fitted nothing. Three parts of the known rows are disjoint: the bank that distances
are measured to, the rows that fit the detectors, and the rows that are ranked.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.errors import CalibrationRefused
from screen.config import PassSettings
from screen.decide.detectors import CombinedScore, Detector, Floats
from screen.engine.distance import Distance, distance_from_arrays
from screen.files.paths import as_path
from screen.files.storage import StagingFile

FORMAT = 1
"""Changes whenever an older calibration would be read wrongly."""

FIT_SHARE = 1 / 3
"""The share of the rows beside the bank that fit the detectors; the others are ranked."""

LEAST_FIT_ROWS = 100
"""Fewer rows make no tail."""


@dataclass(frozen=True)
class Binding:
    """What a calibration holds for: other numbers come from anything else.

    Attributes:
        model: SHA-256 of the exported file.
        mask_algorithm: how masks come from the seed.
        settings: T, seed and masks.
    """

    model: str
    mask_algorithm: str
    settings: PassSettings


@dataclass(frozen=True)
class Calibration:
    """What known rows score, and what follows for others.

    Attributes:
        binding: what it holds for.
        review_rate: the share of known rows that may be flagged.
        combination: the detectors.
        ranked: `[n]`, the combined score of the ranked rows, ascending.
        distance: how far features are from known ones; None where the trunk has none that say something.
        features: the tensor that features are taken from, and how; or why none are.
        fit_rows: how many rows fitted the detectors.
        digest: SHA-256 of the file's content; "" before it is written.
    """

    binding: Binding
    review_rate: float
    combination: CombinedScore
    ranked: Floats
    distance: Distance | None
    features: str
    fit_rows: int
    digest: str = ""

    @property
    def rule(self) -> str:
        """The flag rule, in the language of rules."""
        return f"p_value <= {self.review_rate!r}"

    @property
    def interval(self) -> tuple[float, float]:
        """Where the rate of flags among known rows lies, with 95 % confidence."""
        return rate_interval(len(self.ranked), self.review_rate)

    @property
    def threshold(self) -> float:
        """The combined score above which a row is flagged."""
        return float(self.ranked[-flagged_ranks(len(self.ranked), self.review_rate)])

    def score(self, scores: Mapping[str, NDArray[Any]]) -> Floats:
        """`ood_score`, `[B]`, from the scores as they are written."""
        return self.combination.score(scores)

    def p_values(self, ood_score: Floats) -> Floats:
        """`p_value`, `[B]`: (1 + ranked rows that score at least as high) / (n + 1)."""
        at_or_above = len(self.ranked) - np.searchsorted(self.ranked, ood_score, side="left")
        p: Floats = (1 + at_or_above) / (len(self.ranked) + 1)
        return p

    def check(self, binding: Binding) -> None:
        """Refuse a run whose model or passes differ from those of this calibration.

        Raises:
            CalibrationRefused: the run's binding is not this one's.
        """
        there, here = self.binding, binding
        pairs = {
            "is of another model": (there.model[:16], here.model[:16]),
            "was made with another version of the masks": (there.mask_algorithm, here.mask_algorithm),
        }
        for field in fields(PassSettings):
            values = (getattr(there.settings, field.name), getattr(here.settings, field.name))
            pairs[f"was made with another --{field.name}"] = values
        for what, (made, asked) in pairs.items():
            if made != asked:
                raise CalibrationRefused(
                    f"The calibration {what}: {made} there, {asked} here.",
                    wanted="the model, passes, seed and masks that it was made with",
                    next_step="leave --passes, --seed and --masks to the calibration, or run `oodscreen calibrate` "
                    "for this model and these passes",
                )

    def save(self, path: Path) -> str:
        """Write the file, whole or not at all, and give its digest.

        Raises:
            WriteFailed: the system refused.
        """
        arrays: dict[str, NDArray[Any]] = {"ranked": self.ranked}
        for detector in self.combination.detectors:
            arrays[f"detector/{detector.name}/knots"] = detector.knots
            arrays[f"detector/{detector.name}/surprises"] = detector.surprisals
        kind = ""
        if self.distance is not None:
            kind = self.distance.kind
            arrays |= {f"distance/{name}": array for name, array in self.distance.arrays().items()}
        header = {
            "format": FORMAT,
            "binding": asdict(self.binding),
            "review_rate": self.review_rate,
            "detectors": {detector.name: detector.slope for detector in self.combination.detectors},
            "distance": kind,
            "features": self.features,
            "fit_rows": self.fit_rows,
        }
        arrays["header"] = np.frombuffer(json.dumps(header, sort_keys=True).encode(), np.uint8)
        aside = StagingFile(path)
        with aside.writing(), open(aside.path, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes allow_pickle for an array
        digest = hashlib.sha256(aside.path.read_bytes()).hexdigest()
        aside.commit()
        return digest


def read_calibration(path: str | Path) -> Calibration:
    """Read a calibration; nothing in the file is ever run.

    Raises:
        CalibrationRefused: there is no such file, it is none of ours, or it is damaged.
    """
    path = as_path(path)
    try:
        data = path.read_bytes()
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(arrays["header"].tobytes())
        if header["format"] == FORMAT:
            return _parse(header, arrays, hashlib.sha256(data).hexdigest())
    except OSError as error:
        raise CalibrationRefused(
            f"The calibration {path} cannot be read: {error.strerror or error}.",
            wanted="a file written by `oodscreen calibrate`",
            next_step="check the path",
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise CalibrationRefused(
            f"{path} is no calibration, or a damaged one ({type(error).__name__}: {error}).",
            wanted="a file written by `oodscreen calibrate`, whole and unchanged",
            next_step="copy the file again, or run `oodscreen calibrate` anew",
        ) from error
    raise CalibrationRefused(
        f"{path} is of format {header['format']}.",
        wanted=f"format {FORMAT}, which this oodscreen reads",
        next_step="run `oodscreen calibrate` with this version",
    )


def _parse(header: dict[str, Any], arrays: dict[str, NDArray[Any]], digest: str) -> Calibration:
    detectors = tuple(
        Detector(name, arrays[f"detector/{name}/knots"], arrays[f"detector/{name}/surprises"], float(slope))
        for name, slope in header["detectors"].items()
    )
    prefix = "distance/"
    distance = None
    if header["distance"]:
        own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        distance = distance_from_arrays(header["distance"], own)
    return Calibration(
        binding=Binding(**{**header["binding"], "settings": PassSettings(**header["binding"]["settings"])}),
        review_rate=float(header["review_rate"]),
        combination=CombinedScore(detectors),
        ranked=arrays["ranked"],
        distance=distance,
        features=str(header["features"]),
        fit_rows=int(header["fit_rows"]),
        digest=digest,
    )


def split_rows(digests: NDArray[np.uint64], shares: tuple[float, ...]) -> list[NDArray[np.int64]]:
    """Cut rows into disjoint parts by their images, so that equal images are in one part.

    The order and the shards in which rows came do not matter.

    Args:
        digests: `[N]`, of the pixels.
        shares: of the parts, in order; their sum is 1.

    Returns:
        For each part the rows in it, as positions.
    """
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    ends = [round(len(order) * share) for share in np.cumsum(shares)]
    # No cut between equal images: a part goes on to the last of them.
    ends = [int(np.searchsorted(ordered, ordered[end - 1], side="right")) if end else 0 for end in ends]
    return [order[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def flagged_ranks(rows: int, review_rate: float) -> int:
    """k: a row is flagged whose score is above the k-th highest of the ranked rows; 0 where none can be."""
    ranks = int(review_rate * (rows + 1)) + 1
    while ranks and ranks / (rows + 1) > review_rate:  # as `p_value <= review_rate` compares
        ranks -= 1
    return ranks


def least_ranked_rows(review_rate: float) -> int:
    """How many ranked rows there must be at least, so that any row can be flagged."""
    rows = max(0, math.ceil(1 / review_rate) - 2)
    while not flagged_ranks(rows, review_rate):
        rows += 1
    return rows


def rate_interval(rows: int, review_rate: float, level: float = 0.95) -> tuple[float, float]:
    """Where the true rate of flags among known rows lies, given that so many rows are ranked.

    The rate is distributed over calibrations as Beta(k, n + 1 - k) (Vovk 2012, prop. 2a), with k of
    `flagged_ranks`; ties make it smaller. Central interval.

    Args:
        rows: n.
        review_rate: the share that may be flagged.
        level: of confidence, 0 to 1.
    """
    ranks = flagged_ranks(rows, review_rate)
    return tuple(_beta_quantile((1 + side * level) / 2, ranks, rows) for side in (-1, 1))  # type: ignore[return-value]


def _beta_quantile(q: float, k: int, n: int) -> float:
    """The q-quantile of Beta(k, n + 1 - k), by bisection: its CDF at x is P(Bin(n, x) >= k)."""
    hits = np.arange(k)
    log_ways = np.array([math.lgamma(n + 1) - math.lgamma(j + 1) - math.lgamma(n - j + 1) for j in hits.tolist()])
    low, high = 0.0, 1.0
    for _ in range(60):
        x = (low + high) / 2
        below = float(np.exp(log_ways + hits * math.log(x) + (n - hits) * math.log1p(-x)).sum())
        low, high = (x, high) if 1 - below < q else (low, x)
    return (low + high) / 2
