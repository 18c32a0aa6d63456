"""The command reference: every command, argument and option, from the objects of Typer.

In: the application. Out: Markdown for docs/reference.md.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from typer.utils import get_params_from_function

from screen import cli

_OTHER = "Options"
_KINDS = {bool: "", int: "whole number", float: "number", str: "text", Path: "path"}


def commands() -> dict[str, Any]:
    """Every command by its name, in the order of `oodscreen --help`."""
    group: Any = typer.main.get_command(cli.app)
    return dict(group.commands)


def known_options() -> set[str]:
    """Every option of every command, with former names."""
    group: Any = typer.main.get_command(cli.app)
    former = {name for command in group.commands.values() for name in command.callback.former_names}
    parameters = [*group.params, *(one for command in group.commands.values() for one in command.params)]
    return {"--help"} | former | {name for one in parameters for name in (*one.opts, *one.secondary_opts)}


def reference_text() -> str:
    """A section for each command."""
    group: Any = typer.main.get_command(cli.app)
    parts = ["## oodscreen", group.help, *_tables(group.params, {})]
    for name, command in group.commands.items():
        if not command.hidden:
            parts += [f"## oodscreen {name}", inspect.cleandoc(command.help), _usage(name, command)]
            parts += _tables(command.params, get_params_from_function(command.callback))
    return "\n\n".join(parts)


def _usage(name: str, command: Any) -> str:
    arguments = [_shown_name(one) for one in command.params if one.param_type_name == "argument"]
    required = [
        f"{one.opts[0]} {one.metavar or one.name.upper()}"
        for one in command.params
        if one.param_type_name != "argument" and one.required
    ]
    return f"```\n{' '.join(['oodscreen', name, '[OPTIONS]', *arguments, *required])}\n```"


def _shown_name(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    name = name if argument.required or name.startswith("[") else f"[{name}]"
    return f"{name}..." if argument.nargs == -1 and not name.endswith("...") else name


def _tables(parameters: list[Any], declared: dict[str, Any]) -> Iterator[str]:
    shown = [one for one in parameters if not one.hidden]
    arguments = [one for one in shown if one.param_type_name == "argument"]
    if arguments:
        yield "\n".join(
            [
                "| argument | meaning |",
                "|---|---|",
                *(f"| `{_shown_name(one)}` | {_meaning(one)} |" for one in arguments),
            ]
        )
    panels: dict[str, list[Any]] = {}
    for one in shown:
        if one.param_type_name != "argument":
            panels.setdefault(one.rich_help_panel or _OTHER, []).append(one)
    for panel, options in panels.items():
        rows = [
            f"| {_names(one)} | {_values(one, declared.get(one.name))} | {_default(one)} | {_meaning(one)} |"
            for one in options
        ]
        yield "\n".join([f"**{panel}**\n", "| option | value | default | meaning |", "|---|---|---|---|", *rows])


def _names(option: Any) -> str:
    return _cell(", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts)))


def _values(option: Any, declared: Any) -> str:
    """The metavar, the choices, or the kind with its range."""
    if declared is None:
        return ""
    kind, info = _inner(declared.annotation), declared.default
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    text = ", ".join(f"`{choice}`" for choice in choices)
    if not choices:
        text = f"`{option.metavar}`" if option.metavar else _KINDS.get(kind, getattr(kind, "__name__", str(kind)))
        least, most = getattr(info, "min", None), getattr(info, "max", None)
        if least is not None and most is not None:
            text += f", {least} to {most}"
        elif least is not None:
            text += f", {least} or more"
        elif most is not None:
            text += f", {most} or less"
    return _cell(text + (", repeatable" if option.multiple else ""))


def _inner(annotation: Any) -> Any:
    """The type without None and without its list."""
    while get_origin(annotation) is not Literal and get_args(annotation):
        annotation = next(one for one in get_args(annotation) if one is not type(None))
    return annotation


def _default(option: Any) -> str:
    if option.required:
        return "required"
    if isinstance(option.show_default, str):
        return _cell(option.show_default)
    if not option.show_default or option.default is None or option.default is False or option.default in ((), []):
        return ""
    if option.secondary_opts:
        return f"`{option.opts[0] if option.default else option.secondary_opts[0]}`"
    return _cell(f"`{option.default}`")


def _meaning(parameter: Any) -> str:
    text = " ".join((parameter.help or "").split())
    if parameter.envvar:
        text += f" Environment variable: `{parameter.envvar}`."
    return _cell(text)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")
