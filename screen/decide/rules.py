"""Flag rules: a small language on result columns, parsed by hand and never evaluated as code.

    rule       = all { "or" all }
    all        = part { "and" part }
    part       = "not" part | "(" rule ")" | comparison
    comparison = operand ( ">" | ">=" | "<" | "<=" | "==" | "!=" ) operand
    operand    = a column | a number

In: a rule's text and the scores of some rows, as they will be written. Out: a `Decision`.
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
from screen.columns import CALIBRATED, SCORES, null_columns

REVIEW_SHARE = 0.25
"""Without a rule, a row is flagged above this share of the largest entropy there can be."""

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

_WORD, _SIGN, _NUMBER = r"\b([A-Za-z_]\w*)", r"(?:[><]=?|==|!=)", r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"

MOST_UNUSUAL = "most unusual: "
"""Start of the condition that names the detector with the largest surprisal."""

Scores = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Reason:
    """One reason for a flag.

    Attributes:
        condition: the condition that held, the same for every row: `entropy > 0.5`.
        sentence: the condition with the row's values: `entropy 0.7 > 0.5`.
    """

    condition: str
    sentence: str


@dataclass(frozen=True)
class Decision:
    """The flags of B rows and the reasons for them.

    Attributes:
        flag: `[B]`, whether a person should look at the row.
        reasons: `[B]`, the comparisons that held; empty where not flagged.
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
        # In float64, as readers of the results compare: 0.3 as float32 is above 0.3.
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
    """`and`, `or` or `not` of parts."""

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
    """A parsed rule.

    Attributes:
        text: as it was given.
        columns: the columns it reads.
    """

    text: str
    columns: tuple[str, ...]
    _root: Any
    _comparisons: tuple[_Comparison, ...]

    @property
    def entropy_limit(self) -> float | None:
        """The entropy above which the rule flags, whatever else a row scores; None where it does not follow from it."""
        return _entropy_limit(self._root)

    def decide(self, scores: Scores) -> Decision:
        """Apply the rule.

        Args:
            scores: for each column of the rule `[B]`, as it is written to the results.
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


def default_rule(contract: ModelContract) -> str:
    """The rule that holds where none is given, in the language of rules.

    Raises:
        OptionRefused: a regression has no scale of its own to decide by.
    """
    if contract.output_kind == "regression":
        raise OptionRefused(
            "The model is a regression, and no flag rule was given.",
            wanted="a rule: how far apart its passes may be depends on the unit of its values",
            next_step="add for example --flag-if 'largest_std > 0.1', in the unit of the model's values",
        )
    if contract.output_kind == "sigmoid" and contract.classes > 1:
        return f"largest_label_entropy > {REVIEW_SHARE * math.log(2):.6g}"
    most = math.log(2 if contract.output_kind == "sigmoid" else contract.classes)
    return f"entropy > {REVIEW_SHARE * most:.6g}"


def parse_rule(text: str, contract: ModelContract, calibrated: frozenset[str] = frozenset()) -> FlagRule:
    """Parse a rule for a model.

    Args:
        text: the rule.
        contract: the model's.
        calibrated: the columns that a calibration adds.

    Raises:
        OptionRefused: the text is no rule, or reads a column that this model does not have.
    """
    try:
        return _Parser(text, contract, calibrated).parse()
    except RecursionError as error:
        raise OptionRefused(
            f"The flag rule {text[:40]!r}... is nested too deeply.",
            wanted="a rule that a person can read",
            next_step="use fewer parentheses",
        ) from error


def find_limits(text: str) -> tuple[tuple[str, float], ...]:
    """The numbers that columns are compared with in a rule, as far as it can be read; for people to see in a plot.

    Args:
        text: a rule that was parsed before, for the model that it is of.
    """
    found = re.findall(rf"{_WORD}\s*{_SIGN}\s*({_NUMBER})|({_NUMBER})\s*{_SIGN}\s*{_WORD}", text)
    pairs = [(column or other, float(number or its)) for column, number, its, other in found]
    return tuple(dict.fromkeys(pairs))


def flags_high(text: str, column: str) -> bool | None:
    """Whether a rule flags what is high in a column; None where it does not say, or says both.

    Args:
        text: a rule that was parsed before, for the model that it is of.
        column: its name.
    """
    if re.search(r"\bnot\b", text):
        return None
    name = rf"\b{re.escape(column)}\b"
    behind = re.findall(rf"{name}\s*([><])", text)
    before = re.findall(rf"([><])=?\s*{name}", text)
    sides = {sign == ">" for sign in behind} | {sign == "<" for sign in before}
    return sides.pop() if len(sides) == 1 else None


class _Parser:
    """Recursive descent over the tokens of one rule."""

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
            raise self._refuse(f"does not go on with {self._tokens[self._next]!r}")
        read = [side for one in self._comparisons for side in (one.left, one.right) if isinstance(side, str)]
        return FlagRule(self._text, tuple(dict.fromkeys(read)), root, tuple(self._comparisons))

    def _split(self, text: str) -> list[str]:
        tokens, position = [], 0
        while text[position:].strip():
            match = _TOKEN.match(text, position)
            if match is None:
                raise self._refuse(f"has something unknown at {text[position:].strip()[:20]!r}")
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
                raise self._refuse("lacks a )")
            return inner
        left = self._operand()
        sign = self._tokens[self._next] if self._next < len(self._tokens) else ""
        if sign not in _OPERATORS:
            raise self._refuse(f"needs a comparison after {left!r}")
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
            why = "without a calibration" if token in CALIBRATED else "for this model"
            raise self._refuse(f"reads {token!r}, which is always null {why}")
        raise self._refuse(f"has {token!r} where a column or a number must be" if token else "ends too early")

    def _take(self, word: str) -> bool:
        if self._next < len(self._tokens) and self._tokens[self._next] == word:
            self._next += 1
            return True
        return False

    def _refuse(self, what: str) -> OptionRefused:
        known = ", ".join(getattr(self, "_known", ()))
        return OptionRefused(
            f"The flag rule {self._text!r} {what}.",
            wanted="comparisons of columns with numbers, joined by and, or, not and parentheses",
            next_step=f"for example 'entropy > 0.5 or prediction_std > 0.2'; columns: {known}"
            if known
            else "for example 'entropy > 0.5 or prediction_std > 0.2'",
        )
