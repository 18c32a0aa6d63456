"""`oodscreen report`: gather the findings of a run, and write the page.

In: RESULTS, the path of the page, and a `ReportConfig`. Out: the page, and a `WrittenReport` that describes it.
"""

from __future__ import annotations

from dataclasses import dataclass

from screen.files.paths import as_path, name_place
from screen.review.report.config import ReportConfig
from screen.review.report.findings import Findings
from screen.review.report.gather import gather_findings
from screen.review.report.page import refuse_foreign, write_page


@dataclass(frozen=True)
class WrittenReport:
    """A page that was written.

    Attributes:
        page: path of the page.
        size: size of the page in bytes.
        findings: contents of the page.
    """

    page: str
    size: int
    findings: Findings

    def to_text(self) -> str:
        """The notes, and one line about the page, as text for the terminal."""
        shown, counts = len(self.findings.top_rows), self.findings.counts
        similar = sum(card.count for card in self.findings.cards)
        like_them = f" and {similar} similar row(s)" if similar else ""
        pictures = sum(not isinstance(one.preview, str) for one in self.findings.top_rows)
        bad = f" ({counts.bad} of them could not be scored)" if counts.bad else ""
        line = (
            f"{self.page}: the {shown} most suspicious row(s) ({pictures} with a thumbnail){like_them}; "
            f"{counts.flagged} of {counts.rows} rows are flagged{bad}; {self.size / 1e6:.1f} MB"
        )
        return "\n".join([*(f"note: {note}" for note in self.findings.notes), line])


def write_report(results: str, page: str, config: ReportConfig) -> WrittenReport:
    """Write the page of a run; an earlier report is replaced.

    Args:
        results: OUTPUT folder of a run.
        page: HTML file to write.
        config: options of the report.

    Raises:
        OptionRefused: an option is invalid, or a library of the extra `report` is not installed.
        InputRefused: there are no results, or unfinished or damaged results.
        OutputLocked: a run is writing the results.
        OutputRefused: `page` is a folder, or a file that is not an oodscreen report.
        WriteFailed: the page cannot be written.
    """
    refuse_foreign(as_path(page))  # before the results are read
    findings = gather_findings(
        results,
        top=config.top,
        look_alikes=config.look_alikes,
        against=config.against,
        moved_to=config.source,
        class_names=tuple(config.class_names),
        title=config.title,
    )
    return WrittenReport(name_place(page), write_page(findings, page), findings)
