"""Find and read the shards of a calibration, and count the rows that cannot be scored.

In: a source, a `RunConfig` and a model's contract. Out: `ShardRef`s, and batches of decoded images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing

from export.contract.labelled import identify_images
from export.contract.metadata import ModelContract
from screen.config import RunConfig
from screen.files.listing import list_shards
from screen.files.paths import name_place
from screen.input.decode import ImageBatch
from screen.input.first_rows import refuse_failing_rows
from screen.input.image_bytes import Failure
from screen.input.images import batch_rows, decode_ahead
from screen.input.mapping import map_columns
from screen.input.rows import read_batches
from screen.input.shards import ShardRef, open_shards
from screen.overlap import StageClock
from screen.run.runner import Listener

_CHOSE_RATE = "chose_rate"
"""Status, in calibrations only, of the rows on which the export chose the rate of inserted dropout."""


class CalibrationRows:
    """Finds and reads the shards of a calibration.

    Args:
        contract: image size and colour of the model.
        config: settings for reading rows.
        listener: object that receives progress and notices.

    Attributes:
        count: number of rows that were read with `count=True`.
        statuses: number of these rows that could not be scored, by status.
        device_note: one-line note on the device, or "", for the listener.
    """

    def __init__(self, contract: ModelContract, config: RunConfig, listener: Listener) -> None:
        self._contract, self._config, self._listener = contract, config, listener
        choice = contract.rate_choice
        self._rate_rows = frozenset(choice.digests if choice else ())
        self.count = 0
        self.statuses: dict[str, int] = {}
        self.device_note = ""
        self._first_failure = ""

    def find(self, source: str) -> list[ShardRef]:
        """The readable shards of a source; a warning names each shard that is left out.

        Args:
            source: a shard, a folder of shards, or a glob.

        Raises:
            InputRefused: no shard can be read, or no drawn row can be read, and an option corrects the reason (see
                `refuse_failing_rows`).
        """
        listing = list_shards(source)
        shards, unreadable = open_shards(listing)
        if besides := listing.passed_over.describe():
            self._listener.noted(f"skipped in {name_place(source)}: {besides}")
        for one in unreadable:
            self._listener.warned(f"left out, because the shard cannot be read: {one.name} ({one.reason})")
        columns = map_columns(shards, self._config, self._contract)
        refuse_failing_rows(shards, columns, self._config, self._contract)
        return shards

    def read(self, shards: list[ShardRef], *, count: bool) -> Iterator[ImageBatch]:
        """Batches of images, decoded ahead; batches without a readable row are skipped.

        Args:
            shards: the shards to read.
            count: whether to add the rows to `count` and `statuses`; False for reference rows, and for rows that
                another call counts.
        """
        config, contract = self._config, self._contract
        columns = map_columns(shards, config, contract)
        self._listener.started(len(shards), sum(shard.rows for shard in shards), 0, self.device_note)
        batches = read_batches(shards, columns, batch_rows(config, contract))
        with closing(decode_ahead(batches, contract, config, StageClock())) as decoded:
            for undivided in decoded:
                batch = self._without_rate_rows(undivided)
                self.add_failures(batch.failures.values(), count=count)
                self.count += len(batch.readable) if count else 0
                if batch.readable.any():
                    yield batch
                self._listener.advanced(len(batch.readable))

    def _without_rate_rows(self, batch: ImageBatch) -> ImageBatch:
        """The batch without the rows on which the export chose the rate of inserted dropout.

        The rate fits these rows better than other rows, so that a threshold from these rows could flag too many or too
        few other rows.
        """
        if not self._rate_rows:
            return batch
        digests = identify_images(batch.images)
        return batch.fail_readable(
            {
                row: (_CHOSE_RATE, "the export chose the dropout rate on this row")
                for row, digest in enumerate(digests)
                if digest in self._rate_rows
            }
        )

    def add_failures(self, failures: Iterable[Failure], *, count: bool = True) -> None:
        """Add rows that could not be scored to `statuses` if `count` is set, and keep the first reason."""
        for status, error in failures:
            self._first_failure = self._first_failure or f"{status}: {error}"
            if count:
                self.statuses[status] = self.statuses.get(status, 0) + 1

    def describe_failure(self) -> str:
        """The first row that was not used, with the reason, for an error; "" if all rows were used."""
        return f" (first row that was not used: {self._first_failure})" if self._first_failure else ""
