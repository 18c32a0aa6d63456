"""`oodscreen queue`: hand flagged rows on, the most suspicious first, each image once.

In: RESULTS, a `QueueConfig` and where the rows go. Out: a `QueueReport`. Rows and images wait in a temporary file;
memory holds a few hundred bytes for each row that is handed on and for each image that was before.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from export.errors import ExitCode, OptionRefused
from screen.review.classes import ClassNames, name_classes
from screen.review.fetch import Fetched, Fetcher, Place
from screen.review.ledger import LEDGER_NAME, HandedOn, Ledger, input_digest, open_ledger
from screen.review.queue_row import QueueRow
from screen.review.ranking import (
    AUDIT,
    DIRECTIONS,
    FLAGGED,
    Candidates,
    check_reasons,
    choose_score,
    draw_audit,
    rank_flagged,
)
from screen.review.scored import ScoredResults, open_results


class Destination(Protocol):
    """Where a queue goes."""

    @property
    def project(self) -> str:
        """Whose ledger counts."""

    def describe(self) -> str:
        """For people."""

    def has(self, keys: Sequence[bytes]) -> set[bytes]:
        """Which of these images are there already, whatever the ledger says."""

    def refuse_if_there(self) -> None:
        """Refuse, before anything is written, what would overwrite something."""

    def hand_on(self, rows: Iterable[QueueRow], handed: Sequence[HandedOn], ledger: Ledger) -> None:
        """Take the rows, and write them into the ledger."""


@dataclass(frozen=True)
class QueueConfig:
    """Which rows are handed on.

    Attributes:
        top: at most so many flagged rows; None: all.
        per_class: at most so many flagged rows of each predicted class; None: all.
        reasons: only flagged rows whose reason names one of these scores or statuses.
        order_by: the score that says how suspicious a row is; None: see `choose_score`.
        include_random: share of the rows that were not flagged, as `P%`; None: none.
        seed: of that draw.
        ledger: folder of the ledger; None: in RESULTS.
        source: where the input shards are now; None: where they were.
        model: the model's file, for the names of its classes.
    """

    top: int | None = None
    per_class: int | None = None
    reasons: tuple[str, ...] = ()
    order_by: str | None = None
    include_random: str | None = None
    seed: int = 0
    ledger: str | None = None
    source: str | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        check_reasons(self.reasons)
        for name, value, least in (
            ("--top", self.top, 1),
            ("--per-class", self.per_class, 1),
            ("--seed", self.seed, 0),
        ):
            if value is not None and value < least:
                raise OptionRefused(
                    f"{name} is {value}.",
                    wanted=f"a whole number, {least} or more",
                    next_step="give another value, or leave the option out",
                )
        self.share()

    def share(self) -> float:
        """Of the rows that were not flagged, 0 to 1.

        Raises:
            OptionRefused: `include_random` is no share.
        """
        if self.include_random is None:
            return 0.0
        match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*%", self.include_random.strip(), re.ASCII)
        share = float(match[1]) / 100 if match else -1.0
        if not 0 < share <= 1:
            raise OptionRefused(
                f"--include-random is {self.include_random!r}.",
                wanted="a share of the rows that were not flagged, above 0% and at most 100%",
                next_step="for example --include-random 0.5%",
            )
        return share


@dataclass
class QueueReport:
    """What was handed on, and what was not.

    Attributes:
        to: where to.
        rows: rows of the results.
        flagged: of these, flagged.
        matching: of these, with a reason that was asked for.
        order: the score that they are ordered by.
        handed_on: flagged rows that were handed on.
        audit: random other rows that were.
        before: rows whose image was handed on before.
        same_image: rows whose image is in the queue already, by a more suspicious row.
        without_image: rows without an image that can be shown, by why.
        shards: input shards of which nothing could be handed on, and why.
        shard_rows: rows in them that were wanted.
        reasons: flagged rows by their reason.
        notes: what else a person should know.
    """

    to: str
    rows: int
    flagged: int
    matching: int
    order: str
    handed_on: int = 0
    audit: int = 0
    before: int = 0
    same_image: int = 0
    without_image: dict[str, int] = field(default_factory=dict)
    shards: dict[str, str] = field(default_factory=dict)
    shard_rows: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> ExitCode:
        """What the process should end with."""
        return ExitCode.UNREADABLE_INPUT if self.shards else ExitCode.DONE

    def to_json(self) -> str:
        """In one line."""
        return json.dumps({"exit_code": int(self.exit_code), **asdict(self)})

    def to_text(self) -> str:
        """For people."""
        lines = [f"{self.flagged} of {self.rows} rows are flagged"]
        if self.matching != self.flagged:
            lines[0] += f", {self.matching} of them for a reason that was asked for"
        if self.reasons and not self.matching:
            lines.append(f"  reasons: {_told(self.reasons)}")
        if self.handed_on or self.audit:
            audit = f" and {self.audit} random other row(s), to audit the flag" if self.audit else ""
            lines.append(f"handed on to {self.to}: {self.handed_on} row(s) by {self.order}{audit}")
        else:
            lines.append(f"nothing new for {self.to}")
        if self.before:
            lines.append(f"  handed on before: {self.before} row(s); another --project starts a queue of its own")
        if self.same_image:
            lines.append(f"  same image as a row before it: {self.same_image} row(s)")
        if self.without_image:
            lines.append(
                f"  without an image to show: {sum(self.without_image.values())} row(s) "
                f"({_told(self.without_image)}); RESULTS/_quarantine.pq names them"
            )
        for name, why in list(self.shards.items())[:5]:
            lines.append(f"  not handed on: {name!r} {why}")
        if self.shards:
            more = f"{len(self.shards) - 5} more shard(s) like these; " if len(self.shards) > 5 else ""
            lines.append(
                f"  {more}{self.shard_rows} row(s) in {len(self.shards)} shard(s) wait; next: bring the shards back, "
                "name where they are by --input, or run the model over the new ones"
            )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def fill_queue(
    source: str, config: QueueConfig, choose_destination: Callable[[ScoredResults, ClassNames], Destination]
) -> QueueReport:
    """Hand on what nobody was handed before.

    Args:
        source: RESULTS.
        config: which rows.
        choose_destination: where they go; called before anything is read but the manifest and class names.

    Raises:
        Refused: these are no finished results, or something asked for is not to be had.
        OodscreenError: something failed on the way; what was handed on is in the ledger or in the project.
    """
    results = open_results(source)
    score = choose_score(results, config.order_by)
    classes, contract = name_classes(results, config.model)
    destination = choose_destination(results, classes)
    flagged = rank_flagged(results, score, config.reasons)
    audit = draw_audit(results, config.share(), config.seed)
    report = QueueReport(
        destination.describe(),
        results.rows,
        results.flagged,
        len(flagged) + sum(flagged.without_image.values()),
        score,
        reasons=flagged.reasons,
    )
    folder = results.output / LEDGER_NAME if config.ledger is None else config.ledger
    with (
        open_ledger(folder, destination.project) as ledger,
        closing(Fetcher(results, contract, config.source)) as fetcher,
    ):
        report.notes = ledger.notes
        picker = _Picker(results, fetcher, ledger, destination, report)
        chosen = [(FLAGGED, one) for one in picker.pick(flagged, config.top, config.per_class)]
        report.handed_on = len(chosen)
        chosen += [(AUDIT, one) for one in picker.pick(audit, None, None)]
        report.audit = len(chosen) - report.handed_on
        report.without_image = dict(Counter(flagged.without_image) + fetcher.missing.images)
        report.shards, report.shard_rows = fetcher.missing.shards, fetcher.missing.rows
        results.refuse_if_changed()
        if chosen:
            destination.refuse_if_there()
            handed = [picker.handed(one) for _, one in chosen]
            destination.hand_on(_rows(chosen, results, fetcher, classes, score), handed, ledger)
        if picker.seen:
            ledger.add(picker.seen)
    return report


def _rows(
    chosen: list[tuple[str, Fetched]], results: ScoredResults, fetcher: Fetcher, classes: ClassNames, score: str
) -> Iterator[QueueRow]:
    """The rows in the order of the queue, from the temporary file."""
    sign = 1.0 if DIRECTIONS[score] else -1.0
    for index, (source, one) in enumerate(chosen):
        row, image = fetcher.load(one)
        value = row[score]
        yield QueueRow(
            rank=index + 1,
            key=one.key.hex(),
            source=source,
            suspicion=None if value is None else sign * float(value),
            predicted=classes.predicted(row),
            model_version=results.model_version,
            input_footer=str(results.entries[one.place.shard].input["footer"]),
            result=row,
            image=image,
        )


class _Picker:
    """Goes through candidates in their order until there are enough that are new.

    Only an image's bytes say whether it is new, so some are fetched for nothing; each round fetches more.

    Attributes:
        seen: rows whose image turned out to be handed on, for the ledger: they need not be fetched again.
    """

    def __init__(
        self, results: ScoredResults, fetcher: Fetcher, ledger: Ledger, destination: Destination, report: QueueReport
    ) -> None:
        self._inputs = [input_digest(entry) for entry in results.entries]
        self._fetcher, self._ledger, self._destination, self._report = fetcher, ledger, destination, report
        self._taken: set[bytes] = set()
        self.seen: list[HandedOn] = []

    def handed(self, one: Fetched) -> HandedOn:
        """A row as the ledger has it."""
        return HandedOn(one.key, self._inputs[one.place.shard], one.place.row)

    def pick(self, candidates: Candidates, top: int | None, per_class: int | None) -> list[Fetched]:
        """The first new ones."""
        left = self._not_before(candidates)
        classes = candidates.prediction
        picked: list[Fetched] = []
        counts: Counter[int] = Counter()
        width = 1
        while left and (top is None or len(picked) < top):
            asked, left = _next_round(
                left, classes, counts, None if top is None else top - len(picked), per_class, width
            )
            if not asked:
                break
            places = {index: Place(int(candidates.shard[index]), int(candidates.row[index])) for index in asked}
            found = self._fetcher.fetch(list(places.values()))
            there = self._known([one.key for one in found.values()])
            for index in asked:
                one = found.get(places[index])
                kind = int(classes[index])
                if one is None:
                    continue
                if one.key in there or one.key in self._taken:
                    self._report.before += one.key in there
                    self._report.same_image += one.key not in there
                    self.seen.append(self.handed(one))
                elif (top is None or len(picked) < top) and (per_class is None or counts[kind] < per_class):
                    self._taken.add(one.key)
                    counts[kind] += 1
                    picked.append(one)
            width *= 2
        return picked

    def _not_before(self, candidates: Candidates) -> list[int]:
        """Those whose very row the ledger does not have: their images need not be read again."""
        is_new = np.ones(len(candidates), np.bool_)
        for index, digest in enumerate(self._inputs):
            known = self._ledger.rows.get(digest)
            if known:
                here = candidates.shard == index
                is_new[here] = ~np.isin(candidates.row[here], np.fromiter(known, np.int64, len(known)))
        self._report.before += int(np.sum(~is_new))
        return np.flatnonzero(is_new).tolist()

    def _known(self, keys: list[bytes]) -> set[bytes]:
        by_ledger = {key for key in keys if key in self._ledger.keys}
        return by_ledger | self._destination.has([key for key in dict.fromkeys(keys) if key not in by_ledger])


def _next_round(
    left: list[int], classes: Any, counts: Counter[int], missing: int | None, per_class: int | None, width: int
) -> tuple[list[int], list[int]]:
    """Candidates to fetch now, and those left for later rounds."""
    if per_class is None:
        cut = len(left) if missing is None else missing * width
        return left[:cut], left[cut:]
    asked: list[int] = []
    rest: list[int] = []
    provisional: Counter[int] = Counter()
    for index in left:
        kind = int(classes[index])
        room = width * (per_class - counts[kind])
        if provisional[kind] < room and (missing is None or len(asked) < missing * width):
            provisional[kind] += 1
            asked.append(index)
        elif per_class > counts[kind]:
            rest.append(index)
    return asked, rest


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in list(counts.items())[:6])
