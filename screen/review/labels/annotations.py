"""Read annotations from Label Studio's JSON export, or from a table: Parquet, JSON Lines or CSV.

In: a file. Out: `LabelSets`: for each question (each Choices tag of the labelling configuration), the annotators' votes
on each labelled row. If an annotator voted on a row several times, only the last vote counts. Cancelled and empty
annotations are not votes, and neither are choices for a region of an image.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import IO, Any

import pyarrow as pa

from export.errors import InputRefused, OptionRefused
from screen.files.csv_rows import how_to_convert
from screen.files.paths import as_path, open_bytes
from screen.review.classes import Choice
from screen.review.labels.label_tables import TABLE_ENDINGS, name_row, read_table, refuse_foreign, without_images
from screen.review.labels.votes import Annotations, RowName
from screen.review.text import valid_text

LabelSets = dict[str, Annotations]
"""Annotations by question. A key is the name of a Choices tag in Label Studio, or "" for a file with one column of
labels."""


def read_annotations(source: str, label_column: str) -> LabelSets:
    """The annotations in a file, by question; the file's extension determines the format.

    Args:
        source: a `.json` (Label Studio's export), `.parquet`, `.jsonl`, `.ndjson` or `.csv` file.
        label_column: column or field with the label, in all formats except `.json`: text, a class number, or a list of
            texts or numbers.

    Raises:
        InputRefused: the file cannot be read, has another format, or contains no task or row that names a row of
            results.
    """
    path = as_path(source)
    ending = path.suffix.lower()
    if ending not in (".json", *TABLE_ENDINGS):
        raise InputRefused(
            f"LABELS {source} has no supported extension.",
            wanted="a .json file (Label Studio's export), a .parquet, .jsonl or .csv file, or the word label-studio",
            next_step="export the project as JSON, or read the labels from the server: give the word label-studio as "
            "LABELS, with --url and --project",
        )
    try:
        if ending != ".json":
            return {"": read_table(path, source, label_column)}
        with open_bytes(path) as file:
            return read_export(file, source)
    except FileNotFoundError as error:
        raise InputRefused(
            f"LABELS {source} does not exist.", wanted="an existing file of labels", next_step="check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise InputRefused(
            f"{source} is not in UTF-8.",
            wanted=f"a {ending} file in UTF-8",
            next_step=how_to_convert(source, error),
        ) from error
    except (OSError, pa.ArrowException, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputRefused(
            f"{source} cannot be read: {reason.rstrip('.')}.",
            wanted=f"an undamaged {ending} file",
            next_step="check the permissions of the file, or export the labels again"
            if isinstance(error, OSError)
            else "correct the file, or export the labels again",
        ) from error


def read_export(file: IO[bytes], origin: str) -> LabelSets:
    """The annotations in Label Studio's JSON export, by question; to save memory, the parser drops embedded images.

    Raises:
        InputRefused: the file is not a JSON export of Label Studio, or has no task with a valid `shard` and `row`.
    """
    try:
        tasks = json.load(file, object_pairs_hook=without_images)
    except (ValueError, RecursionError) as error:
        raise _bad_export(origin, f"is not JSON ({error})") from error
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise _bad_export(origin, "is not a list of tasks")
    for task in tasks:
        if not isinstance(task.get("annotations"), list) or not isinstance(task.get("data"), dict):
            raise _bad_export(origin, "has a task that lacks `annotations` or `data`")
    controls = dict.fromkeys(
        control for task in tasks for one in task["annotations"] for control in _choices_by_control(one)
    )
    sets = {control: _read_tasks(tasks, control) for control in controls or ("",)}
    for one in sets.values():
        refuse_foreign(one, origin)
    return sets


def _read_tasks(tasks: list[dict[str, Any]], control: str) -> Annotations:
    """The annotations that answer one question."""
    annotations = Annotations()
    for task in tasks:
        annotations.read += 1
        name = name_row(task["data"])
        if name is None:
            annotations.foreign += 1
        else:
            _add_task(annotations, name, task["annotations"], control)
    return annotations


def _add_task(annotations: Annotations, name: RowName, entries: list[Any], control: str) -> None:
    had_votes = name in annotations.votes
    labelled = False
    for one in sorted((one for one in entries if isinstance(one, dict)), key=_time):
        if one.get("was_cancelled"):
            annotations.skipped += 1
            continue
        choices = _choices_by_control(one).get(control)
        if not choices:
            continue
        labelled = True
        annotations.add(name, str(_annotator(one)), choices, is_truth=bool(one.get("ground_truth")))
    annotations.unlabelled += not labelled
    annotations.repeated += labelled and had_votes


def _time(annotation: dict[str, Any]) -> str:
    return str(annotation.get("updated_at") or annotation.get("created_at") or "")


def _annotator(annotation: dict[str, Any]) -> Any:
    annotator = annotation.get("completed_by")
    if isinstance(annotator, dict):
        annotator = annotator.get("id", annotator.get("email"))
    return f"annotation {annotation.get('id')}" if annotator is None else annotator


def _choices_by_control(annotation: Any) -> dict[str, tuple[Choice, ...]]:
    """The choices for the whole image, by Choices tag; choices for a region, which have coordinates, are left out."""
    result = annotation.get("result") if isinstance(annotation, dict) else None
    found: dict[str, list[Choice]] = {}
    for region in result if isinstance(result, list) else []:
        if not isinstance(region, dict) or region.get("type") != "choices" or not isinstance(region.get("value"), dict):
            continue
        choices = region["value"].get("choices")
        if region["value"].keys() == {"choices"} and isinstance(choices, list):
            name = valid_text(str(region.get("from_name", "")))
            found.setdefault(name, []).extend(valid_text(str(choice)) for choice in choices)
    return {name: tuple(dict.fromkeys(choices)) for name, choices in found.items() if choices}


def choose_question(sets: LabelSets, control: str | None, wanted: Sequence[str]) -> str:
    """The name of the question whose answers are the labels.

    Args:
        sets: the annotations by question.
        control: name given by the user; None for the question that asks for the classes.
        wanted: the choices available to an annotator.

    Raises:
        OptionRefused: no question has this name, or, without a name, it is not clear which question is meant.
    """
    used = {name: {choice for votes in one.votes.values() for choice in votes.choices} for name, one in sets.items()}
    if control is None:
        fitting = [name for name, choices in used.items() if choices and choices <= set(wanted)]
        if len(sets) == 1 or len(fitting) == 1:
            return next(iter(sets)) if len(sets) == 1 else fitting[0]
    elif control in sets:
        return control
    names = ", ".join(f"{name} ({', '.join(sorted(map(str, used[name]))[:3])})" for name in sets if name)
    raise OptionRefused(
        f"The labels contain answers to {len(sets)} questions: {names}."
        if control is None
        else f"--label-control is {control!r}, but the labels contain answers to: {names or 'no named question'}.",
        wanted="the name of the Choices tag whose answers are the labels",
        next_step="give the name of this tag with --label-control",
    )


def _bad_export(origin: str, problem: str) -> InputRefused:
    return InputRefused(
        f"{origin} {problem}.",
        wanted="Label Studio's JSON export (not JSON-MIN, which lacks the annotators)",
        next_step="choose JSON in the project's Export dialog, or read the labels from the server: give the word "
        "label-studio as LABELS, with --url and --project",
    )
