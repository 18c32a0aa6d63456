"""Read annotations from Label Studio's JSON export, from Parquet or from JSON Lines.

In: a file. Out: `LabelSets`, for each question of the form the votes of the annotators for each labelled row. If an
annotator voted on a row several times, only the last vote counts. Cancelled and empty annotations are not votes, and
neither are choices for a region of an image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from export.errors import InputRefused, OptionRefused
from screen.files.paths import as_path, open_bytes, open_parquet
from screen.review.classes import Choice, as_choice
from screen.review.labels.votes import Annotations, RowName
from screen.review.queue.labelstudio import KEY
from screen.review.text import valid_text

_EMBEDDED = "data:"

LabelSets = dict[str, Annotations]
"""Annotations by the name of the question: a Choices tag of Label Studio; "" for files with one column of labels."""


def read_annotations(source: str, label_column: str) -> LabelSets:
    """The annotations in a file, by question; the file's extension determines the format.

    Args:
        source: a `.json` (Label Studio's export), `.parquet`, `.jsonl` or `.ndjson` file.
        label_column: column or field with the label in the latter three: text, a class number, or a list of texts or
            numbers.

    Raises:
        InputRefused: the file cannot be read, has another format, or has no task or row with a valid `shard` and `row`.
    """
    path = as_path(source)
    ending = path.suffix.lower()
    if ending not in (".json", ".parquet", ".jsonl", ".ndjson"):
        raise InputRefused(
            f"LABELS is {source}.",
            wanted="a .json file (Label Studio's export), a .parquet or .jsonl file, or the word label-studio",
            next_step="export the project as JSON, or read it from the server: label-studio --url URL --project P",
        )
    try:
        if ending == ".parquet":
            return {"": _read_rows(_parquet_rows(path, label_column), source, label_column)}
        with open_bytes(path) as file:
            if ending == ".json":
                return read_export(file, source)
            return {"": _read_rows(_lines(file), source, label_column)}
    except FileNotFoundError as error:
        raise InputRefused(
            f"LABELS {source} does not exist.", wanted="an existing file of labels", next_step="check the path"
        ) from error
    except (OSError, pa.ArrowException, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputRefused(
            f"{source} cannot be read: {reason}.",
            wanted=f"an undamaged {ending} file",
            next_step="check the permissions of the file, or export the labels again",
        ) from error


def read_export(file: IO[bytes], origin: str) -> LabelSets:
    """The annotations in Label Studio's JSON export, by question; to save memory, the parser drops embedded images.

    Raises:
        InputRefused: the file is not a JSON export of Label Studio, or has no task with a valid `shard` and `row`.
    """
    try:
        tasks = json.load(file, object_pairs_hook=_without_images)
    except (ValueError, RecursionError) as error:
        raise _bad_export(origin, f"is not JSON ({error})") from error
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise _bad_export(origin, "is not a list of tasks")
    for task in tasks:
        if not isinstance(task.get("annotations"), list) or not isinstance(task.get("data"), dict):
            raise _bad_export(origin, "has a task without `annotations` and `data`")
    controls = dict.fromkeys(
        control for task in tasks for one in task["annotations"] for control in _choices_by_control(one)
    )
    sets = {control: _read_tasks(tasks, control) for control in controls or ("",)}
    for one in sets.values():
        _refuse_foreign(one, origin)
    return sets


def _read_tasks(tasks: list[dict[str, Any]], control: str) -> Annotations:
    """The answers to one question."""
    annotations = Annotations()
    for task in tasks:
        annotations.read += 1
        name = _name_row(task["data"])
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
    """The choices for the whole image, by the name of their Choices tag; a choice for a region has its coordinates."""
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
        control: name that the user gave; None: the question that asks for the classes.
        wanted: the choices of an annotator.

    Raises:
        OptionRefused: no question has this name, or several could be meant.
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
        next_step="give its name with --label-control",
    )


def _read_rows(rows: Iterator[dict[str, Any]], origin: str, label_column: str) -> Annotations:
    annotations = Annotations()
    for row in rows:
        annotations.read += 1
        if label_column not in row and annotations.read == 1:
            raise InputRefused(
                f"{origin} has no column {label_column!r}. Its columns: {', '.join(map(str, row)) or 'none'}.",
                wanted="a column of labels",
                next_step="give its name with --label-column",
            )
        name = _name_row(row)
        if name is None:
            annotations.foreign += 1
            continue
        choices = _as_choices(row.get(label_column))
        if not choices:
            annotations.unlabelled += 1
            continue
        annotations.repeated += name in annotations.votes
        annotations.add(name, str(row.get("annotator", "")), choices)
    _refuse_foreign(annotations, origin)
    return annotations


def _as_choices(value: Any) -> tuple[Choice, ...]:
    values = value if isinstance(value, list) else [value]
    choices = (as_choice(valid_text(one) if isinstance(one, str) else one) for one in values)
    return tuple(dict.fromkeys(choice for choice in choices if choice is not None))


def _parquet_rows(path: Path, label_column: str) -> Iterator[dict[str, Any]]:
    with open_parquet(path) as file:
        present = file.schema_arrow.names
        wanted = [label_column, "shard", "row", "id", "input_footer", "key", "source", "annotator"]
        names = [name for name in wanted if name in present] if label_column in present else []
        if not names:
            yield dict.fromkeys(present)
            return
        for batch in file.iter_batches(columns=list(dict.fromkeys(names))):
            yield from batch.to_pylist()


def _lines(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            row = json.loads(line, object_pairs_hook=_without_images)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is not a JSON object")
            yield row


def _name_row(data: dict[str, Any]) -> RowName | None:
    shard, row = data.get("shard"), data.get("row")
    if not isinstance(shard, str) or not isinstance(row, int) or isinstance(row, bool) or row < 0:
        return None
    texts = {name: data[name] for name in ("id", "input_footer", "source") if isinstance(data.get(name), str)}
    key = data.get(KEY, data.get("key"))
    return RowName(
        shard,
        row,
        texts.get("id"),
        texts.get("input_footer"),
        key if isinstance(key, str) else None,
        texts.get("source"),
    )


def _without_images(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs without embedded images, with text that can be written as UTF-8."""
    return {
        valid_text(name): valid_text(value) if isinstance(value, str) else value
        for name, value in pairs
        if not (isinstance(value, str) and value.startswith(_EMBEDDED))
    }


def _refuse_foreign(annotations: Annotations, origin: str) -> None:
    if annotations.read and annotations.foreign == annotations.read:
        raise InputRefused(
            f"None of the {annotations.read} task(s) or row(s) of {origin} has a valid `shard` and `row`.",
            wanted="the fields or columns `shard` and `row` that `oodscreen queue` writes",
            next_step="give labels of a queue, exported with `shard` and `row`",
        )


def _bad_export(origin: str, problem: str) -> InputRefused:
    return InputRefused(
        f"{origin} {problem}.",
        wanted="Label Studio's JSON export (not JSON-MIN, which lacks the annotators)",
        next_step="choose JSON in the project's Export, or read it from the server: label-studio --url URL --project P",
    )
