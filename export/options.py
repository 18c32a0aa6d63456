"""Options declared once: each field of a frozen dataclass is an option of a command and a keyword of a function.

In: dataclasses with fields of type `Annotated[..., typer.Option(...)]`. Out: commands with these options, and a check
of choices and ranges; `export.keywords` makes functions with these keywords. A field without a `typer.Option` is for
Python callers only.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Annotated, Any, get_args, get_origin

from typer.models import ArgumentInfo

from export.errors import OptionRefused
from export.option import Option, Selection, options_of


def select_config(annotation: Any) -> tuple[type, Selection] | None:
    """The dataclass and the selection in an annotation; None for an annotation without a dataclass."""
    selection = Selection()
    if get_origin(annotation) is Annotated:
        annotation, *metadata = get_args(annotation)
        selection = next((item for item in metadata if isinstance(item, Selection)), selection)
    return (annotation, selection) if is_dataclass(annotation) and isinstance(annotation, type) else None


def _argument_key(name: str, annotation: Any) -> str:
    """Key of a parameter: for an argument, the placeholder in lower case (`model` for `MODEL.onnx`); else `name`."""
    info = next((one for one in get_args(annotation) if isinstance(one, ArgumentInfo)), None)
    word = None if info is None else re.match(r"[A-Z_]+", str(info.metavar))
    return name if word is None else word[0].lower()


def as_options(command: Callable[..., None]) -> Callable[..., None]:
    """A Typer command like the given one, but with an option for each field in place of a dataclass parameter.

    The parameters of the new command have the names of its options and arguments, such as `max_pixels` for
    `--max-pixels` and `model` for `MODEL.onnx`: Typer looks up their values by these names in the environment and in
    configuration files. The attribute `convert` of the new command is a function from the values of the new command's
    parameters to the values of the given command's parameters. A command that this function returned is returned
    unchanged.
    """
    if hasattr(command, "options"):
        return command
    signature = inspect.signature(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    configs: dict[str, tuple[type, list[Option]]] = {}
    names: dict[str, str] = {}
    known: dict[str, Option] = {}
    for name, parameter in signature.parameters.items():
        selected = select_config(parameter.annotation)
        if selected is None:
            own = Option.of(name, parameter.default, parameter.annotation)
            names[name] = _argument_key(name, parameter.annotation) if own is None else own.key
            if own is not None and own.conversion is not None:
                parameters.append(own.parameter(Selection()))
            else:
                parameters.append(parameter.replace(name=names[name], kind=inspect.Parameter.KEYWORD_ONLY))
            known |= {} if own is None else {own.key: own}
            continue
        config, selection = selected
        options = [option for option in options_of(config) if selection.includes(option.name)]
        configs[name] = config, options
        known |= {option.key: option for option in options}
        parameters += [option.parameter(selection) for option in options]

    def convert(values: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, (config, options) in configs.items():
            given = [(option, values[option.key]) for option in options]
            made[name] = config(
                **{
                    option.name: option.convert(value)
                    for option, value in given
                    if value is not None and value != []  # otherwise the field keeps its default
                }
            )
        for key, option in known.items():
            if option.conversion is not None and key in names.values():
                values[key] = option.default if values[key] is None else option.convert(values[key])
        return {name: values[key] for name, key in names.items() if key in values} | made

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        command(**convert(values))

    del with_options.__wrapped__  # Typer would read the signature of the command through it
    with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_options.options = known  # type: ignore[attr-defined]
    with_options.convert = convert  # type: ignore[attr-defined]
    former = {name: option.flag for option in known.values() for name in option.former}
    with_options.former_names = former  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options


def check_options(config: Any) -> None:
    """Check the values of a dataclass against the choices and limits of its options, as Typer does on the command line.

    Raises:
        OptionRefused: a value is not one of the choices, or is outside the limits.
    """
    kind: type = type(config)
    for option in options_of(kind):
        value = getattr(config, option.name)
        if value is not None and not option.allows(value):
            raise option.refusal(repr(value) if option.choices or isinstance(value, str) else str(value))


def explain_value(command: Callable[..., Any] | None, name: str, text: str) -> OptionRefused | None:
    """The error for a text that cannot be converted to the type of an option; None if the parameter is an argument.

    Args:
        command: function that `as_options` returned, or a wrapper around that function.
        name: name of the parameter.
        text: value as given on the command line.
    """
    option: Option | None = getattr(command, "options", {}).get(name)
    if option is None:
        return None
    return option.refusal(text if not option.choices and _is_number(text) else repr(text))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
