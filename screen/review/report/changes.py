"""Compare two runs: their settings, and the rows whose flag changed.

In: two `Results`. Out: names and values of differing settings, and `RowChanges`. Only input shards that are identical
in both runs are compared, row by row and shard by shard, so that memory holds the flags of one shard.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from screen.output.manifest_file import ManifestEntry
from screen.review.report.findings import ChangedRow, RowChanges
from screen.review.report.top_rows import ShownNames
from screen.review.results import Results
from screen.review.text import clip

_LISTED_ROWS = 20

_WORDS = {
    "model": "model",
    "passes": "passes T",
    "masks": "masks",
    "precision": "precision",
    "mask_algorithm": "mask version",
    "result_format": "result format",
    "seed": "seed",
    "flag_if": "flag rule",
    "calibration": "calibration",
    "adaptive": "early exit",
    "image_column": "image column",
    "id_column": "id column",
    "image_root": "image folder",
    "max_pixels": "maximum pixels",
    "keep": "copied columns",
}
_INCOMPARABLE = ("model", "passes", "masks", "precision", "mask_algorithm", "image_column", "image_root")
"""Settings that make rows incomparable if they differ between two runs; `result_format` does not change scores."""

_DIGESTS = ("model", "calibration")


def differing_settings(now: Results, then: Results) -> tuple[tuple[str, str, str], ...]:
    """Name, earlier value and current value of each setting that differs."""
    return tuple(
        (words, _format(key, then), _format(key, now))
        for key, words in _WORDS.items()
        if now.identity.get(key) != then.identity.get(key)
    )


def incomparable_settings(now: Results, then: Results) -> tuple[str, ...]:
    """Names of the differing settings that make the rows of two runs incomparable."""
    return tuple(_WORDS[key] for key in _INCOMPARABLE if now.identity.get(key) != then.identity.get(key))


def compare_rows(
    now: Results, then: Results, shards: Sequence[tuple[ManifestEntry, ManifestEntry]], order: str, *, high: bool
) -> RowChanges:
    """Compare the flags of two runs row by row.

    Args:
        now: the current results.
        then: the earlier results.
        shards: current and earlier manifest entry of each shard that is identical in both runs.
        order: the score that ranks rows; "" if there is none.
        high: whether high values of the score are suspicious.
    """
    sign = 1.0 if high else -1.0
    rows = newly = no_longer = 0
    best: tuple[list[_Ranked], list[_Ranked]] = ([], [])
    for number, (new, old) in enumerate(shards):
        flag, score = _read(now, new, order)
        before, score_before = _read(then, old, order)
        rows += len(flag)
        newly += int(np.sum(flag & ~before))
        no_longer += int(np.sum(before & ~flag))
        changes = ((flag & ~before, score), (before & ~flag, score_before))
        for heap, (changed, by) in zip(best, changes, strict=True):
            positions = np.flatnonzero(changed)
            suspicion = np.nan_to_num(sign * by, nan=-np.inf)
            ranked = np.lexsort((positions, -suspicion[positions]))[:_LISTED_ROWS]
            for row in positions[ranked].tolist():
                rank = (float(suspicion[row]), -number, -row)
                (heapq.heappush if len(heap) < _LISTED_ROWS else heapq.heappushpop)(
                    heap, (rank, float(score_before[row]), float(score[row]))
                )
    listed = [[_describe(now, shards, one) for one in sorted(heap, reverse=True)] for heap in best]
    return RowChanges(rows, newly, no_longer, order, tuple(listed[0]), tuple(listed[1]))


_Ranked = tuple[tuple[float, int, int], float, float]


def _describe(now: Results, shards: Sequence[tuple[ManifestEntry, ManifestEntry]], one: _Ranked) -> ChangedRow:
    (_, number, row), before, after = one
    entry = shards[-number][0]
    values = now.take(entry, [-row], ["id", "prediction"]).to_pylist()[0]
    name = "" if values["prediction"] is None else ShownNames.of(now).name(values["prediction"])
    return ChangedRow(clip(entry.shard), -row, clip(values["id"]), name, before, after)


def _read(results: Results, entry: ManifestEntry, order: str) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    flags, scores = [np.zeros(0, np.bool_)], [np.zeros(0)]
    for table in results.batches(entry, ["flag", *([order] if order else [])]):
        flags.append(np.asarray(table["flag"]))
        scores.append(np.asarray(table[order], np.float64) if order else np.full(len(table), np.nan))
    return np.concatenate(flags), np.concatenate(scores)


def _format(key: str, results: Results) -> str:
    value = results.identity.get(key, "float32" if key == "precision" else None)
    if key in _DIGESTS and value is not None:
        name = f"{results.record.model}, " if key == "model" and results.record is not None else ""
        return clip(f"{name}{str(value)[:12]}")
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return clip("none" if value is None or value == "" else str(value), 200)
