"""Choose the destination of a queue from the options of the command.

In: options. Out: a `FileDestination` or a `LabelStudioProject`. An option without effect is an error.
"""

from __future__ import annotations

from pathlib import Path

from export.errors import OptionRefused, OutputRefused
from screen.files.paths import as_path, is_local, is_within
from screen.review.classes import ClassNames
from screen.review.queue.config import TargetConfig
from screen.review.queue.file_targets import make_file_destination
from screen.review.queue.labelstudio import ImageUrl
from screen.review.queue.picking import Destination
from screen.review.results import Results

DEFAULT_PROJECT = "default"
_SERVER = "label-studio"


def choose_destination(results: Results, classes: ClassNames, dry_run: bool, config: TargetConfig) -> Destination:
    """The destination of a queue; a missing Label Studio project is created, unless this is a dry run.

    Raises:
        OptionRefused: the options are incomplete or contradict each other, or the server or project is not available.
        OutputRefused: the queue is in RESULTS, or is a Parquet file in INPUT.
    """
    output, project = config.output, config.project
    template = None if config.image_url is None else ImageUrl(config.image_url)
    if config.to == _SERVER:
        if output is not None or not config.images:
            raise OptionRefused(
                f"{'--no-images' if output is None else f'--output {output}'} was given with --to {_SERVER}.",
                wanted="neither --output nor --no-images with --to label-studio",
                next_step="leave out that option, or write a file with --to label-studio-tasks",
            )
        from screen.review.queue.labelstudio_api import open_project

        return open_project(config.url, project, classes, template, dry_run=dry_run)
    if output is None:
        raise OptionRefused(
            "Neither --output nor --to label-studio was given.",
            wanted="a destination for the rows",
            next_step="add for example --output queue.parquet, or --to label-studio --url http://localhost:8080",
        )
    destination = make_file_destination(
        output, config.to, project or DEFAULT_PROJECT, classes, images=config.images, url=template
    )
    _refuse_within(destination.target, destination.format, results)
    return destination


def _refuse_within(target: Path, kind: str, results: Results) -> None:
    """Raise an error for a queue in RESULTS, and for a Parquet queue in the folder of the input shards.

    The manifest does not record whether INPUT was a folder or one file. If only one shard of a folder was scored, INPUT
    may have been that file, so a queue in the folder is allowed.
    """
    path = _resolved(target)
    if is_within(path, _resolved(results.folder)):
        raise OutputRefused(
            f"{target} is in RESULTS {results.folder}.",
            wanted="a path outside RESULTS, because other programs read each Parquet file in RESULTS as results",
            next_step="choose another folder",
        )
    roots = {entry.root for entry in results.entries} if kind == "parquet" else set()
    for root in roots:
        names = [entry.shard for entry in results.entries if entry.root == root]
        if (len(names) > 1 or "/" in names[0]) and _is_within(path, root):
            raise OutputRefused(
                f"{target} is in INPUT {root}.",
                wanted="a file outside INPUT, because a run reads each Parquet file in INPUT as a shard of images",
                next_step="choose another folder",
            )


def _is_within(path: Path, root: str) -> bool:
    """Whether a path is in a folder of INPUT; False if the address of INPUT lacks a password or is invalid."""
    try:
        return is_within(path, _resolved(as_path(root)))
    except OptionRefused:
        return False


def _resolved(path: Path) -> Path:
    return path.resolve() if is_local(path) else path
