"""Calibration: scores of in-distribution rows, bound to the model and the passes that produced them, in one file.

In: scores of in-distribution rows. Out: `ood_score` and `p_value` of any row, and the flag rule.

Split conformal prediction (Vovk et al. 2005; Lei et al. 2018, sec. 2): a row's combined score is ranked among the
scores of a calibration set, on which neither the distances nor the detectors were fitted. The in-distribution rows are
split into disjoint sets: the reference set (for the distances, unless reference shards are given), the fitting set (for
the detectors) and the calibration set.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from export.errors import CalibrationRefused, reason_of
from screen.decide.detectors import HIGH_IS_UNUSUAL, CombinedScore, Detector, Floats
from screen.decide.row_sets import rate_interval, threshold_rank
from screen.engine.distance import DISTANCES, Metric, NeighbourDistance
from screen.engine.transform import Transform
from screen.files.paths import as_path, open_bytes
from screen.files.storage import StagingFile
from screen.settings.passes import MaskMode, PassSettings, Precision

FORMAT, _FORMAT_WITHOUT_DROPOUT = 2, 3
"""Versions of the file format; `FORMAT` changes whenever older files would be misread. A calibration with masks `none`
has the version `_FORMAT_WITHOUT_DROPOUT`, because versions of oodscreen that read only `FORMAT` would draw random
masks."""


@dataclass(frozen=True)
class Binding:
    """The model and the passes for which a calibration is valid; other models or passes produce different scores.

    Attributes:
        model: SHA-256 of the exported file.
        mask_algorithm: version of the algorithm that draws masks from the seed.
        settings: number of passes, seed, kind of masks and precision.
    """

    model: str
    mask_algorithm: str
    settings: PassSettings


@dataclass(frozen=True)
class Calibration:
    """A combined score with its distribution over in-distribution rows, and the target rate of flags.

    Attributes:
        binding: the model and the passes for which the calibration is valid.
        review_rate: target share of in-distribution rows that are flagged.
        combined_score: the fitted detectors.
        calibration_scores: `[n]`, combined scores of the calibration set, ascending.
        distances: the distances from the reference set that are detectors.
        features: for each group of features that a distance uses, its name and a description of its tensor.
        fit_rows: number of rows in the fitting set.
        self_test: for each kind of made-up image, its name and the share that the calibration flags (see
            `screen.run.calibration.self_test`).
        digest: SHA-256 of the file's content; "" before the file is written.
    """

    binding: Binding
    review_rate: float
    combined_score: CombinedScore
    calibration_scores: Floats
    distances: tuple[NeighbourDistance, ...]
    features: tuple[tuple[str, str], ...]
    fit_rows: int
    self_test: tuple[tuple[str, float], ...] = ()
    digest: str = ""

    @property
    def rule(self) -> str:
        """The flag rule, as text."""
        return f"p_value <= {self.review_rate!r}"

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the flag rate of in-distribution rows, as shares."""
        return rate_interval(len(self.calibration_scores), self.review_rate)

    @property
    def threshold(self) -> float:
        """The combined score above which a row is flagged."""
        return float(self.calibration_scores[-threshold_rank(len(self.calibration_scores), self.review_rate)])

    def score(self, scores: Mapping[str, NDArray[Any]]) -> Floats:
        """`ood_score`, `[B]`, in nats.

        Args:
            scores: values of each score by name, `[B]`, in the types of the result columns.
        """
        return self.combined_score.score(scores)

    def p_values(self, ood_score: Floats) -> Floats:
        """`p_value`, `[B]`: (1 + k) / (1 + n), where k of the n calibration scores are at least `ood_score`."""
        at_or_above = len(self.calibration_scores) - np.searchsorted(self.calibration_scores, ood_score, side="left")
        p: Floats = (1 + at_or_above) / (len(self.calibration_scores) + 1)
        return p

    def check(self, binding: Binding) -> None:
        """Refuse a run whose model or passes differ from those of this calibration.

        Raises:
            CalibrationRefused: the binding of the run differs from that of the calibration.
        """
        own = self.binding
        differences: list[tuple[str, object, object, str]] = [
            ("is of another model", own.model[:16], binding.model[:16], "give the model of the calibration"),
            (
                "was made with another version of the mask algorithm",
                own.mask_algorithm,
                binding.mask_algorithm,
                "use the version of oodscreen of the calibration",
            ),
        ]
        for field in fields(PassSettings):
            values = (getattr(own.settings, field.name), getattr(binding.settings, field.name))
            step = "leave out --passes, --seed, --masks and --precision, which the calibration sets"
            differences.append((f"was made with another --{field.name}", *values, step))
        for problem, calibrated, requested, step in differences:
            if calibrated != requested:
                raise CalibrationRefused(
                    f"The calibration {problem}: {calibrated} in the calibration, {requested} in this run.",
                    wanted="the model, passes, seed, masks and precision of the calibration",
                    next_step=f"{step}, or run `oodscreen calibrate` for this model and these passes",
                )

    def save(self, path: Path) -> str:
        """Write the calibration file atomically, and return the SHA-256 of its content.

        Raises:
            WriteFailed: the operating system refused to write.
        """
        arrays: dict[str, NDArray[Any]] = {"ranked": self.calibration_scores}
        for detector in self.combined_score.detectors:
            arrays[f"detector/{detector.name}/knots"] = detector.knots
            arrays[f"detector/{detector.name}/surprises"] = detector.surprisals
        for distance in self.distances:
            arrays |= {f"distance/{distance.name}/{name}": array for name, array in _distance_arrays(distance).items()}
        header = {
            "format": _FORMAT_WITHOUT_DROPOUT if self.binding.settings.masks == "none" else FORMAT,
            "binding": asdict(self.binding) | {"settings": self.binding.settings.to_json()},
            "review_rate": self.review_rate,
            "detectors": [[detector.name, detector.slope] for detector in self.combined_score.detectors],
            "distances": {one.name: [one.metric, list(one.columns), one.neighbours] for one in self.distances},
            "features": [list(one) for one in self.features],
            "fit_rows": self.fit_rows,
            "self_test": [list(one) for one in self.self_test],
        }
        arrays["header"] = np.frombuffer(json.dumps(header, sort_keys=True).encode(), np.uint8)
        staging = StagingFile(path, unlocked=True)
        with staging.writing(), open(staging.path, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes allow_pickle for an array
        digest = hashlib.sha256(staging.path.read_bytes()).hexdigest()
        staging.commit()
        return digest


def has_signature(path: str | Path) -> bool:
    """Whether a file starts with the signature of a ZIP archive, as calibrations do; False for an unreadable file."""
    try:
        with open_bytes(as_path(path)) as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def is_calibration(path: str | Path) -> bool:
    """Whether a file is a calibration of any version; False for other ZIP archives, such as `.keras` files."""
    try:
        with np.load(as_path(path), allow_pickle=False) as file:
            header = json.loads(file["header"].tobytes())
    except (OSError, *_DAMAGED):
        return False
    return isinstance(header, dict) and "format" in header


def read_calibration(path: str | Path) -> Calibration:
    """Read a calibration file, without executing code from it (no pickle).

    Raises:
        CalibrationRefused: the file cannot be read, was not written by oodscreen, is damaged, or has a format that this
            version does not read.
    """
    path = as_path(path)
    try:
        data = path.read_bytes()
        _refuse_compression(data)
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(arrays["header"].tobytes())
        if header["format"] in (FORMAT, _FORMAT_WITHOUT_DROPOUT):
            return _parse(header, arrays, hashlib.sha256(data).hexdigest())
    except OSError as error:
        raise CalibrationRefused(
            f"The calibration {path} cannot be read: {reason_of(error)}.",
            wanted="a file written by `oodscreen calibrate`",
            next_step="check the path and the permissions of the file",
        ) from error
    except _DAMAGED as error:
        raise CalibrationRefused(
            f"{path} is not a calibration, or the file is damaged ({type(error).__name__}: {error}).",
            wanted="a complete file written by `oodscreen calibrate`",
            next_step="check the path, copy the file again, or write a new calibration with `oodscreen calibrate`",
        ) from error
    raise CalibrationRefused(
        f"The calibration {path} has format {header['format']}.",
        wanted=f"format {FORMAT} or {_FORMAT_WITHOUT_DROPOUT}, the formats that this version of oodscreen reads",
        next_step="run `oodscreen calibrate` for the model with this version of oodscreen",
    )


def _refuse_compression(data: bytes) -> None:
    """Refuse a compressed archive; `save` writes archives without compression.

    Raises:
        ValueError: the arrays in the archive have more bytes than the file.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > len(data):
        raise ValueError(f"arrays of {size} bytes in a file of {len(data)} bytes")


_DAMAGED = (
    *(ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError),
)
"""Errors that numpy and zipfile raise for damaged or encrypted files."""


def _parse(header: dict[str, Any], arrays: dict[str, NDArray[Any]], digest: str) -> Calibration:
    detectors = tuple(
        Detector(name, arrays[f"detector/{name}/knots"], arrays[f"detector/{name}/surprises"], float(slope))
        for name, slope in header["detectors"]
    )
    calibration = Calibration(
        binding=Binding(**{**header["binding"], "settings": PassSettings(**header["binding"]["settings"])}),
        review_rate=float(header["review_rate"]),
        combined_score=CombinedScore(detectors),
        calibration_scores=arrays["ranked"],
        distances=tuple(
            _parse_distance(name, metric, columns, neighbours, arrays)
            for name, (metric, columns, neighbours) in header["distances"].items()
        ),
        features=tuple((str(group), str(text)) for group, text in header["features"]),
        fit_rows=int(header["fit_rows"]),
        self_test=tuple((str(kind), float(share)) for kind, share in header["self_test"]),
        digest=digest,
    )
    _check_values(calibration)
    return calibration


def _check_values(calibration: Calibration) -> None:
    """Raise an error if values that a rule or a threshold depends on are impossible.

    Raises:
        ValueError: a value is impossible; the file was changed after it was written.
    """
    settings = calibration.binding.settings
    if settings.masks not in get_args(MaskMode) or settings.precision not in get_args(Precision):
        raise ValueError(f"masks {settings.masks!r}, precision {settings.precision!r}")
    scores, rate = calibration.calibration_scores, calibration.review_rate
    detectors = calibration.combined_score.detectors
    if not 0 < rate < 1 or not threshold_rank(len(scores), rate):
        raise ValueError(f"target rate {rate} with {len(scores)} calibration scores")
    _require_ascending("scores", scores)
    if not detectors or len({one.name for one in detectors}) < len(detectors):
        raise ValueError("no detectors, or a detector that occurs twice")
    for one in detectors:
        if one.name not in HIGH_IS_UNUSUAL or not 0 < one.slope < np.inf:
            raise ValueError(f"detector {one.name!r} with slope {one.slope}")
        _require_ascending(f"knots of {one.name}", one.knots, strictly=True)
        _require_ascending(f"surprisals of {one.name}", one.surprisals, strictly=True)
        if len(one.knots) != len(one.surprisals) or one.surprisals[0] < 0:
            raise ValueError(f"{len(one.knots)} knots and {len(one.surprisals)} surprisals of {one.name}")
    for distance in calibration.distances:
        _check_distance(distance)
    if not all(0 <= share <= 1 for _, share in calibration.self_test) or calibration.fit_rows < 0:
        raise ValueError("a share in the self-test or the number of fitting rows is out of range")
    texts = [*(text for pair in calibration.features for text in pair), *(kind for kind, _ in calibration.self_test)]
    if not all(text.isprintable() for text in texts):
        raise ValueError("text with control characters")
    measured = {distance.name for distance in calibration.distances}
    missing = set(calibration.combined_score.names) & set(DISTANCES) - measured
    if missing or any(not len(distance.reference) for distance in calibration.distances):
        raise ValueError(f"no reference features for {', '.join(sorted(missing or measured))}")


def _require_ascending(name: str, values: Floats, *, strictly: bool = False) -> None:
    """Raise an error unless there is at least one value, and the values are finite numbers in ascending order."""
    is_numeric = values.ndim == 1 and np.issubdtype(values.dtype, np.floating) and len(values)
    steps = np.diff(values) if is_numeric and np.isfinite(values).all() else np.array([-1.0])
    if (steps <= 0).any() if strictly else (steps < 0).any():
        raise ValueError(f"{name} are not finite numbers in ascending order")


def _check_distance(distance: NeighbourDistance) -> None:
    """Raise an error if the arrays of a distance have wrong shapes or types, or values that are not finite."""
    first, end = distance.columns
    shapes = {"reference": (len(distance.reference), end - first), "own": (len(distance.reference),)}
    if distance.transform is not None:
        shapes |= dict.fromkeys(vars(distance.transform), (end - first,))
    for name, array in _distance_arrays(distance).items():
        kind = np.float16 if name == "reference" else np.float32
        if array.shape != shapes[name] or array.dtype != kind or not np.isfinite(array).all():
            raise ValueError(f"{name} of {distance.name}: {array.dtype} {list(array.shape)}, or not finite")
    if not (0 <= first < end and 0 < distance.neighbours <= len(distance.reference)):
        raise ValueError(f"{distance.name} of columns {first} to {end} with {distance.neighbours} neighbours")


def _distance_arrays(distance: NeighbourDistance) -> dict[str, NDArray[Any]]:
    """The arrays of a distance, by name of the array in the file."""
    transform = {} if distance.transform is None else vars(distance.transform)
    return {"reference": distance.reference, "own": distance.own, **transform}


def _parse_distance(
    name: str, metric: Metric, columns: list[int], neighbours: int, arrays: dict[str, NDArray[Any]]
) -> NeighbourDistance:
    own = {field: arrays[f"distance/{name}/{field}"] for field in ("reference", "own")}
    transform = None
    if metric == "euclidean":
        transform = Transform(*(arrays[f"distance/{name}/{field}"] for field in ("floor", "shift", "scale")))
    first, end = columns
    return NeighbourDistance(name, metric, (first, end), own["reference"], own["own"], neighbours, transform)
