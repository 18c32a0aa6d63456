"""Functions whose keywords are the options of a command."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from export.errors import OptionRefused
from export.keywords import with_keywords
from export.option import FromText, Selection
from export.options import check_options
from tests.export.test_options import Config


@dataclass(frozen=True)
class Switch:
    half: Annotated[bool, typer.Option("--half/--no-half")] = True

    def __post_init__(self) -> None:
        check_options(self)


def read_lines(path: Path) -> tuple[str, ...]:
    return tuple(path.read_text().split())


def read_pairs(texts: Sequence[str]) -> dict[str, float]:
    return {name: float(number) for name, _, number in (text.partition("=") for text in texts)}


@dataclass(frozen=True, kw_only=True)
class Texts:
    kinds: Annotated[Sequence[str], FromText(Path, read_lines), typer.Option("--classes")] = ()
    rates: Annotated[dict[str, float] | float | None, FromText(list[str], read_pairs), typer.Option("--rate")] = None
    folder: Annotated[str | None, typer.Option()] = None
    file: Annotated[Path | None, typer.Option("--json")] = None
    level: Annotated[int | None, typer.Option()] = None


def paint(thing: str, place: str, config: Config) -> tuple[str, str, Config]:
    """Paint a thing.

    Args:
        thing: the thing.
        place: where it is.
        config: options.
    """
    return thing, place, config


@with_keywords
def keep(
    thing: str,
    texts: Annotated[Texts, Selection(defaults={"level": 3}, leave_out=("folder",))],
    config: Annotated[Config, Selection(only=("size",))],
    *,
    other: int = 0,
) -> tuple[Texts, Config, int]:
    return texts, config, other


def test_a_function_takes_the_options_as_keywords_by_their_names_on_the_command_line() -> None:
    call: Any = with_keywords(paint, Config)
    parameters = inspect.signature(call).parameters
    assert list(parameters) == ["thing", "place", "size", "least", "shade", "name", "half", "hidden"]
    assert call("a", "b", size=2, name=["c"], hidden=1) == ("a", "b", Config(size=2, names=("c",), hidden=1))
    assert parameters["name"].annotation == Sequence[str]
    assert (parameters["size"].default, parameters["half"].default) == (3, None)
    assert "    size: Size of the thing.\n" in call.__doc__
    assert "config:" not in call.__doc__


def test_the_name_of_a_field_is_a_keyword_too() -> None:
    call: Any = with_keywords(paint, Config)
    assert call("a", "b", names=("c",)) == call("a", "b", name=("c",))


@dataclass(frozen=True, kw_only=True)
class Amounts:
    share: Annotated[str, typer.Option()] = "2%"


@pytest.mark.parametrize(("given", "wanted"), [(0.02, "0.02"), (5, "5"), (Path("5"), "5"), ("5%", "5%"), (True, True)])
def test_a_keyword_for_a_text_takes_a_number_or_a_path(given: object, wanted: object) -> None:
    def divide(thing: str, amounts: Amounts) -> Amounts:
        return amounts

    call: Any = with_keywords(divide)
    assert call("a", share=given).share == wanted


def test_a_keyword_that_is_no_option_is_an_error() -> None:
    call: Any = with_keywords(paint, Config)
    with pytest.raises(TypeError, match=r"paint\(\) .*weight'$"):
        call("a", "b", weight=2)
    with pytest.raises(TypeError, match=r"'sizes'; did you mean 'size'\?"):
        call("a", "b", sizes=2)


def test_several_dataclasses_share_one_signature_with_selections_and_other_parameters() -> None:
    assert list(inspect.signature(keep).parameters) == ["thing", "other", "classes", "rate", "json", "level", "size"]
    assert inspect.signature(keep).parameters["level"].default == 3
    assert keep("a", size=4, other=5) == (Texts(level=3), Config(size=4), 5)


def test_none_is_the_default_as_an_option_that_is_left_out() -> None:
    assert keep("a", level=None, size=None) == keep("a")


def test_texts_are_converted_as_on_the_command_line_and_values_are_taken(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    for given in (tmp_path / "classes.txt", str(tmp_path / "classes.txt"), ["cat", "dog"], ("cat", "dog")):
        assert tuple(keep("a", classes=given)[0].kinds) == ("cat", "dog")
    for rate in (["a=1"], "a=1", ("a=1",), {"a": 1.0}):
        assert keep("a", rate=rate)[0].rates == {"a": 1.0}
    assert keep("a", rate=0.5)[0].rates == 0.5
    assert keep("a", json="x.json")[0].file == Path("x.json")


def test_a_text_for_an_option_that_may_be_repeated_is_one_value_and_a_path_is_a_text(tmp_path: Path) -> None:
    call: Any = with_keywords(paint, Config)
    assert call("a", "b", name="cat")[2].names == ("cat",)

    @with_keywords
    def place(texts: Texts) -> Texts:
        return texts

    assert place(folder=tmp_path).folder == str(tmp_path)


def test_a_text_in_place_of_a_number_is_refused() -> None:
    call: Any = with_keywords(paint, Config)
    with pytest.raises(OptionRefused) as caught:
        call("a", "b", size="many")
    assert (caught.value.found, caught.value.wanted) == ("`size` is 'many'.", "a whole number, 1 to 9")


def test_values_of_other_types_are_refused_by_name(tmp_path: Path) -> None:
    @with_keywords
    def place(folder: str | Path, config: Annotated[Config, Selection(leave_out=("half",))], switch: Switch) -> Any:
        return folder, switch.half

    call: Any = place
    assert call(tmp_path, half=False) == (tmp_path, False)
    for wrong in (None, [tmp_path], 5):
        with pytest.raises(TypeError, match=r"place\(\) argument 'folder' must be a str or a Path"):
            call(wrong)
    with pytest.raises(TypeError, match="name is 5; it must be a text or a list of texts"):
        call(tmp_path, name=5)
    for keywords, shown in (({"half": "yes"}, "'yes'"), ({"size": 2.5}, "2.5"), ({"size": True}, "True")):
        with pytest.raises(OptionRefused, match=rf"^`\w+` is {shown}"):
            call(tmp_path, **keywords)


def test_an_error_names_keywords_in_place_of_options() -> None:
    @with_keywords
    def fail(config: Annotated[Config, Selection(leave_out=("half",))], switch: Switch) -> None:
        raise OptionRefused(
            "--size 5 was given, and neither --half nor --shade dark.",
            wanted="--no-half, as `oodscreen paint --size 5` has it",
            next_step="add --half or --shade light; see --weight",
        )

    with pytest.raises(OptionRefused) as caught:
        fail()
    assert caught.value.found == "`size` 5 was given, and neither `half=True` nor `shade='dark'`."
    assert caught.value.wanted == "`half=False`, as `oodscreen paint --size 5` has it"
    assert caught.value.next_step == "add `half=True` or `shade='light'`; see --weight"
    assert caught.value.args == (caught.value.found,)
