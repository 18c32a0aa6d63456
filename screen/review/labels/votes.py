"""What annotators said of rows, and the label that follows from it.

In: votes, one by one, each with the whole name of its row. Out: `GivenLabels`, and for the votes of a row its label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RowName:
    """Which row of the results a label is for.

    Two labels are for the same row for sure only where all of this is the same but `source`: shards that were written
    anew, or are of other results, have the same names.

    Attributes:
        shard: name of the shard.
        row: position in it.
        id: the row's key, where the label has it.
        input_footer: digest of the input shard's footer, where the label has it.
        key: SHA-256 of the image, where the label has it.
        source: `flagged` or `audit`, where the label has it.
    """

    shard: str
    row: int
    id: str | None
    input_footer: str | None
    key: str | None
    source: str | None = field(compare=False)


Choice = str | int
"""What was chosen: a text, or the number of a class."""


@dataclass(frozen=True, slots=True)
class Vote:
    """What one annotator said of one row.

    Attributes:
        choices: one or several, none twice.
        number: of the vote among all that were read; of two by one annotator the later counts.
    """

    choices: tuple[Choice, ...]
    number: int


@dataclass
class Votes:
    """What annotators said of one row.

    Attributes:
        name: the row.
        by_annotator: the last vote of each annotator.
        ground_truth: the vote that somebody marked as the truth; None where nobody did.
    """

    name: RowName
    by_annotator: dict[str, Vote] = field(default_factory=dict)
    ground_truth: Vote | None = None

    @classmethod
    def together(cls, parts: Sequence[Votes]) -> Votes:
        """The votes of several names that turned out to be one row; of each annotator the last vote counts.

        Its name has the id, the footer, the key and the source of the first that has one.
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
                had = merged.by_annotator.get(annotator)
                if had is None or had.number < vote.number:
                    merged.by_annotator[annotator] = vote
        marked = [part.ground_truth for part in parts if part.ground_truth is not None]
        merged.ground_truth = max(marked, key=lambda vote: vote.number, default=None)
        return merged

    def decide(self, name: Callable[[Choice], str]) -> tuple[tuple[str, ...], float] | None:
        """The label and the share of annotators who gave it; None where no label has more votes than each other.

        What is marked as ground truth is the label, whatever the votes.

        Args:
            name: the name of a choice; what has the same names is the same label.
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
class GivenLabels:
    """All labels of a file.

    Attributes:
        votes: by the whole name of a row.
        read: tasks or lines that were read.
        foreign: of these, without the name of a row of ours.
        unlabelled: of these, with no label at all.
        skipped: annotations that were cancelled.
        repeated: tasks or lines with a name that one had before; their votes are put together.
    """

    votes: dict[RowName, Votes] = field(default_factory=dict)
    read: int = 0
    foreign: int = 0
    unlabelled: int = 0
    skipped: int = 0
    repeated: int = 0
    _counted: int = 0

    def add(self, name: RowName, annotator: str, choices: tuple[Choice, ...], *, is_truth: bool = False) -> None:
        """Count a vote; an earlier one of the annotator on this row counts no more."""
        votes = self.votes.setdefault(name, Votes(name))
        vote = Vote(choices, self._counted)
        self._counted += 1
        votes.by_annotator[annotator] = vote
        if is_truth:
            votes.ground_truth = vote
