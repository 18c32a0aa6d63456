"""Where a queue goes: from the options of the command to a destination.

In: options. Out: a `FileDestination` or a `LabelStudioProject`. Options that would do nothing are refused.
"""

from __future__ import annotations

from pathlib import Path

from export.errors import OptionRefused, OutputRefused
from screen.files.paths import as_path, is_local, is_within
from screen.review.queue.classes import ClassNames
from screen.review.queue.file_targets import FILE_FORMATS, make_file_destination
from screen.review.queue.labelstudio import ImageUrl
from screen.review.queue.picking import Destination
from screen.review.results import Results

DEFAULT_PROJECT = "default"
_SERVER = "label-studio"


def choose_destination(
    results: Results,
    classes: ClassNames,
    *,
    output: str | None,
    to: str | None,
    project: str | None,
    images: bool,
    image_url: str | None,
    url: str | None,
) -> Destination:
    """Find out where a queue goes; a project of a server is made if missing.

    Raises:
        OptionRefused: the options do not say it, or contradict each other.
        OutputRefused: a file would lie where a command takes it for results or images.
    """
    template = None if image_url is None else ImageUrl(image_url)
    if to is not None and to not in (*FILE_FORMATS, _SERVER):
        raise OptionRefused(
            f"--to is {to!r}.", wanted=" or ".join((*FILE_FORMATS, _SERVER)), next_step="choose one of these"
        )
    if to == _SERVER:
        if output is not None or not images:
            raise OptionRefused(
                f"{'--no-images' if output is None else f'--output {output}'} was given with --to {_SERVER}.",
                wanted="a project to import into",
                next_step="leave it out, or write a file by --to label-studio-tasks",
            )
        from screen.review.queue.labelstudio_api import open_project

        return open_project(url, project, classes, template)
    if output is None:
        raise OptionRefused(
            "Neither --output nor --to label-studio was given.",
            wanted="where the rows go",
            next_step="for example --output queue.parquet, or --to label-studio --url http://localhost:8080",
        )
    destination = make_file_destination(output, to, project or DEFAULT_PROJECT, classes, images=images, url=template)
    _refuse_within(destination.target, destination.format, results)
    return destination


def _refuse_within(target: Path, kind: str, results: Results) -> None:
    """Keep queues out of RESULTS, and Parquet out of the folder of the input shards.

    What INPUT was is not recorded: a single shard in its folder may have been named by itself, and what lies beside it
    is nobody's then.
    """
    place = _resolved(target)
    if is_within(place, _resolved(results.place)):
        raise OutputRefused(
            f"{target} lies in RESULTS {results.place}.",
            wanted="a queue outside it: nothing but a run writes there, and its files would be taken for results",
            next_step="choose a folder beside RESULTS",
        )
    roots = {entry.root for entry in results.entries} if kind == "parquet" else set()
    for root in roots:
        names = [entry.shard for entry in results.entries if entry.root == root]
        if (len(names) > 1 or "/" in names[0]) and is_within(place, _resolved(as_path(root))):
            raise OutputRefused(
                f"{target} lies in INPUT, which is {root}.",
                wanted="a queue outside it: the next run would take it for a shard of images",
                next_step="choose a folder beside INPUT",
            )


def _resolved(place: Path) -> Path:
    return place.resolve() if is_local(place) else place
