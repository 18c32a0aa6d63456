"""Labelling configuration, tasks and forms; `tests/integration/test_label_studio.py` uses a real server."""

from __future__ import annotations

import io
import sys
from xml.etree import ElementTree

import pytest
from PIL import Image

from export.errors import OptionRefused
from screen.review.classes import ClassNames, _make_distinct
from screen.review.queue.labelstudio import HIDDEN_COLUMNS, embed, label_config, parse_form
from screen.review.queue.labelstudio_api import open_project
from screen.review.queue.labelstudio_client import TOKEN_VARIABLE
from screen.review.queue.row import QueuedImage

HOSTILE = (
    '<script x="1">',
    "a & b",
    "'quoted'",
    "two\nlines",
    "out of distribution",
    "",
    "same",
    "same",
    "\x00",
    " same ",
)


def test_names_of_classes_become_choices_that_are_all_different() -> None:
    names = _make_distinct(HOSTILE)
    assert len(set(names)) == len(HOSTILE)
    assert names[0] == HOSTILE[0]
    assert names[3] == "two lines"
    assert names[4] == "out of distribution (4)"
    assert names[5] == "(5)"


def test_names_of_classes_are_text_in_the_labeling_configuration() -> None:
    classes = ClassNames(_make_distinct(HOSTILE), several=False)
    root = ElementTree.fromstring(label_config(classes))  # noqa: S314  our own
    assert [choice.get("value") for choice in root.iter("Choice")] == list(classes.choices)
    assert {element.tag for element in root.iter()} == {"View", "Image", "Header", "Choices", "Choice"}
    assert [choices.get("choice") for choices in root.iter("Choices")] == ["single"]
    several = ElementTree.fromstring(label_config(ClassNames(("a", "b"), several=True)))  # noqa: S314
    assert [choices.get("choice") for choices in several.iter("Choices")] == ["multiple"]


def test_image_suspicion_and_reason_are_shown_before_the_choices() -> None:
    view = ElementTree.fromstring(label_config(ClassNames(("a",), several=False)))  # noqa: S314  our own
    assert [(tag.tag, tag.get("value")) for tag in view.iter() if tag.tag != "View"][:4] == [
        ("Image", "$image"),
        ("Header", "Suspicion: $suspicion"),
        ("Header", "Reason: $reason"),
        ("Choices", None),
    ]
    assert not {f"tasks:data.{name}" for name in ("image", "suspicion", "reason")} & set(HIDDEN_COLUMNS)


def test_predictions_have_class_names() -> None:
    single, several = ClassNames(("a", "b", "c"), several=False), ClassNames(("a", "b", "c"), several=True)
    assert single.predicted({"mean": [0.1, 0.7, 0.2], "prediction": 1}) == ("b",)
    assert several.predicted({"mean": [0.6, 0.1, 0.51], "prediction": None}) == ("a", "c")
    assert single.predicted({"mean": None, "prediction": None}) == ()
    assert ClassNames((), several=False).predicted({"mean": [3.0], "prediction": None}) == ()
    assert ClassNames((), several=False).choices == ("in distribution", "out of distribution", "unusable")


def test_formats_unknown_to_browsers_are_embedded_as_png() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (9, 8, 7)).save(buffer, "TIFF")
    text = embed(QueuedImage(buffer.getvalue(), None, ".tif", "image/tiff"))
    assert text.startswith("data:image/png;base64,iVBOR")
    assert embed(QueuedImage(b"xyz", None, ".jpg", "image/jpeg")) == "data:image/jpeg;base64,eHl6"


def test_an_existing_project_keeps_its_own_tag_names() -> None:
    """The dictionary has the format of Label Studio's `parsed_label_config`."""
    parsed = {
        "note": {"type": "TextArea", "to_name": ["img"], "inputs": [{"type": "Image", "value": "photo"}]},
        "kind": {
            "type": "Choices",
            "to_name": ["img"],
            "inputs": [{"type": "Image", "value": "photo"}],
            "labels": ["a", "b", "unusable"],
        },
    }
    form = parse_form(parsed, ("a", "unusable"))
    assert not isinstance(form, str)
    assert (form.control, form.object, form.image) == ("kind", "img", "photo")
    assert parse_form(parsed, ("a", "c")) == "lacks the choices 'c' in 'kind'"
    assert parse_form({}, ("a",)) == "has no Choices tag for an Image tag"
    assert parse_form(None, ("a",)) == "has no Choices tag for an Image tag"


def test_a_missing_library_or_token_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = ClassNames(("a",), several=False)
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "label_studio_sdk", None)
        with pytest.raises(OptionRefused, match="label-studio-sdk is not installed") as refused:
            open_project("http://127.0.0.1:9", None, classes)
    assert "pip install 'oodscreen[label-studio]'" in refused.value.next_step
    for url in ("x", "http://", "http://me:secret@host", "file:///etc"):
        with pytest.raises(OptionRefused, match="--url is not an address") as refused:
            open_project(url, None, classes)
        assert "secret" not in str(refused.value)
