"""Features and logits of a network's rows, for the detectors of another library.

In: the folder WORK/peers/NETWORK/ with:
  weights.npz: `weight` [C, F] and `bias` [C], float32, of the last linear layer;
  reference.npz: `features` [N, F] (input of the last layer, one deterministic pass) and `logits` [N, C], float32, and
      `labels` [N], int64, of training rows;
  held.npz: `features` and `logits` of held-out in-distribution rows, which give the threshold at the target rate;
  test.npz: `features` and `logits` of in-distribution rows for the metrics;
  any other NAME.npz: `features` and `logits` of an out-of-distribution set.
Out: a `NetworkRows`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.errors import InputRefused
from screen.decide.row_sets import min_calibration_rows

REVIEW_RATE = 0.02
KNOWN = ("reference", "held", "test")
"""Files of in-distribution rows; the other files are out-of-distribution sets."""
_LOGITS_ERROR = 1e-3
"""Maximum difference of the given logits from those of the last layer, relative to the largest logit."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Rows:
    """Features and logits of the rows of one set.

    Attributes:
        features: `[N, F]`, input of the last layer.
        logits: `[N, C]`.
        labels: `[N]`, int64; None for all sets except the reference rows.
    """

    features: Floats
    logits: Floats
    labels: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class NetworkRows:
    """The last layer of a network (`weight` `[C, F]`, `bias` `[C]`), and the rows of each set by name."""

    weight: Floats
    bias: Floats
    sets: dict[str, Rows]


def read_network(folder: Path) -> NetworkRows:
    """The last layer of a network and its rows by set.

    Raises:
        InputRefused: a file or array is missing, shapes do not fit together, or logits do not match
            the features and the last layer.
    """
    layer = _read_arrays(folder / "weights.npz", ("weight", "bias"))
    weight, bias = layer["weight"].astype(np.float32), layer["bias"].astype(np.float32)
    paths = {path.stem: path for path in sorted(folder.glob("*.npz")) if path.stem != "weights"}
    paths = {name: folder / f"{name}.npz" for name in KNOWN} | paths
    sets = {}
    for name, path in paths.items():
        arrays = _read_arrays(path, ("features", "logits", "labels") if name == "reference" else ("features", "logits"))
        labels = arrays["labels"].astype(np.int64) if name == "reference" else None
        sets[name] = Rows(arrays["features"].astype(np.float32), arrays["logits"].astype(np.float32), labels)
        _check(sets[name], weight, bias, path)
    if len(sets["held"].logits) < min_calibration_rows(REVIEW_RATE):
        raise InputRefused(
            f"{paths['held']} has {len(sets['held'].logits)} rows.",
            wanted=f"at least {min_calibration_rows(REVIEW_RATE)} rows for a threshold at {REVIEW_RATE:.0%}",
            next_step="hold out more rows in benchmarks.colour",
        )
    return NetworkRows(weight, bias, sets)


def _read_arrays(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path) as file:
            return {name: file[name] for name in names}
    except (OSError, KeyError) as error:
        raise InputRefused(
            f"{path} cannot be read: {error}.",
            wanted=f"a file with the arrays {', '.join(names)}",
            next_step="run `python -m benchmarks.colour` with the same --work",
        ) from error


def _check(rows: Rows, weight: Floats, bias: Floats, path: Path) -> None:
    """Raise an error if logits do not match the features and the last layer; detectors use both."""
    shapes = f"features {rows.features.shape}, logits {rows.logits.shape}, weight {weight.shape}, bias {bias.shape}"
    count, (classes, size) = len(rows.features), weight.shape
    fits = rows.features.shape == (count, size) and rows.logits.shape == (count, classes) and bias.shape == (classes,)
    found = "" if fits and count and classes > 1 else shapes
    if not found and rows.labels is not None and rows.labels.shape != (count,):
        found = f"{rows.labels.shape} labels of {count} rows"
    if not found:
        error = np.abs(rows.features @ weight.T + bias - rows.logits).max() / max(1.0, float(np.abs(rows.logits).max()))
        found = "" if error <= _LOGITS_ERROR else f"logits that differ from those of the last layer by {error:.1e}"
    if found:
        raise InputRefused(
            f"{path} does not fit the last layer: {found}.",
            wanted="features [N, F] with logits = features x weight + bias [N, C], C > 1, and a label for each row",
            next_step="run `python -m benchmarks.colour` with the same --work",
        )
