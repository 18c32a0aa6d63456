"""Print an `Evaluation` as tables, or draw it as a plot.

In: an `Evaluation`. Out: text on the terminal, or an image file. Only the plot needs matplotlib.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from export.errors import OptionRefused
from screen.files.storage import write_text
from screen.review.evaluate.config import EvaluationConfig
from screen.review.evaluate.labelled import LabelledEvaluation
from screen.review.evaluate.metrics import Evaluation
from screen.review.evaluate.risk import SHARES
from screen.review.extras import missing_library
from screen.review.text import escape


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print the metrics: a table for each out-of-distribution set and, with labels, tables of accuracy and errors."""
    console.print(
        f"in distribution: {evaluation.rows} rows, {evaluation.scored} scored, {evaluation.flagged:.1%} flagged"
    )
    for note in evaluation.notes:
        console.print(f"note: {escape(note)}", soft_wrap=True)
    for one in evaluation.sets:
        console.print(f"{one.name}: {one.rows} rows, {one.scored} scored, {one.flagged:.1%} flagged", soft_wrap=True)
        table = Table(Column("score", no_wrap=True), "AUROC", "AUPR", "FPR at 95 % TPR")
        for row in one.separations:
            table.add_row(row.score, f"{row.auroc:.4f}", f"{row.aupr:.4f}", f"{row.fpr95:.2%}")
        console.print(table)
    if evaluation.labelled is not None:
        _print_labelled(evaluation.labelled, console)


def _print_labelled(labelled: LabelledEvaluation, console: Console) -> None:
    console.print(f"accuracy {labelled.accuracy:.2%}, NLL {labelled.nll:.4f} nats, ECE {labelled.ece:.4f}")
    console.print(
        f"{labelled.rows} scored rows with a label; left out: {labelled.unlabelled} scored rows without a label, "
        f"{labelled.unscored} rows that could not be scored"
    )
    flagged, unflagged = labelled.flagged, labelled.unflagged
    table = Table(Column("rows", no_wrap=True), "labelled", "wrong", "accuracy (95 % interval)")
    for name, group in (("flagged", flagged), ("not flagged", unflagged)):
        share = "" if group.accuracy is None else f"{group.accuracy:.2%} ({group.low:.2%}..{group.high:.2%})"
        table.add_row(name, str(group.rows), str(group.wrong), share)
    console.print(table)
    console.print(f"{flagged.wrong} of {flagged.wrong + unflagged.wrong} wrong predictions are in flagged rows.")
    console.print(
        "area under the risk-coverage curve (AURC): mean error rate of the accepted rows if the least unusual rows are "
        f"accepted first; a score without information has an AURC of {1 - labelled.accuracy:.3%}",
        soft_wrap=True,
    )
    table = Table(Column("score", no_wrap=True), "unusual values", "rows", "AURC", "AURC above the best order")
    for risk in labelled.risks:
        side = "high" if risk.high_is_unusual else "low"
        table.add_row(risk.score, side, str(risk.rows), f"{risk.aurc:.3%}", f"{risk.excess_aurc:.3%}")
    console.print(table)
    shares = [f"{share:.1%}" for share in SHARES]
    console.print("error rate of the unreviewed rows, by the reviewed share of all rows")
    table = Table(Column("review order", no_wrap=True), *shares)
    for name, errors in labelled.error_left.items():
        table.add_row(name, *(f"{error:.2%}" for error in errors))
    console.print(table)


def plot_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Plot the FPR at 95 % TPR of each score and set and, with labels, the error rates of the unreviewed rows.

    Args:
        evaluation: the metrics to plot.
        path: file to write; the extension determines the format.

    Raises:
        OptionRefused: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_library("matplotlib", extra="evaluate") from error
    panels = (1 if evaluation.sets else 0) + (1 if evaluation.labelled else 0)
    figure = Figure(figsize=(6.4 * max(1, panels), 4.2))  # without pyplot, whose backend is global
    left = list(figure.subplots(1, max(1, panels), squeeze=False)[0])
    if evaluation.sets:
        axis = left.pop(0)
        for one in evaluation.sets:
            axis.plot([100 * s.fpr95 for s in one.separations], [s.score for s in one.separations], "o", label=one.name)
        axis.set_xlabel("FPR at 95 % TPR (%)")
        axis.set_xlim(-2, 102)
        axis.legend(fontsize="small")
    if evaluation.labelled:
        axis = left.pop(0)
        for name, errors in evaluation.labelled.error_left.items():
            emphasis = 2.4 if name == "ood_score" else 1.0
            axis.plot([100 * share for share in SHARES], [100 * e for e in errors], label=name, linewidth=emphasis)
        axis.set_xlabel("rows reviewed (%)")
        axis.set_ylabel("error rate of unreviewed rows (%)")
        axis.legend(fontsize="small")
    figure.tight_layout()
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise OptionRefused(
            f"The plot {path} cannot be written: {error}.",
            wanted="a file in an existing folder, with the extension .svg, .png or .pdf",
            next_step="give another name",
        ) from error


def write_evaluation(evaluation: Evaluation, config: EvaluationConfig) -> None:
    """Write the metrics and the plot to the files given by the options.

    Raises:
        OptionRefused: matplotlib is not installed, or the plot cannot be written.
        WriteFailed: the metrics cannot be written.
    """
    if config.json_file is not None:
        write_text(config.json_file, evaluation.to_json() + "\n", unlocked=True)
    if config.plot is not None:
        plot_evaluation(evaluation, config.plot)
