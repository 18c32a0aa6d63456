"""The commands that check and remove results: check, forget.

In: RESULTS and the options. Out: a report on standard output, and the exit code.
"""

from __future__ import annotations

from typing import Annotated

import typer

from screen.command_line.options import AsJson, RunOutput


def check(
    results: RunOutput,
    source: Annotated[
        str | None,
        typer.Option("--input", metavar="INPUT", help="Input shards to compare with the results.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that results are complete: one result row per input row, and no partial, changed or stale file."""
    from screen.files.paths import as_path
    from screen.output.check import check_results
    from screen.output.locks.hold import refuse_if_held

    output = as_path(results)
    refuse_if_held(output)
    report = check_results(output, source)
    typer.echo(report.to_text(), err=as_json)
    if as_json:
        typer.echo(report.to_json())
    raise typer.Exit(report.exit_code)


def forget(
    results: RunOutput,
    vanished: Annotated[
        bool, typer.Option("--vanished", help="Remove the results whose input shards no longer exist.")
    ] = False,
    damaged: Annotated[
        bool,
        typer.Option("--damaged", help="Remove the results whose files are missing or were changed after the run."),
    ] = False,
    before: Annotated[
        str | None,
        typer.Option(
            metavar="DATE",
            help="Remove the results written before this date or time (ISO 8601, in UTC unless an offset is given).",
            show_default=False,
        ),
    ] = None,
    shard: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Remove the result of this shard; may be repeated.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the names of the selected results, and remove nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove results and their manifest entries: named, old or damaged results, or results of vanished input shards."""
    from screen.files.paths import as_path
    from screen.output.forget import Forgotten, forget_results

    selection = Forgotten(vanished=vanished, damaged=damaged, before=before, shards=tuple(shard or ()))
    report = forget_results(as_path(results), selection, dry_run=dry_run)
    typer.echo(report.to_text(), err=as_json)
    if as_json:
        typer.echo(report.to_json())
