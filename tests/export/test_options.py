from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from export.errors import OptionRefused
from export.option import FromText, Selection
from export.options import as_options, check_options, explain_value


def halve(text: str) -> float:
    return float(text) / 2


@dataclass(frozen=True, kw_only=True)
class Config:
    size: Annotated[int, typer.Option(min=1, max=9, help="Size of the thing.")] = 3
    least: Annotated[float, typer.Option(min=0, help="Smallest share.")] = 0.5
    shade: Annotated[Literal["light", "dark"] | None, typer.Option(help="Shade.", show_default="as found")] = None
    names: Annotated[Sequence[str], typer.Option("--name", help="Name; may be repeated.")] = ()
    half: Annotated[float | None, FromText(str, halve), typer.Option(help="Twice the value.")] = None
    hidden: int = 7

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Required:
    rate: Annotated[float, typer.Option(min=0, max=1, help="Rate.")]


def invoke(command: Any, *words: str) -> Any:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command)
    return CliRunner().invoke(app, list(words))


def collect(*, selection: Selection | None = None) -> tuple[Any, list[Config]]:
    """A command with the options of `Config`, and a list of what it was called with."""
    made: list[Config] = []

    def command(config: Annotated[Config, selection or Selection()], folder: Path = Path("x")) -> None:
        made.append(config)

    command.__annotations__["config"] = Annotated[Config, selection or Selection()]
    return as_options(command), made


def test_a_command_gets_the_dataclass_from_its_options() -> None:
    command, made = collect()
    words = ["--size", "4", "--shade", "dark", "--name", "a", "--name", "b", "--half", "3"]
    assert invoke(command, *words).exit_code == 0
    assert made == [Config(size=4, shade="dark", names=("a", "b"), half=1.5)]


def test_options_that_are_not_given_leave_the_defaults_of_the_dataclass() -> None:
    command, made = collect()
    assert invoke(command).exit_code == 0
    assert made == [Config()]


def test_fields_without_an_option_are_for_python_alone() -> None:
    command, _ = collect()
    assert invoke(command, "--hidden", "1").exit_code == 2
    assert "hidden" not in inspect.signature(command).parameters


def test_help_shows_choices_ranges_and_defaults() -> None:
    command, _ = collect()
    told = invoke(command, "--help").output
    for part in ("light|dark", "1<=x<=9", "x>=0", "[default: 3]", "as found", "Size of the thing."):
        assert part in told


def test_a_command_may_select_options_and_change_their_defaults_and_help() -> None:
    command, made = collect(
        selection=Selection(only=("size", "shade"), defaults={"shade": "light"}, help={"size": "Z."})
    )
    told = invoke(command, "--help").output
    assert "[default: light]" in told
    assert "Z." in told
    assert "--least" not in told
    assert invoke(command).exit_code == 0
    assert made == [Config(shade="light")]
    command, _ = collect(selection=Selection(leave_out=("size",)))
    assert "--size" not in invoke(command, "--help").output


@pytest.mark.parametrize(
    ("values", "found", "wanted"),
    [
        ({"size": 0}, "--size is 0.", "a whole number, 1 to 9"),
        ({"size": 10}, "--size is 10.", "a whole number, 1 to 9"),
        ({"least": -0.5}, "--least is -0.5.", "a number, 0 or more"),
        ({"least": float("nan")}, "--least is nan.", "a number, 0 or more"),
        ({"shade": "blue"}, "--shade is 'blue'.", "light or dark"),
    ],
)
def test_python_callers_get_the_same_choices_and_ranges(values: dict[str, Any], found: str, wanted: str) -> None:
    with pytest.raises(OptionRefused) as caught:
        Config(**values)
    assert (caught.value.found, caught.value.wanted) == (found, wanted)


def test_a_value_that_cannot_be_converted_is_explained_by_its_option() -> None:
    command, _ = collect()
    error = explain_value(command, "size", "many")
    assert error is not None
    assert (error.found, error.wanted) == ("--size is 'many'.", "a whole number, 1 to 9")
    assert error.next_step == "give another value, or leave the option out"
    assert explain_value(command, "folder", "y") is None
    assert explain_value(None, "size", "many") is None


def test_an_option_that_is_required_cannot_be_left_out() -> None:
    def command(config: Required) -> None:
        """Do nothing."""

    command.__annotations__["config"] = Required
    error = explain_value(as_options(command), "rate", "2")
    assert error is not None
    assert (error.found, error.next_step) == ("--rate is 2.", "give another value")


def test_an_option_of_a_command_itself_is_converted_too() -> None:
    made: list[Any] = []

    def command(half: Annotated[float, FromText(str, halve), typer.Option("--twice", help="Twice.")] = 7.0) -> None:
        made.append(half)

    command.__annotations__["half"] = Annotated[float, FromText(str, halve), typer.Option("--twice", help="Twice.")]
    assert invoke(as_options(command), "--twice", "3").exit_code == 0
    assert invoke(as_options(command)).exit_code == 0
    assert made == [1.5, 7.0]
    assert list(inspect.signature(as_options(command)).parameters) == ["twice"]
