"""Find the result row of each label that has an `id` or a `key` instead of `shard` and `row`.

In: the votes on each row, results, and the ledger of the queues. Out: the votes with complete row names; labels that
match no row, or several, are counted. Results contain no keys; the ledger contains the exported rows of each key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from screen.review.labels.votes import RowName, Votes
from screen.review.queue.ledger import input_digest, read_exported
from screen.review.results import Results, RowPosition

Found = dict[str, list[RowPosition]]
"""Positions of rows by their id, or by the key of their image, in the order of the results."""


def complete_names(
    votes: Iterable[Votes], results: Results, ledger: str | None, excluded: Counter[str]
) -> Iterator[Votes]:
    """The votes with complete row names; votes on unknown rows are left out.

    An id must belong to one row; if several rows have the id, the key decides between them. A key belongs to one image:
    of the rows with this image, the first row gets the label.

    Args:
        votes: the votes on each labelled row.
        results: results that the rows belong to.
        ledger: folder of the ledger; None for the default folder.
        excluded: receives the number of labels without a row, by reason.

    Raises:
        InputRefused: a result shard was changed or damaged after the run.
        OutputRefused: a ledger file cannot be read.
    """
    given = list(votes)
    yield from (one for one in given if one.name.is_complete)
    partial = [one for one in given if not one.name.is_complete]
    if not partial:
        return
    by_id = _find_ids(results, {one.name.id for one in partial if one.name.id is not None})
    by_key = _find_keys(results, ledger, {one.name.key for one in partial if one.name.key is not None})
    for one in partial:
        found = _find(one.name, by_id, by_key, results)
        if isinstance(found, str):
            excluded[found] += 1
        else:
            one.name = replace(one.name, shard=results.entries[found.shard].shard, row=found.row)
            yield one


def _find(name: RowName, by_id: Found, by_key: Found, results: Results) -> RowPosition | str:
    """The position of the row, or the reason why the position is unknown."""
    of_id = _fitting(name, by_id.get(name.id or "", []), results)
    of_key = _fitting(name, by_key.get(name.key or "", []), results)
    if len(of_id) == 1:
        return of_id[0]
    if of_id:
        of_both = [position for position in of_id if position in of_key]
        return of_both[0] if of_both else "id of several rows"
    if of_key:
        return of_key[0]
    return "id not in the results" if name.id is not None else "key not in the ledger of these results"


def _fitting(name: RowName, positions: list[RowPosition], results: Results) -> list[RowPosition]:
    """Those positions that do not contradict the shard or the row in the name."""
    return [
        one
        for one in positions
        if name.shard in ("", results.entries[one.shard].shard) and (name.row < 0 or name.row == one.row)
    ]


def _find_ids(results: Results, ids: set[str]) -> Found:
    found: Found = {}
    wanted = pa.array(sorted(ids), pa.string())
    for index, entry in enumerate(results.entries if ids else ()):
        for table in results.batches(entry, ["id", "row"]):
            for row in table.filter(pc.is_in(table["id"], wanted)).to_pylist():
                found.setdefault(row["id"], []).append(RowPosition(index, row["row"]))
    return found


def _find_keys(results: Results, ledger: str | None, keys: set[str]) -> Found:
    if not keys:
        return {}
    indices = {input_digest(entry): index for index, entry in enumerate(results.entries)}
    found: dict[str, set[RowPosition]] = {}
    for one in read_exported(results.folder, ledger):
        if one.key.hex() in keys and one.input in indices:
            found.setdefault(one.key.hex(), set()).add(RowPosition(indices[one.input], one.row))
    return {key: sorted(rows, key=lambda one: (one.shard, one.row)) for key, rows in found.items()}
