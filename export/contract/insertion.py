"""Dropout that an export inserts: where, at which rate, and how a rate was chosen.

In: the text of `--insert-dropout`, or the measurements of several rates. Out: an `Insertion`, or a `RateChoice` for the
contract.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from export.errors import OptionRefused

CLASSIFIER = "classifier"
"""Name that stands for the last layer with weights before the outputs, unless a layer has this name."""

AUTO = "auto"
"""Text in place of a rate, for a rate that the export chooses on labelled rows."""


@dataclass(frozen=True)
class Insertion:
    """A dropout site to insert before a layer.

    Attributes:
        layer: name or path of the layer, or `CLASSIFIER`; "" in `LIST`.
        rate: dropout rate, above 0 and below 1; None if the export chooses the rate on labelled rows, and in `LIST`.

    Raises:
        OptionRefused: the rate is not above 0 and below 1.
    """

    layer: str
    rate: float | None

    def __post_init__(self) -> None:
        if self.rate is not None and not 0 < self.rate < 1:
            raise OptionRefused(
                f"--insert-dropout gives {self.layer} the rate {self.rate:g}.",
                wanted="a rate above 0 and below 1, or auto",
                next_step=f"give another rate, such as --insert-dropout '{self.layer}=0.2'",
            )


LIST = Insertion("", None)
"""The value of `--insert-dropout list`: print layers before which dropout can be inserted, and export nothing."""

LIST_COMMAND = "`oodscreen export MODEL OUT.onnx --insert-dropout list`"


def check_insertions(insertions: Sequence[Insertion], *, labelled: bool) -> None:
    """Check that no layer is named twice, and that `AUTO` is given for all layers or none, and only with labelled rows.

    Args:
        insertions: the sites to insert.
        labelled: whether labelled rows were given.

    Raises:
        OptionRefused: one of the conditions does not hold, or `LIST` is among the insertions.
    """
    names = [insertion.layer for insertion in insertions]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise OptionRefused(
            f"--insert-dropout names {twice} {names.count(twice)} times.",
            wanted="one rate for each layer",
            next_step=f"give --insert-dropout '{twice}=RATE' once",
        )
    if LIST in insertions:
        raise OptionRefused(
            "--insert-dropout is list, which only the command `oodscreen export` handles.",
            wanted="a layer and a rate, such as 'classifier=0.2'",
            next_step="give a layer and a rate; " + LIST_COMMAND + " prints the layers",
        )
    chosen = [insertion.layer for insertion in insertions if insertion.rate is None]
    if 0 < len(chosen) < len(insertions):
        raise OptionRefused(
            "--insert-dropout gives auto for some layers and a rate for others.",
            wanted="auto for all layers, which then get the same rate, or a rate for each layer",
            next_step=f"give auto for the other layers too, or a rate for {', '.join(chosen)}",
        )
    if chosen and not labelled:
        raise OptionRefused(
            f"--insert-dropout '{chosen[0]}=auto' was given without --check-data.",
            wanted="labelled rows, on which the export compares several rates",
            next_step="add --check-data SHARDS with labelled rows that you will not use to calibrate, or give a rate, "
            f"such as --insert-dropout '{chosen[0]}=0.2'",
        )


@dataclass(frozen=True)
class RateTrial:
    """Measurements at one rate of the inserted dropout, on labelled rows.

    Attributes:
        rate: dropout rate; 0 for the model without the inserted dropout.
        accuracy: share of the rows with a correct prediction (for several labels: with all labels correct).
        nll: mean negative log-likelihood of the labels, in nats, under the mean probabilities over the passes.
        ece: expected calibration error of these probabilities, 0 to 1 (Guo et al. 2017).
        keeps_accuracy: whether the accuracy is not significantly lower than without the inserted dropout.
    """

    rate: float
    accuracy: float
    nll: float
    ece: float
    keeps_accuracy: bool


@dataclass(frozen=True)
class RateChoice:
    """How the export chose the rate of inserted dropout, on labelled rows.

    Attributes:
        rate: the chosen rate.
        rows: number of labelled rows.
        passes: number of stochastic passes at each rate.
        trials: the measurements at each rate, rate 0 first.
        digests: digests of the pixels of the labelled rows, ascending, with which a calibration recognises these rows.
    """

    rate: float
    rows: int
    passes: int
    trials: tuple[RateTrial, ...]
    digests: tuple[int, ...] = ()

    def describe(self) -> list[str]:
        """Lines of text: the choice, its reason, and a table of the measurements."""
        without, *others = self.trials
        chosen = next(trial for trial in others if trial.rate == self.rate)
        lost = [f"{trial.rate:g}" for trial in others if not trial.keeps_accuracy]
        lines = [
            f"rate {self.rate:g}, chosen on {self.rows} labelled rows with {self.passes} passes:",
            "rate  accuracy     NLL     ECE",
        ]
        for trial in self.trials:
            mark = "without" if trial is without else "chosen" if trial is chosen else ""
            mark = mark if trial.keeps_accuracy else "accuracy lost"
            row = f"{trial.rate:<5g} {trial.accuracy:8.2%} {trial.nll:7.4f} {trial.ece:7.4f}  {mark}"
            lines.append(row.rstrip())
        reason = "the smallest calibration error (ECE) among the rates that keep the accuracy and whose NLL is not "
        lines.append(f"reason: {reason}distinguishable from the best")
        if lost:
            lines.append(
                "left out, because the accuracy is significantly lower than without the inserted dropout: "
                + ", ".join(lost)
            )
        if chosen.nll >= without.nll:
            lines.append(
                "the NLL is not lower than without the inserted dropout: here this dropout does not improve the "
                "probabilities"
            )
        return lines

    def to_text(self) -> str:
        """The choice as JSON, for the metadata; a digest is 16 hexadecimal digits."""
        values = asdict(self) | {"digests": "".join(f"{digest:016x}" for digest in self.digests)}
        return json.dumps(values)

    @classmethod
    def from_text(cls, text: str) -> RateChoice:
        """The choice that `to_text` wrote as text.

        Raises:
            KeyError, TypeError, ValueError: the text has another form.
        """
        values: Mapping[str, Any] = json.loads(text)
        digests = values["digests"]
        return cls(
            rate=float(values["rate"]),
            rows=int(values["rows"]),
            passes=int(values["passes"]),
            trials=tuple(RateTrial(**trial) for trial in values["trials"]),
            digests=tuple(int(digests[start : start + 16], 16) for start in range(0, len(digests), 16)),
        )
