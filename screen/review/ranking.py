"""The order of review: which flagged rows, the most suspicious first, and a random share of the others.

In: results. Out: `Candidates`, a few bytes for each row: no image, no score but the one that orders.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from export.errors import OptionRefused
from screen.columns import SCORES, STATUSES
from screen.decide.detectors import HIGH_IS_SUSPICIOUS
from screen.decide.rules import MOST_UNUSUAL, flags_high
from screen.review.results import Results

FLAGGED, AUDIT = "flagged", "audit"
"""Why a row is in the queue: because of its flag, or as one of the random others by which flags are audited."""

_NAMES = frozenset([*(column.name for column in SCORES), *(status for status in STATUSES if status != "ok")])
_WORD = re.compile(r"[A-Za-z_]\w*")
_HAVE_AN_IMAGE = ("ok", "wrong_shape", "too_large", "non_finite")
"""Of rows with another status there is nothing to show."""


@dataclass(frozen=True)
class Candidates:
    """Rows that may be handed on, in the order of review.

    Attributes:
        shard: `[n]`, index of the result shard.
        row: `[n]`, position in it.
        prediction: `[n]`, the predicted class; -1 where there is none.
        source: `flagged` or `audit`, of all of them.
        score: what they are ordered by.
        reasons: how many flagged rows have which reason, before any choice among them.
        without_image: how many rows that were asked for have no image that can be shown, by their status.
    """

    shard: NDArray[np.int32]
    row: NDArray[np.int64]
    prediction: NDArray[np.int32]
    source: str
    score: str
    reasons: dict[str, int]
    without_image: dict[str, int]

    def __len__(self) -> int:
        return len(self.row)


def reason_names(reasons: Sequence[str] | None) -> tuple[str, ...]:
    """The columns and statuses that the conditions of `flag_reasons` name, in order."""
    words = (word for condition in reasons or () for word in _WORD.findall(condition))
    return tuple(dict.fromkeys(word for word in words if word in _NAMES))


def main_reason(reasons: Sequence[str] | None) -> str:
    """The reason to count a row by: the most unusual detector, else the columns that were compared."""
    if not reasons:
        return ""
    if reasons[-1].startswith(MOST_UNUSUAL):
        return reasons[-1].removeprefix(MOST_UNUSUAL)
    return " and ".join(reason_names(reasons)) or "; ".join(reasons)


def choose_score(results: Results, order_by: str | None) -> str:
    """The score that says how suspicious a row is.

    It is `ood_score` where the results are calibrated; otherwise the first score of the run's rule.

    Args:
        results: the results.
        order_by: a score, if the user names one.

    Raises:
        OptionRefused: there is no such score, or no row of these results has it.
    """
    if order_by is not None:
        if order_by not in HIGH_IS_SUSPICIOUS:
            raise OptionRefused(
                f"--order-by {order_by} is no score.",
                wanted=f"one of {', '.join(HIGH_IS_SUSPICIOUS)}",
                next_step="give one of these, or leave the option out",
            )
        if not _with_values(results, (order_by,)):
            there = _with_values(results, tuple(HIGH_IS_SUSPICIOUS))
            if there:  # where no row could be scored there is nothing to order
                raise OptionRefused(
                    f"--order-by {order_by} names a score that no row of {results.name} has.",
                    wanted=f"a score with values, here {', '.join(there)}",
                    next_step="give one of these, or leave the option out",
                )
        return order_by
    if results.calibrated:
        return "ood_score"
    return next((word for word in _WORD.findall(results.rule) if word in HIGH_IS_SUSPICIOUS), "entropy")


def is_high_suspicious(results: Results, score: str) -> bool:
    """On which side of a score lies what is suspicious: where the run's rule flags, if it compares the score."""
    by_rule = flags_high(results.rule, score)
    return HIGH_IS_SUSPICIOUS[score] if by_rule is None else by_rule


def _with_values(results: Results, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of some scores that a row has; which ones there are depends on the model and on the calibration."""
    left = dict.fromkeys(names)
    for _, table in _tables(results, list(names)):
        for name in [name for name in left if table[name].null_count < len(table)]:
            del left[name]
        if not left:
            break
    return tuple(name for name in names if name not in left)


def check_per_class(results: Results) -> None:
    """Refuse to choose by predicted class where a model predicts none.

    Raises:
        OptionRefused: no row that was scored has a predicted class.
    """
    if _with_values(results, ("mean",)) and not _with_values(results, ("prediction",)):
        raise OptionRefused(
            f"--per-class was given, and the model of {results.name} predicts no class: its column prediction is null.",
            wanted="results of a model with one class for each image, not several labels or a regression",
            next_step="use --top instead",
        )


def check_reasons(reasons: tuple[str, ...]) -> None:
    """Refuse what no row can have for a reason.

    Raises:
        OptionRefused: a reason is neither a score nor a status.
    """
    for name in reasons:
        if name not in _NAMES:
            raise OptionRefused(
                f"--reason {name} is neither a score nor a status.",
                wanted=f"one of {', '.join(sorted(_NAMES))}",
                next_step="give a word that stands in the column flag_reason",
            )


def rank_flagged(results: Results, score: str, reasons: tuple[str, ...]) -> Candidates:
    """The flagged rows, the most suspicious first.

    Rows that could not be scored come last; among equals the order of the results decides.

    Args:
        results: the results.
        score: what they are ordered by.
        reasons: only rows whose reason names one of these; none: all.
    """
    counted: Counter[str] = Counter()
    imageless: Counter[str] = Counter()
    found = [_Found.empty()]
    sign = -1.0 if is_high_suspicious(results, score) else 1.0
    for index, table in _tables(results, [score, "prediction", "flag", "flag_reasons", "status"]):
        is_flagged = np.asarray(table["flag"])
        places = np.flatnonzero(is_flagged)
        found_reasons = table["flag_reasons"].filter(table["flag"]).to_pylist()
        counted.update(main_reason(conditions) for conditions in found_reasons)
        if reasons:
            wanted = frozenset(reasons)
            places = places[[not wanted.isdisjoint(reason_names(conditions)) for conditions in found_reasons]]
        statuses = table["status"].take(pa.array(places))
        imageless.update(status for status in statuses.to_pylist() if status not in _HAVE_AN_IMAGE)
        places = places[np.asarray(pc.is_in(statuses, pa.array(_HAVE_AN_IMAGE)))]
        found.append(_Found.of(index, table, places, sign * _as_numbers(table[score])[places]))
    return _Found.join(found).sorted(FLAGGED, score, dict(counted.most_common()), dict(imageless))


def draw_audit(results: Results, share: float, seed: int) -> Candidates:
    """A random share of the rows that were scored and not flagged, in a random order.

    Each row's draw is a digest of the seed, its id and its scores, so it does not depend on the shard that the
    row is in (where the input has ids of its own), and the same rows are drawn again.

    Args:
        results: the results.
        share: 0 to 1.
        seed: of the draw.
    """
    found = [_Found.empty()]
    for index, table in _tables(results, ["id", "mean", "std", "prediction", "flag"]) if share else ():
        places = np.flatnonzero(~np.asarray(table["flag"]))
        draws = _draw(table.take(pa.array(places)), seed)
        chosen = draws < share
        found.append(_Found.of(index, table, places[chosen], draws[chosen]))
    return _Found.join(found).sorted(AUDIT, "draw", {}, {})


def _tables(results: Results, columns: list[str]) -> Iterator[tuple[int, pa.Table]]:
    for index, entry in enumerate(results.entries):
        for table in results.batches(entry, ["row", *dict.fromkeys(columns)]):
            yield index, table


def _draw(table: pa.Table, seed: int) -> NDArray[np.float64]:
    """`[n]`, for each row a number in [0, 1) that looks random."""
    start = hashlib.blake2b(str(seed).encode(), digest_size=8)
    scores = [[np.asarray(values.values, np.float32) for values in table[name]] for name in ("mean", "std")]
    draws = np.empty(len(table))
    for place, (key, mean, std) in enumerate(zip(table["id"].to_pylist(), *scores, strict=True)):
        digest = start.copy()
        digest.update(f"{len(key)}:{key}".encode(errors="surrogatepass") + mean.tobytes() + std.tobytes())
        draws[place] = (int.from_bytes(digest.digest(), "big") >> 11) / 2.0**53
    return draws


def _as_numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """In float64, NaN where null."""
    return np.asarray(pc.fill_null(column.cast(pa.float64()), float("nan")))


@dataclass(frozen=True)
class _Found:
    """Rows and the number that they are sorted by, the least first, NaN last."""

    shard: NDArray[np.int32]
    row: NDArray[np.int64]
    prediction: NDArray[np.int32]
    key: NDArray[np.float64]

    @classmethod
    def empty(cls) -> _Found:
        return cls(np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0))

    @classmethod
    def of(cls, shard: int, table: pa.Table, places: NDArray[Any], key: NDArray[np.float64]) -> _Found:
        prediction = np.asarray(pc.fill_null(table["prediction"], -1))[places]
        return cls(np.full(len(places), shard, np.int32), np.asarray(table["row"])[places], prediction, key)

    @classmethod
    def join(cls, parts: list[_Found]) -> _Found:
        names = ("shard", "row", "prediction", "key")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def sorted(self, source: str, score: str, reasons: dict[str, int], without_image: dict[str, int]) -> Candidates:
        order = np.argsort(self.key, kind="stable")
        columns = (self.shard[order], self.row[order], self.prediction[order])
        return Candidates(*columns, source, score, reasons, without_image)
