"""ShardPartition: the shards that one job of a job array scores (`--part I/N`).

In: `I/N`. Out: a `ShardPartition` that selects shards by a hash of their names. The partition of a shard
depends on the name of the shard alone, so each shard belongs to exactly one job, even if the jobs list INPUT at
different times and INPUT changes in between. Partitions are equal in size only on average; use many more shards than
partitions.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from export.errors import OptionRefused

_NAME = re.compile(r"(\d+)-of-(\d+)", re.ASCII)


@dataclass(frozen=True, order=True)
class ShardPartition:
    """One of N partitions of the shards.

    Attributes:
        index: number of the partition, from 1.
        count: number of partitions, N.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> ShardPartition:
        """Parse `I/N`.

        Raises:
            OptionRefused: the text is not of this form, or I is not between 1 and N.
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip(), re.ASCII)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise OptionRefused(
                f"--part is {text!r}.",
                wanted="I/N with I from 1 to N and N below a million, such as 3/8",
                next_step="give the number of the job, from 1; if the scheduler counts from 0, add 1",
            )
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def from_name(cls, name: str) -> ShardPartition | None:
        """The partition with this `name`; None if the text does not have the form `I-of-N`."""
        match = _NAME.fullmatch(name)
        return None if match is None else cls(int(match[1]), int(match[2]))

    @property
    def name(self) -> str:
        """`I-of-N`, as used in file names."""
        return f"{self.index}-of-{self.count}"

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def contains(self, shard: str) -> bool:
        """Whether a shard of this name belongs to the partition."""
        digest = hashlib.sha256(shard.encode(errors="surrogateescape")).digest()
        return int.from_bytes(digest[:8], "little") % self.count == self.index - 1

    def others(self) -> list[ShardPartition]:
        """All other partitions with the same N."""
        return [ShardPartition(index, self.count) for index in range(1, self.count + 1) if index != self.index]
