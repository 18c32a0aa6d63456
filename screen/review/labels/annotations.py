"""What people said: labels from Label Studio's JSON export, from Parquet or from JSON Lines.

In: a file. Out: `GivenLabels`: for each row that was labelled, by its whole name, the votes of its annotators. One
annotator has one vote on a row, the last that they gave; a skipped (cancelled) or empty annotation is none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from export.errors import InputRefused
from screen.files.paths import as_path, open_bytes, open_parquet
from screen.review.labels.votes import Choice, GivenLabels, RowName
from screen.review.queue.labelstudio import KEY

_EMBEDDED = "data:"


def read_given(source: str, label_column: str) -> GivenLabels:
    """Read a file of labels; its ending says what it is.

    Args:
        source: `.json` (Label Studio's export), `.parquet`, `.jsonl` or `.ndjson`.
        label_column: in the latter three, the column with the label: text, a class number, or a list of these.

    Raises:
        InputRefused: it is none of these, or holds no label for any row.
    """
    path = as_path(source)
    ending = path.suffix.lower()
    if ending not in (".json", ".parquet", ".jsonl", ".ndjson"):
        raise InputRefused(
            f"LABELS is {source}.",
            wanted="a file that ends in .json (Label Studio's export), .parquet or .jsonl, or the word label-studio",
            next_step="export the project as JSON, or name its server: label-studio --url ... --project ...",
        )
    try:
        if ending == ".parquet":
            given = _read_rows(_parquet_rows(path, label_column), source, label_column)
        else:
            with open_bytes(path) as file:
                if ending == ".json":
                    return read_export(file, source)
                given = _read_rows(_lines(file), source, label_column)
    except FileNotFoundError as error:
        raise InputRefused(f"There is no {source}.", wanted="a file of labels", next_step="check the path") from error
    except (OSError, pa.ArrowException, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputRefused(
            f"{source} cannot be read: {reason}.", wanted="a whole file of that kind", next_step="write it again"
        ) from error
    return given


def read_export(file: IO[bytes], origin: str) -> GivenLabels:
    """Read Label Studio's JSON export; embedded images are let go at once.

    Raises:
        InputRefused: it is no such export.
    """
    try:
        tasks = json.load(file, object_pairs_hook=_without_images)
    except (ValueError, RecursionError) as error:
        raise _no_export(origin, f"is no JSON ({error})") from error
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise _no_export(origin, "holds no list of tasks")
    given = GivenLabels()
    for task in tasks:
        if not isinstance(task.get("annotations"), list) or not isinstance(task.get("data"), dict):
            raise _no_export(origin, "has a task without `annotations` and `data`")
        given.read += 1
        name = _name_row(task["data"])
        if name is None:
            given.foreign += 1
            continue
        _add_task(given, name, task["annotations"])
    _refuse_foreign(given, origin)
    return given


def _add_task(given: GivenLabels, name: RowName, annotations: list[Any]) -> None:
    had = name in given.votes
    labelled = False
    for one in sorted((one for one in annotations if isinstance(one, dict)), key=_time):
        if one.get("was_cancelled"):
            given.skipped += 1
            continue
        choices = _choices(one.get("result"))
        if not choices:
            continue
        labelled = True
        given.add(name, str(_person(one)), choices, is_truth=bool(one.get("ground_truth")))
    given.unlabelled += not labelled
    given.repeated += labelled and had


def _time(annotation: dict[str, Any]) -> str:
    return str(annotation.get("updated_at") or annotation.get("created_at") or "")


def _person(annotation: dict[str, Any]) -> Any:
    person = annotation.get("completed_by")
    if isinstance(person, dict):
        person = person.get("id", person.get("email"))
    return f"annotation {annotation.get('id')}" if person is None else person


def _choices(result: Any) -> tuple[Choice, ...]:
    found: list[Choice] = []
    for region in result if isinstance(result, list) else []:
        if isinstance(region, dict) and region.get("type") == "choices" and isinstance(region.get("value"), dict):
            found += [str(choice) for choice in region["value"].get("choices") or ()]
    return tuple(dict.fromkeys(found))


def _read_rows(rows: Iterator[dict[str, Any]], origin: str, label_column: str) -> GivenLabels:
    given = GivenLabels()
    for row in rows:
        given.read += 1
        if label_column not in row and given.read == 1:
            raise InputRefused(
                f"{origin} has no column {label_column!r}. Its columns: {', '.join(map(str, row)) or 'none'}.",
                wanted="a column with what people said",
                next_step="name it by --label-column",
            )
        name = _name_row(row)
        if name is None:
            given.foreign += 1
            continue
        choices = _as_choices(row.get(label_column))
        if not choices:
            given.unlabelled += 1
            continue
        given.repeated += name in given.votes
        given.add(name, str(row.get("annotator", "")), choices)
    _refuse_foreign(given, origin)
    return given


def _as_choices(value: Any) -> tuple[Choice, ...]:
    values = value if isinstance(value, list) else [value]
    choices = (_as_choice(one) for one in values)
    return tuple(dict.fromkeys(choice for choice in choices if choice != ""))


def _as_choice(value: Any) -> Choice:
    """A whole number as a number, all else as text; "" where nothing was said."""
    if value is None or value != value:  # NaN is how a column of floats leaves a label out
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _parquet_rows(path: Path, label_column: str) -> Iterator[dict[str, Any]]:
    with open_parquet(path) as file:
        there = file.schema_arrow.names
        wanted = [label_column, "shard", "row", "id", "input_footer", "key", "source", "annotator"]
        names = [name for name in wanted if name in there] if label_column in there else []
        if not names:
            yield dict.fromkeys(there)
            return
        for batch in file.iter_batches(columns=list(dict.fromkeys(names))):
            yield from batch.to_pylist()


def _lines(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            row = json.loads(line, object_pairs_hook=_without_images)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no object")
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
    return {name: value for name, value in pairs if not (isinstance(value, str) and value.startswith(_EMBEDDED))}


def _refuse_foreign(given: GivenLabels, origin: str) -> None:
    if given.read and given.foreign == given.read:
        raise InputRefused(
            f"None of the {given.read} task(s) or row(s) of {origin} says which row of the results it is for.",
            wanted="`shard` and `row`, as `oodscreen queue` wrote them",
            next_step="give labels of a queue, with these columns kept",
        )


def _no_export(origin: str, what: str) -> InputRefused:
    return InputRefused(
        f"{origin} {what}.",
        wanted="what Label Studio exports as JSON (not JSON-MIN, which has no annotators)",
        next_step="choose JSON in the project's Export, or read the project itself: label-studio --url URL --project P",
    )
