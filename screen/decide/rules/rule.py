"""Flag rules: a small language on result columns, parsed by hand and never evaluated as code.

    rule       = all { "or" all }
    all        = part { "and" part }
    part       = "not" part | "(" rule ")" | comparison
    comparison = operand ( ">" | ">=" | "<" | "<=" | "==" | "!=" ) operand
    operand    = a column | a number

In: a rule's text, and scores in the types of the result columns. Out: a `Decision`.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from export.contract.metadata import ModelContract
from export.errors import OptionRefused
from screen.columns import CALIBRATED, FEATURE_DISTANCE, SCORES, null_columns
from screen.decide.rules.text import write_out_percentages

REVIEW_SHARE = 0.25
"""Entropy threshold of the default flag rule, as a share of the maximum possible entropy."""

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
_TOKEN = re.compile(r"\s*(?:(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|(?P<word>[A-Za-z_]\w*)"
                    r"|(?P<sign>>=|<=|==|!=|>|<|\(|\)|-))")  # fmt: skip

MOST_UNUSUAL = "most unusual: "
"""Prefix of the condition that contains the name of the detector with the largest surprisal."""

Scores = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Reason:
    """One reason for a flag.

    Attributes:
        condition: the true condition without the row's values: `entropy > 0.5`.
        sentence: the true condition with the row's values: `entropy 0.7 > 0.5`.
    """

    condition: str
    sentence: str


@dataclass(frozen=True)
class Decision:
    """Flags of B rows, with reasons.

    Attributes:
        flag: `[B]`, whether a person should review the row.
        reasons: `[B]`, the true comparisons of each row, or the whole rule if none is true; empty for a row that is not
            flagged.
    """

    flag: NDArray[np.bool_]
    reasons: list[tuple[Reason, ...]]


@dataclass(frozen=True)
class _Comparison:
    left: str | float
    sign: str
    right: str | float

    def holds(self, scores: Scores) -> NDArray[np.bool_]:
        size = len(next(iter(scores.values())))
        # Compared in float64, so that users can repeat the comparison with written values: 0.3 in float32 is above 0.3.
        left, right = (
            np.asarray(scores[side], np.float64) if isinstance(side, str) else side for side in (self.left, self.right)
        )
        answers: NDArray[np.bool_] = np.zeros(size, np.bool_)
        answers[:] = _OPERATORS[self.sign](left, right)
        return answers

    def reason(self, scores: Scores, row: int) -> Reason:
        def name(value: str | float) -> str:
            return value if isinstance(value, str) else f"{value:.6g}"

        def measured(value: str | float) -> str:
            return f"{value} {scores[value][row]:.4g}" if isinstance(value, str) else name(value)

        return Reason(
            f"{name(self.left)} {self.sign} {name(self.right)}",
            f"{measured(self.left)} {self.sign} {measured(self.right)}",
        )


@dataclass(frozen=True)
class _Combined:
    """A conjunction, disjunction or negation of other expressions."""

    word: str
    parts: tuple[Any, ...]

    def holds(self, scores: Scores) -> NDArray[np.bool_]:
        answers: NDArray[np.bool_] = np.stack([part.holds(scores) for part in self.parts])
        if self.word == "not":
            opposite: NDArray[np.bool_] = np.logical_not(answers[0])
            return opposite
        combine: Any = np.logical_and if self.word == "and" else np.logical_or
        combined: NDArray[np.bool_] = combine.reduce(answers, axis=0)
        return combined


@dataclass(frozen=True)
class FlagRule:
    """A parsed flag rule.

    Attributes:
        text: text of the rule, as given, with a number in place of each percentage.
        columns: names of the columns in the rule.
    """

    text: str
    columns: tuple[str, ...]
    _root: Any
    _comparisons: tuple[_Comparison, ...]

    @property
    def entropy_limit(self) -> float | None:
        """The entropy above which the rule flags a row; None if the rule is not a lower limit of the entropy."""
        return _entropy_limit(self._root)

    def decide(self, scores: Scores) -> Decision:
        """Apply the rule to B rows.

        Args:
            scores: values of each column in the rule, `[B]`, in the types of the result columns.
        """
        flag = self._root.holds(scores)
        held = [(comparison, comparison.holds(scores)) for comparison in self._comparisons]
        reasons: list[tuple[Reason, ...]] = [()] * len(flag)
        for row in np.flatnonzero(flag).tolist():
            found = tuple(comparison.reason(scores, row) for comparison, answers in held if answers[row])
            reasons[row] = found or (Reason(self.text, self.text),)
        return Decision(flag, reasons)


def _entropy_limit(part: Any) -> float | None:
    if isinstance(part, _Comparison):
        left, sign, right = part.left, part.sign, part.right
        if isinstance(left, float):
            left, right, sign = right, left, {"<": ">", "<=": ">="}.get(sign, "")
        return right if left == "entropy" and sign in (">", ">=") and isinstance(right, float) else None
    limits = [_entropy_limit(one) for one in part.parts]
    if part.word == "not" or None in limits:
        return None
    known = [limit for limit in limits if limit is not None]
    return min(known) if part.word == "or" else max(known)


def default_rule(contract: ModelContract, passes: int) -> str:
    """Text of the default flag rule for a model.

    Args:
        contract: contract of the model.
        passes: number of passes; with one pass, no rule is possible for a regression without a calibration.

    Raises:
        OptionRefused: the model is a regression, for which there is no default threshold.
    """
    if contract.task == "values" and passes == 1:
        raise OptionRefused(
            "The model is a regression, the number of passes is 1, and no calibration was given.",
            wanted="a calibration, whose distances need no passes; with one pass, largest_std is always 0",
            next_step="run `oodscreen calibrate` with the same --passes and --masks, and give --calibration; or give "
            "more passes, for example --passes 30, and a flag rule, for example --flag-if 'largest_std > 0.1'",
        )
    if contract.task == "values":
        raise OptionRefused(
            "The model is a regression, and no flag rule was given.",
            wanted="a flag rule, because a threshold depends on the unit of the model's values",
            next_step="add a flag rule in the unit of the model's values, for example --flag-if 'largest_std > 0.1'",
        )
    score = "largest_label_entropy" if contract.task == "labels" else "entropy"
    most = math.log(contract.classes if contract.task == "classes" else 2)
    return f"{score} > {REVIEW_SHARE * most:.6g}"


def parse_rule(text: str, contract: ModelContract, calibrated: frozenset[str] = frozenset()) -> FlagRule:
    """Parse a flag rule for a model.

    Args:
        text: text of the rule.
        contract: contract of the model.
        calibrated: the columns of `CALIBRATED` that the calibration fills; empty without a calibration.

    Raises:
        OptionRefused: the text is not a valid rule, or contains a column that is always null for this model.
    """
    try:
        return _Parser(write_out_percentages(text), contract, calibrated).parse()
    except RecursionError as error:
        raise OptionRefused(
            f"The flag rule {text[:40]!r}... is nested too deeply.",
            wanted="a rule with fewer levels of parentheses and `not`",
            next_step="remove parentheses and `not` that are not needed",
        ) from error


class _Parser:
    """Recursive-descent parser of one flag rule."""

    def __init__(self, text: str, contract: ModelContract, calibrated: frozenset[str]) -> None:
        self._text = text
        self._tokens = self._split(text)
        self._next = 0
        self._comparisons: list[_Comparison] = []
        missing = null_columns(contract, calibrated)
        numbers = [column.name for column in SCORES if not pa.types.is_list(column.type)]
        self._known = [name for name in numbers if name not in missing]
        self._missing = [name for name in numbers if name in missing]

    def parse(self) -> FlagRule:
        root = self._any()
        if self._next < len(self._tokens):
            raise self._refuse(f"has an unexpected {self._tokens[self._next]!r}")
        read = [side for one in self._comparisons for side in (one.left, one.right) if isinstance(side, str)]
        return FlagRule(self._text, tuple(dict.fromkeys(read)), root, tuple(self._comparisons))

    def _split(self, text: str) -> list[str]:
        tokens, position = [], 0
        while text[position:].strip():
            match = _TOKEN.match(text, position)
            if match is None:
                raise self._refuse(f"has an unknown character at {text[position:].strip()[:20]!r}")
            tokens.append(match.group().strip())
            position = match.end()
        return tokens

    def _any(self) -> Any:
        return self._series("or", self._all)

    def _all(self) -> Any:
        return self._series("and", self._part)

    def _series(self, word: str, parse: Callable[[], Any]) -> Any:
        parts = [parse()]
        while self._take(word):
            parts.append(parse())
        return parts[0] if len(parts) == 1 else _Combined(word, tuple(parts))

    def _part(self) -> Any:
        if self._take("not"):
            return _Combined("not", (self._part(),))
        if self._take("("):
            inner = self._any()
            if not self._take(")"):
                raise self._refuse("has no closing parenthesis")
            return inner
        left = self._operand()
        sign = self._tokens[self._next] if self._next < len(self._tokens) else ""
        if sign not in _OPERATORS:
            raise self._refuse(f"has no comparison sign after {left!r}")
        self._next += 1
        right = self._operand()
        if not (isinstance(left, str) or isinstance(right, str)):
            raise self._refuse(f"compares two numbers, {left:g} and {right:g}")
        self._comparisons.append(_Comparison(left, sign, right))
        return self._comparisons[-1]

    def _operand(self) -> str | float:
        negative = self._take("-")
        token = self._tokens[self._next] if self._next < len(self._tokens) else ""
        self._next += 1
        if token[:1].isdigit() or token[:1] == ".":
            return -float(token) if negative else float(token)
        if token in self._known and not negative:
            return token
        if token in self._missing:
            why = "without a calibration that computes it" if token in CALIBRATED else "for this model"
            raise self._refuse(f"contains the column {token!r}, which is always null {why}")
        if token == FEATURE_DISTANCE.name:
            successors = "layout_distance, contrast_distance and penultimate_distance"
            raise self._refuse(f"contains the column {token!r}, which was replaced by {successors}")
        raise self._refuse(f"has {token!r} instead of a column or a number" if token else "is incomplete")

    def _take(self, word: str) -> bool:
        if self._next < len(self._tokens) and self._tokens[self._next] == word:
            self._next += 1
            return True
        return False

    def _refuse(self, problem: str) -> OptionRefused:
        known = ", ".join(getattr(self, "_known", ()))
        return OptionRefused(
            f"The flag rule {self._text!r} {problem}.",
            wanted="comparisons of columns with numbers, joined by and, or, not and parentheses",
            next_step=f"correct the rule; for example 'entropy > 0.5 or prediction_std > 0.2'; columns: {known}"
            if known
            else "correct the rule; for example 'entropy > 0.5 or prediction_std > 0.2'",
        )
