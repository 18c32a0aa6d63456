"""Rank flagged rows for review, and draw a random audit sample of the unflagged rows.

In: results. Out: `Candidates`, which hold positions and predicted classes: a few bytes per row.
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
from screen.columns import SCORES_OF_ALL_FORMATS, STATUSES
from screen.decide.detectors import COMPARES_PASSES, HIGH_IS_SUSPICIOUS, ranking_score
from screen.decide.rules.rule import MOST_UNUSUAL
from screen.decide.rules.text import flags_high
from screen.review.results import Results

FLAGGED, AUDIT = "flagged", "audit"
"""Sources of queue rows: the flagged rows, and the random audit sample of unflagged rows."""

_NAMES = frozenset(
    [*(column.name for column in SCORES_OF_ALL_FORMATS), *(status for status in STATUSES if status != "ok")]
)
_WORD = re.compile(r"[A-Za-z_]\w*")
_HAVE_AN_IMAGE = ("ok", "wrong_shape", "too_large", "non_finite", "not_probabilities")
"""Statuses of rows whose image can be shown."""


@dataclass(frozen=True)
class Candidates:
    """Rows that can be exported, in the order of review.

    Attributes:
        shard: `[n]`, index of the result shard.
        row: `[n]`, position in the shard.
        prediction: `[n]`, the predicted class; -1 if no class was predicted.
        source: `flagged` or `audit`, the same for all rows.
        score: the score that orders the rows; `draw` for the audit sample.
        reasons: counts of all flagged rows by main reason; empty for the audit sample.
        without_image: counts, by status, of selected rows whose image cannot be shown; these rows are not candidates.
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
    """Scores and statuses named in the conditions of `flag_reasons`, in order and without repetition."""
    words = (word for condition in reasons or () for word in _WORD.findall(condition))
    return tuple(dict.fromkeys(word for word in words if word in _NAMES))


def main_reason(reasons: Sequence[str] | None) -> str:
    """Main reason of a flag, for counts: the most unusual detector, or the scores and statuses in the conditions."""
    if not reasons:
        return ""
    if reasons[-1].startswith(MOST_UNUSUAL):
        return reasons[-1].removeprefix(MOST_UNUSUAL)
    return " and ".join(reason_names(reasons)) or "; ".join(reasons)


def choose_score(results: Results, order_by: str | None) -> str:
    """The score that ranks rows by suspicion.

    The default is `ood_score` if the results are calibrated, else the first score in the flag rule, else `entropy`.

    Args:
        results: results to rank.
        order_by: a score chosen by the user; None for the default.

    Raises:
        OptionRefused: the score does not exist, is null in every row of these results, or compares passes although the
            run had only one pass.
    """
    if order_by is not None:
        if order_by not in HIGH_IS_SUSPICIOUS:
            raise OptionRefused(
                f"--order-by {order_by} is not a score.",
                wanted=f"one of {', '.join(HIGH_IS_SUSPICIOUS)}",
                next_step="give one of these, or leave out --order-by",
            )
        constant = COMPARES_PASSES if results.settings.passes == 1 else frozenset()
        if order_by in constant or not _with_values(results, (order_by,)):
            available = _with_values(results, tuple(name for name in HIGH_IS_SUSPICIOUS if name not in constant))
            if available:  # if no row was scored, there is nothing to order
                problem = "compares passes, but there is one pass per" if order_by in constant else "is null in every"
                raise OptionRefused(
                    f"--order-by {order_by} {problem} row of {results.name}.",
                    wanted=f"a score that is not null{' or constant' if constant else ''} in these results: "
                    f"{', '.join(available)}",
                    next_step="give one of these, or leave out --order-by",
                )
        return order_by
    return ranking_score(results.rule, calibrated=results.calibrated)


def is_high_suspicious(results: Results, score: str) -> bool:
    """Whether high values of a score are suspicious, by the flag rule or, if the rule lacks the score, by default."""
    by_rule = flags_high(results.rule, score)
    return HIGH_IS_SUSPICIOUS[score] if by_rule is None else by_rule


def _with_values(results: Results, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the given columns that have a value in at least one row."""
    missing = dict.fromkeys(names)
    for _, table in _tables(results, list(names)):
        for name in [name for name in missing if table[name].null_count < len(table)]:
            del missing[name]
        if not missing:
            break
    return tuple(name for name in names if name not in missing)


def check_per_class(results: Results) -> None:
    """Raise an error if the model predicts no class, because `--per-class` requires a predicted class.

    Raises:
        OptionRefused: no scored row has a predicted class.
    """
    if _with_values(results, ("mean",)) and not _with_values(results, ("prediction",)):
        raise OptionRefused(
            f"--per-class was given, but the model of {results.name} predicts no class: the column prediction is null.",
            wanted="results of a single-label classifier",
            next_step="use --top instead",
        )


def check_reasons(reasons: tuple[str, ...]) -> None:
    """Raise an error if a selected reason cannot occur in `flag_reasons`.

    Raises:
        OptionRefused: a reason is neither a score nor a status.
    """
    for name in reasons:
        if name not in _NAMES:
            raise OptionRefused(
                f"--reason {name} is neither a score nor a status.",
                wanted=f"one of {', '.join(sorted(_NAMES))}",
                next_step="give a name that occurs in the column flag_reasons",
            )


def rank_flagged(results: Results, score: str, reasons: tuple[str, ...]) -> Candidates:
    """The flagged rows whose image can be shown, most suspicious first.

    Rows in which the score is null come last; rows with equal scores keep the order of the results.

    Args:
        results: results to rank.
        score: the score that orders the rows.
        reasons: scores and statuses; only rows with one of these in a flag reason are selected. If empty, all flagged
            rows are selected.
    """
    counted: Counter[str] = Counter()
    imageless: Counter[str] = Counter()
    found = [_Found.empty()]
    sign = -1.0 if is_high_suspicious(results, score) else 1.0
    for index, table in _tables(results, [score, "prediction", "flag", "flag_reasons", "status"]):
        is_flagged = np.asarray(table["flag"])
        positions = np.flatnonzero(is_flagged)
        found_reasons = table["flag_reasons"].filter(table["flag"]).to_pylist()
        counted.update(main_reason(conditions) for conditions in found_reasons)
        if reasons:
            wanted = frozenset(reasons)
            positions = positions[[not wanted.isdisjoint(reason_names(conditions)) for conditions in found_reasons]]
        statuses = table["status"].take(pa.array(positions))
        imageless.update(status for status in statuses.to_pylist() if status not in _HAVE_AN_IMAGE)
        positions = positions[np.asarray(pc.is_in(statuses, pa.array(_HAVE_AN_IMAGE)))]
        found.append(_Found.of(index, table, positions, sign * _as_numbers(table[score])[positions]))
    return _Found.join(found).sorted(FLAGGED, score, dict(counted.most_common()), dict(imageless))


def draw_audit(results: Results, share: float, seed: int) -> Candidates:
    """A random sample of the unflagged rows, in random order.

    Each row's pseudorandom number is computed from the seed and the row's id, mean and std. The sample is therefore
    reproducible and, if the input has an id column, independent of the division of rows into shards.

    Args:
        results: results to draw from.
        share: expected share of the unflagged rows to draw, 0 to 1.
        seed: seed of the pseudorandom numbers.
    """
    found = [_Found.empty()]
    for index, table in _tables(results, ["id", "mean", "std", "prediction", "flag"]) if share else ():
        positions = np.flatnonzero(~np.asarray(table["flag"]))
        draws = _draw(table.take(pa.array(positions)), seed)
        chosen = draws < share
        found.append(_Found.of(index, table, positions[chosen], draws[chosen]))
    return _Found.join(found).sorted(AUDIT, "draw", {}, {})


def _tables(results: Results, columns: list[str]) -> Iterator[tuple[int, pa.Table]]:
    for index, entry in enumerate(results.entries):
        for table in results.batches(entry, ["row", *dict.fromkeys(columns)]):
            yield index, table


def _draw(table: pa.Table, seed: int) -> NDArray[np.float64]:
    """`[n]`, a pseudorandom number in [0, 1) for each row."""
    start = hashlib.blake2b(str(seed).encode(), digest_size=8)
    scores = [[np.asarray(values.values, np.float32) for values in table[name]] for name in ("mean", "std")]
    draws = np.empty(len(table))
    for position, (key, mean, std) in enumerate(zip(table["id"].to_pylist(), *scores, strict=True)):
        digest = start.copy()
        digest.update(f"{len(key)}:{key}".encode(errors="surrogatepass") + mean.tobytes() + std.tobytes())
        draws[position] = (int.from_bytes(digest.digest(), "big") >> 11) / 2.0**53
    return draws


def _as_numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """The column as float64, with NaN for null."""
    return np.asarray(pc.fill_null(column.cast(pa.float64()), float("nan")))


@dataclass(frozen=True)
class _Found:
    """Positions and predictions of rows, with the key by which `sorted` orders them: ascending, NaN last."""

    shard: NDArray[np.int32]
    row: NDArray[np.int64]
    prediction: NDArray[np.int32]
    key: NDArray[np.float64]

    @classmethod
    def empty(cls) -> _Found:
        return cls(np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0))

    @classmethod
    def of(cls, shard: int, table: pa.Table, positions: NDArray[Any], key: NDArray[np.float64]) -> _Found:
        prediction = np.asarray(pc.fill_null(table["prediction"], -1))[positions]
        return cls(np.full(len(positions), shard, np.int32), np.asarray(table["row"])[positions], prediction, key)

    @classmethod
    def join(cls, parts: list[_Found]) -> _Found:
        names = ("shard", "row", "prediction", "key")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def sorted(self, source: str, score: str, reasons: dict[str, int], without_image: dict[str, int]) -> Candidates:
        order = np.argsort(self.key, kind="stable")
        columns = (self.shard[order], self.row[order], self.prediction[order])
        return Candidates(*columns, source, score, reasons, without_image)
