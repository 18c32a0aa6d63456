"""Collect the annotators' votes on each row, and derive the row's label by plurality.

In: votes, each with the `RowName` of its row. Out: `Annotations`, and for each row the label with the most votes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from screen.review.classes import Choice


@dataclass(frozen=True)
class RowName:
    """Identity of a labelled row.

    Two identities are equal only if all attributes except `source` are equal, because shards of different results, or
    a shard before and after a change, can have the same name.

    Attributes:
        shard: name of the shard; "" if unknown.
        row: position in the shard; -1 if unknown.
        id: id of the row; None if unknown.
        input_footer: digest of the input shard's footer; None if unknown.
        key: SHA-256 of the image; None if unknown.
        source: `flagged` or `audit`; None if unknown.
    """

    shard: str
    row: int
    id: str | None
    input_footer: str | None
    key: str | None
    source: str | None = field(compare=False)

    @property
    def is_complete(self) -> bool:
        """Whether shard and row are known."""
        return self.shard != "" and self.row >= 0


@dataclass(frozen=True, slots=True)
class Vote:
    """The vote of one annotator on one row.

    Attributes:
        choices: one or more different choices.
        number: position of the vote in the order of reading; of the votes of one annotator, the last one counts.
    """

    choices: tuple[Choice, ...]
    number: int


@dataclass
class Votes:
    """The votes on one row.

    Attributes:
        name: identity of the row.
        by_annotator: last vote of each annotator.
        ground_truth: the vote that is marked as ground truth; None if no vote is marked.
    """

    name: RowName
    by_annotator: dict[str, Vote] = field(default_factory=dict)
    ground_truth: Vote | None = None

    @property
    def choices(self) -> set[Choice]:
        """All choices that the annotators made for the row."""
        marked = () if self.ground_truth is None else self.ground_truth.choices
        return {*marked, *(choice for vote in self.by_annotator.values() for choice in vote.choices)}

    @classmethod
    def merge(cls, parts: Sequence[Votes]) -> Votes:
        """The merged votes of `parts`, which name the same row differently; the last vote of each annotator counts.

        Each attribute of the merged name is that of the first part in which the attribute is not None.
        """
        names = [part.name for part in parts]
        merged = cls(
            RowName(
                names[0].shard,
                names[0].row,
                id=_first(name.id for name in names),
                input_footer=_first(name.input_footer for name in names),
                key=_first(name.key for name in names),
                source=_first(name.source for name in names),
            )
        )
        for part in parts:
            for annotator, vote in part.by_annotator.items():
                previous = merged.by_annotator.get(annotator)
                if previous is None or previous.number < vote.number:
                    merged.by_annotator[annotator] = vote
        marked = [part.ground_truth for part in parts if part.ground_truth is not None]
        merged.ground_truth = max(marked, key=lambda vote: vote.number, default=None)
        return merged

    def decide(self, name: Callable[[Choice], str]) -> tuple[tuple[str, ...], float] | None:
        """The label with the most votes and the share of annotators who gave it; None without votes or for a tie.

        If a vote is marked as ground truth, the label of this vote is returned.

        Args:
            name: function from a choice to its class name; votes with equal sets of names are votes for the same label.
        """

        def label_of(vote: Vote) -> tuple[str, ...]:
            return tuple(sorted({name(choice) for choice in vote.choices}))

        counts = Counter(map(label_of, self.by_annotator.values()))
        if self.ground_truth is not None:
            truth = label_of(self.ground_truth)
            return truth, counts[truth] / max(1, counts.total())
        ordered = counts.most_common(2)
        if not ordered or (len(ordered) == 2 and ordered[0][1] == ordered[1][1]):
            return None
        return ordered[0][0], ordered[0][1] / counts.total()


def _first(texts: Iterable[str | None]) -> str | None:
    return next((text for text in texts if text is not None), None)


@dataclass
class Annotations:
    """All annotations of a file or project.

    Attributes:
        votes: votes by row.
        read: number of tasks or rows read.
        foreign: number of tasks or rows that name no row of results.
        unlabelled: number of tasks or rows without a label.
        skipped: number of cancelled annotations.
        repeated: number of tasks or rows that repeat a labelled row; their votes are merged.
    """

    votes: dict[RowName, Votes] = field(default_factory=dict)
    read: int = 0
    foreign: int = 0
    unlabelled: int = 0
    skipped: int = 0
    repeated: int = 0
    _counted: int = 0

    def add(self, name: RowName, annotator: str, choices: tuple[Choice, ...], *, is_truth: bool = False) -> None:
        """Add a vote, which replaces an earlier vote of the same annotator on the same row."""
        votes = self.votes.setdefault(name, Votes(name))
        vote = Vote(choices, self._counted)
        self._counted += 1
        votes.by_annotator[annotator] = vote
        if is_truth:
            votes.ground_truth = vote
