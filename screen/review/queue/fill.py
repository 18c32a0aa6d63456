"""`oodscreen queue`: export flagged rows for labelling, most suspicious first, each image at most once per project.

In: RESULTS, a `QueueConfig` and a destination. Out: a `QueueReport`. Rows and images are buffered in a temporary file;
memory holds a few hundred bytes per exported row and per image in the ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice

from screen.review.classes import ClassNames, name_classes, use_class_names
from screen.review.queue.config import QueueConfig
from screen.review.queue.fetch import FetchedRow, Fetcher
from screen.review.queue.ledger import LEDGER_NAME, open_ledger
from screen.review.queue.picking import Destination, Picker
from screen.review.queue.row import QueueRow
from screen.review.queue.summary import SHOWN_ROWS, PlannedRow, QueueReport
from screen.review.ranking import (
    AUDIT,
    FLAGGED,
    check_per_class,
    choose_score,
    draw_audit,
    is_high_suspicious,
    rank_flagged,
)
from screen.review.results import Results, open_results


def fill_queue(
    source: str, config: QueueConfig, choose_destination: Callable[[Results, ClassNames, bool], Destination]
) -> QueueReport:
    """Export the selected rows whose images are not in the project yet.

    A dry run selects the same rows, writes only a temporary file, and takes no lock.

    Args:
        source: folder of results.
        config: selection of the rows.
        choose_destination: function that returns the destination, given the results, the choices available to an
            annotator and whether this is a dry run. The function is called before rows are ranked, so that wrong
            options are reported early.

    Raises:
        Refused: the source contains no finished results, or an option is invalid.
        OodscreenError: the export failed; exported images are recorded in the ledger or in the project.
    """
    results = use_class_names(open_results(source), tuple(config.class_names))
    score = choose_score(results, config.order_by)
    if config.per_class is not None:
        check_per_class(results)
    classes, contract = name_classes(results, config.model)
    destination = choose_destination(results, classes, config.dry_run)
    flagged = rank_flagged(results, score, tuple(config.reasons))
    audit = draw_audit(results, config.share(), config.seed)
    report = QueueReport(
        destination.describe(),
        results.rows,
        results.flagged,
        len(flagged) + sum(flagged.without_image.values()),
        score,
        reasons=flagged.reasons,
        dry_run=config.dry_run,
    )
    folder = results.folder / LEDGER_NAME if config.ledger is None else config.ledger
    with (
        open_ledger(folder, destination.project, dry_run=config.dry_run) as ledger,
        closing(Fetcher(results, contract, config.source, dry_run=config.dry_run)) as fetcher,
    ):
        report.notes = ledger.notes
        picker = Picker(results, fetcher, ledger, destination, report)
        chosen = [(FLAGGED, one) for one in picker.pick(flagged, config.top, config.per_class)]
        report.handed_on = len(chosen)
        chosen += [(AUDIT, one) for one in picker.pick(audit, None, None)]
        report.audit = len(chosen) - report.handed_on
        report.without_image = dict(Counter(flagged.without_image) + fetcher.missing.images)
        report.shards, report.shard_rows = fetcher.missing.shards, fetcher.missing.rows
        results.refuse_if_changed()
        if chosen:
            destination.refuse_overwrite()
            rows = _rows(chosen, results, fetcher, classes, score)
            if config.dry_run:
                report.first_rows = [PlannedRow.of(row) for row in islice(rows, SHOWN_ROWS)]
            else:
                destination.export(rows, [picker.ledger_entry(one) for _, one in chosen], ledger)
        if picker.seen and not config.dry_run:
            ledger.add(picker.seen)
    return report


def _rows(
    chosen: list[tuple[str, FetchedRow]], results: Results, fetcher: Fetcher, classes: ClassNames, score: str
) -> Iterator[QueueRow]:
    """The queue rows in order, each read from the temporary file."""
    sign = 1.0 if is_high_suspicious(results, score) else -1.0
    for index, (source, one) in enumerate(chosen):
        row, kept, image = fetcher.load(one)
        value = row[score]
        yield QueueRow(
            rank=index + 1,
            key=one.key.hex(),
            source=source,
            suspicion=None if value is None else sign * float(value),
            predicted=classes.predicted(row),
            model_version=results.model_version,
            input_footer=str(results.entries[one.position.shard].input["footer"]),
            result=row,
            kept=kept,
            image=image,
        )
