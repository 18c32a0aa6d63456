"""Compare variants of the distances from a reference set: metric, density correction, neighbours, rows and cells.

In: an exported model, images of the reference set, of in-distribution rows and of the sets on which defaults are
chosen. Out: AUROC and FPR95 of each variant, as means over these sets. Every variant differs in one setting from the
default of `screen.engine.distance` and `screen.engine.graph.features`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from export.contract.reader import read_model
from screen.engine.device.choice import choose_device
from screen.engine.distance import (
    DEFAULT_METRICS,
    DENSITY_EXPONENT,
    DISTANCES,
    NEIGHBOURS,
    DistanceMeter,
    Metric,
    NeighbourDistance,
    fit_distance,
    group_of,
)
from screen.engine.graph.features import tensors
from screen.engine.graph.features.tensors import GRID
from screen.engine.graph.plan import plan_engine
from screen.engine.passes import PassEngine
from screen.review.evaluate.metrics import separate

Images = NDArray[np.uint8]
Features = NDArray[np.float32]

ROWS = 5_000
"""Rows of the reference set, unless a variant changes this number; `calibrate` uses up to 10,000 rows."""


@dataclass(frozen=True)
class Variant:
    """A distance and its settings.

    Attributes:
        label: difference from the default, in words.
        distance: name of the distance.
        metric: `cosine` or `euclidean`.
        exponent: exponent of the correction for local density, 0 to 1.
        neighbours: number of nearest neighbours.
        rows: maximum rows of the reference set.
        grid: number of spatial cells along each axis.
    """

    label: str
    distance: str
    metric: Metric
    exponent: float = DENSITY_EXPONENT
    neighbours: int = NEIGHBOURS
    rows: int = ROWS
    grid: int = GRID


def list_variants() -> Iterator[Variant]:
    """The default of each distance, and its variants; the grid affects only `layout_distance`."""
    for name in DISTANCES:
        default = Variant("default", name, DEFAULT_METRICS[name])
        other: Metric = "euclidean" if default.metric == "cosine" else "cosine"
        yield default
        yield replace(default, label=f"{other} metric", metric=other)
        yield from (
            replace(default, label=f"density exponent {exponent:g}", exponent=exponent)
            for exponent in (0.0, 0.5, 1.0)
            if exponent != DENSITY_EXPONENT
        )
        yield from (replace(default, label=f"k = {k}", neighbours=k) for k in (1, 20) if k != NEIGHBOURS)
        yield from (replace(default, label=f"{rows:,} reference rows", rows=rows) for rows in (1_000, 2_500, 10_000))
        if name == "layout_distance":
            yield from (replace(default, label=f"{n} x {n} cells", grid=n) for n in (1, 2, 6) if n != GRID)


@dataclass(frozen=True)
class _AnyDensity(NeighbourDistance):
    """A distance with a given exponent of the correction for local density."""

    exponent: float = DENSITY_EXPONENT

    def finish(self, outputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float64]:
        mean = self.neighbour_distances(outputs).mean(axis=1)
        density = np.exp(np.log(outputs["density"].astype(np.float64)).mean(axis=1))
        distance: NDArray[np.float64] = mean / density**self.exponent
        return distance


def compare_distances(
    model: Path, reference: Images, known: Images, sets: Mapping[str, Images]
) -> list[dict[str, Any]]:
    """AUROC and FPR95 of each variant for which the model has features.

    Args:
        model: an exported model.
        reference: `[N, H, W, C]`, images of the reference set; a variant uses its first `rows` images.
        known: `[n, H, W, C]`, in-distribution images.
        sets: images of each out-of-distribution set.
    """
    device = choose_device("cpu", 0)
    variants = list(list_variants())
    results = []
    for grid in dict.fromkeys(variant.grid for variant in variants):
        with patch.object(tensors, "GRID", grid):
            plan = plan_engine(read_model(model), features=True)
        engine = PassEngine(plan, passes=1, seed=0, device=device)
        features = {name: engine.features(images) for name, images in {**sets, "known": known}.items()}
        of_reference = engine.features(reference)
        for variant in variants:
            columns = plan.features.groups.get(group_of(variant.distance))
            if variant.grid != grid or columns is None:
                continue
            rows = of_reference[: variant.rows]
            fitted = fit_distance(variant.distance, rows, columns, device, variant.metric, variant.neighbours)
            meter = DistanceMeter((_AnyDensity(**vars(fitted), exponent=variant.exponent),), device)
            measured = {name: getattr(meter.measure(one), variant.distance) for name, one in features.items()}
            found = [separate(measured["known"], measured[name], name, high_is_unusual=True) for name in sets]
            results.append(
                {
                    "distance": variant.distance,
                    "variant": variant.label,
                    "features": columns.stop - columns.start,
                    "auroc": float(np.mean([one.auroc for one in found])),
                    "fpr95": float(np.mean([one.fpr95 for one in found])),
                }
            )
    order = {(variant.distance, variant.label): place for place, variant in enumerate(variants)}
    return sorted(results, key=lambda one: order[one["distance"], one["variant"]])
