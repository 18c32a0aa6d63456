"""Format queue rows for Label Studio: a labelling configuration, and one task per row.

In: `QueueRow`s and the class names. Out: XML, and tasks as JSON values. The module uses neither the network nor Label
Studio's SDK.
"""

from __future__ import annotations

import base64
import io
import string
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import pyarrow as pa

from export.errors import OptionRefused
from screen.columns import SCORES
from screen.input.image_file import open_image
from screen.review.classes import ClassNames
from screen.review.queue.row import QueuedImage, QueueRow

KEY = "oodscreen_key"
"""Field of a task's `data` with the key of its image."""

_BROWSER_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp")
_PLACEHOLDERS = ("path", "id", "shard", "row", "key")
_NUMBERS = tuple(column.name for column in SCORES if not pa.types.is_list(column.type) and column.name != "prediction")

_SERVER_COLUMNS = (
    "id", "inner_id", "completed_at", "cancelled_annotations", "total_predictions", "annotators", "annotations_results",
    "annotations_ids", "predictions_score", "predictions_model_versions", "predictions_results", "file_upload",
    "storage_filename", "created_at", "updated_at", "updated_by", "avg_lead_time", "draft_exists",
)  # fmt: skip
"""Columns of Label Studio's list of tasks, except the number of annotations."""

_FIELDS_IN_MENU = (*_NUMBERS, "shard", "row", KEY, "model_version", "input_footer")
HIDDEN_COLUMNS = (*(f"tasks:{name}" for name in _SERVER_COLUMNS), *(f"tasks:data.{name}" for name in _FIELDS_IN_MENU))
"""Columns hidden in the view of a queue, so that image, suspicion and reason come first; a menu can show them."""


@dataclass(frozen=True)
class LabelForm:
    """Names in a project's labelling configuration to which tasks and their predictions refer.

    Attributes:
        control: name of the Choices tag.
        object: name of the Image tag.
        image: field of a task's `data` that the Image tag shows.
        choices: choices of the Choices tag.
    """

    control: str
    object: str
    image: str
    choices: tuple[str, ...]


def standard_form(classes: ClassNames) -> LabelForm:
    """The form of the labelling configuration that `label_config` returns."""
    return LabelForm("label", "image", "image", classes.choices)


def label_config(classes: ClassNames) -> str:
    """Labelling configuration of a new project, as XML with escaped class names.

    Suspicion, reason and choices are beside the image, so that they are visible without scrolling.
    """
    form = standard_form(classes)
    view = ElementTree.Element("View", style="display: flex; gap: 1em; align-items: flex-start")
    left = ElementTree.SubElement(view, "View", style="flex: 2 1 0; min-width: 0")
    ElementTree.SubElement(left, "Image", name=form.object, value=f"${form.image}", zoom="true")
    right = ElementTree.SubElement(view, "View", style="flex: 1 1 0; min-width: 12em")
    ElementTree.SubElement(right, "Header", value="Suspicion: $suspicion", size="4")
    ElementTree.SubElement(right, "Header", value="Reason: $reason", size="5")
    kind = "multiple" if classes.several else "single"
    choices = ElementTree.SubElement(
        right, "Choices", name=form.control, toName=form.object, choice=kind, required="true", showInline="true"
    )
    for choice in form.choices:
        ElementTree.SubElement(choices, "Choice", value=choice)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


@dataclass(frozen=True)
class ImageUrl:
    """Template for the addresses from which an annotator's browser loads the images.

    Attributes:
        template: address with at least one of `{path}`, `{id}`, `{shard}`, `{row}` and `{key}`.
    """

    template: str

    def __post_init__(self) -> None:
        try:
            parts = [part[1:] for part in string.Formatter().parse(self.template) if part[1] is not None]
        except ValueError as error:
            parts = [(str(error), "", None)]
        # Only plain names are accepted: a width can exhaust memory, and attributes or conversions can read other data.
        if not parts or any(name not in _PLACEHOLDERS or spec or conversion for name, spec, conversion in parts):
            raise OptionRefused(
                f"--image-url {self.template!r} is not a valid template.",
                wanted="an address with at least one of the placeholders "
                f"{', '.join(f'{{{name}}}' for name in _PLACEHOLDERS)}, without format specifications",
                next_step="give a template such as --image-url 'https://images.example.org/{path}'",
            )

    def of(self, row: QueueRow) -> str:
        """The address of a row's image; values from data are percent-encoded.

        Raises:
            OptionRefused: the template contains `{path}`, and the row has no path.
        """
        path = row.image.path
        if path is None and "{path" in self.template:
            raise OptionRefused(
                f"--image-url contains {{path}}, but row {row.result['row']} of {row.result['shard']} has no path.",
                wanted="an image column of type struct<bytes, path> with a path in each row",
                next_step="use {id}, {shard}, {row} or {key} in the address, or leave out --image-url "
                "to embed the images",
            )
        values = {"id": row.result["id"], "shard": row.result["shard"], "row": str(row.result["row"]), "key": row.key}
        quoted = {name: quote(text, safe="") for name, text in values.items()}
        return self.template.format(**quoted, path=quote(path or "", safe="/"))


def make_task(row: QueueRow, form: LabelForm, url: ImageUrl | None) -> dict[str, Any]:
    """One task: the image, suspicion and reason, the scores for ordering, and the model's prediction.

    The order of the fields is that of the columns in Label Studio's list of tasks.

    The prediction's score is the confidence: Label Studio's uncertainty sampling shows tasks with low scores first.
    """
    scores = {name: row.result[name] for name in _NUMBERS if row.result[name] is not None}
    kept = {name if name != form.image else f"input_{name}": value for name, value in row.kept_values().items()}
    data = {
        form.image: embed(row.image) if url is None else url.of(row),
        "suspicion": None if row.suspicion is None else float(f"{row.suspicion:.6g}"),
        "reason": row.result["flag_reason"],
        "predicted": ", ".join(row.predicted),
        "rank": row.rank,
        "source": row.source,
        "status": row.result["status"],
        **scores,
        "shard": row.result["shard"],
        "row": row.result["row"],
        "id": row.result["id"],
        KEY: row.key,
        "model_version": row.model_version,
        "input_footer": row.input_footer,
        **kept,
    }
    task: dict[str, Any] = {"data": {name: value for name, value in data.items() if value is not None}}
    chosen = [name for name in row.predicted if name in form.choices]
    if chosen:
        value = {"choices": chosen}
        result = {"from_name": form.control, "to_name": form.object, "type": "choices", "value": value}
        task["predictions"] = [
            {"model_version": row.model_version, "score": scores.get("confidence"), "result": [result]}
        ]
    return task


def embed(image: QueuedImage) -> str:
    """An image as a data URI; formats that browsers do not show are converted to PNG if Pillow can decode them."""
    data, media_type = image.data, image.media_type
    if media_type not in _BROWSER_TYPES:
        data, media_type = _as_png(data) or data, "image/png"
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _as_png(data: bytes) -> bytes | None:
    buffer = io.BytesIO()
    try:
        with open_image(data, sys.maxsize) as image:  # `fetch.py` has applied `--max-pixels`
            image.convert("RGB").save(buffer, "PNG")
    except Exception:  # noqa: BLE001  Pillow's plugins raise many types on broken files
        return None
    return buffer.getvalue()


def parse_form(parsed: dict[str, Any] | None, wanted: Sequence[str]) -> LabelForm | str:
    """The form of an existing project, from its parsed labelling configuration.

    Args:
        parsed: the project's `parsed_label_config`.
        wanted: choices that the form must have.

    Returns:
        The form, or the reason why the configuration is not suitable, as a predicate with the project as its subject.
    """
    problem = "has no Choices tag for an Image tag"
    for control, tag in (parsed or {}).items():
        inputs = tag.get("inputs") or []
        if tag.get("type") != "Choices" or not inputs or inputs[0].get("type") != "Image":
            continue
        choices = tuple(tag.get("labels") or ())
        missing = [choice for choice in wanted if choice not in choices]
        if not missing:
            return LabelForm(control, tag["to_name"][0], inputs[0]["value"], choices)
        problem = f"lacks the choices {', '.join(map(repr, missing[:4]))} in {control!r}"
    return problem
