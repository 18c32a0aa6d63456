from __future__ import annotations

import ast
import pickle
from pathlib import Path

import pytest

from export import errors
from export.errors import OodscreenError


def every_error(base: type[OodscreenError] = OodscreenError) -> list[type[OodscreenError]]:
    return [base, *(error for child in base.__subclasses__() for error in every_error(child))]


def test_an_error_says_what_was_found_what_was_wanted_and_the_next_step() -> None:
    text = str(OodscreenError("found it", wanted="that", next_step="do this"))
    assert text.splitlines() == ["found it", "  wanted: that", "  next:   do this"]


@pytest.mark.parametrize("error", every_error())
def test_every_error_has_its_exit_code_in_the_drawn_tree(error: type[OodscreenError]) -> None:
    drawing = errors.__doc__ or ""
    line = next(line for line in drawing.splitlines() if f" {error.__name__} " in f"{line} ")
    if "exit" in line:
        assert f"exit {int(error.exit_code)} " in line
    else:
        assert error.exit_code is error.__mro__[1].exit_code  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", every_error())
def test_an_error_is_the_same_in_another_process(error: type[OodscreenError]) -> None:
    there = pickle.loads(pickle.dumps(error("found it", wanted="that", next_step="do this")))
    assert (type(there), str(there)) == (error, "found it\n  wanted: that\n  next:   do this")


def test_errors_import_nothing_of_the_project_but_the_names_of_places() -> None:
    tree = ast.parse(Path(errors.__file__).read_text())
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert modules == ["__future__", "collections.abc", "enum", "export.addresses"]
