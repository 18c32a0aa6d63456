"""The sources of the values of a command: command line, environment, configuration file, calibration or default.

In: Typer's context after parsing. Out: the values as a configuration file with comments, the source of a value in an
error, and the environment variables that name no option.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from export.addresses import without_secrets
from export.errors import OodscreenError, printable
from screen.command_line.configuration import keyed_parameters

Error = TypeVar("Error", bound=OodscreenError)

PREFIX = "OODSCREEN"
"""Prefix of the environment variables: `OODSCREEN_RUN_PASSES` sets `--passes` of `oodscreen run`."""

_WIDTH = 44
"""Column at which the comments begin, in characters."""


def print_configuration(context: Any) -> str:
    """The values of all options and arguments as a table of a configuration file, each with its source.

    Values that are not set are comments: read again, the file sets the same values and no others.
    """
    command = context.command
    derive = getattr(command.callback, "derive", None)
    derived: Mapping[str, tuple[Any, str]] = {} if derive is None else derive(context.params)
    lines = [f"[{command.name}]"]
    for key, parameter in keyed_parameters(command).items():
        value, source = context.params[key], _source(context, parameter)
        if source is not None:
            lines += _line(key, value, source)
        elif key in derived:
            lines += _line(key, *derived[key], is_set=False)
        else:
            lines += _default_line(key, parameter, value)
    return "\n".join(lines)


def _line(key: str, value: Any, source: str, *, is_set: bool = True) -> Iterator[str]:
    text = _toml(value)
    if isinstance(text, _Unwritable):
        yield f"# {key} {text.why}; from {source}"
    else:
        yield f"{'' if is_set else '# '}{key} = {text}".ljust(_WIDTH) + f" # {source}"


def _default_line(key: str, parameter: Any, value: Any) -> Iterator[str]:
    shown = getattr(parameter, "show_default", None)
    if value is None or value in ((), []):
        default = f"default: {shown}" if isinstance(shown, str) else "not set"
        yield f"# {key}".ljust(_WIDTH) + f" # {'required' if parameter.required else default}"
    else:
        yield from _line(key, value, "default", is_set=False)


class _Unwritable:
    """A value that is not written.

    Attributes:
        why: the reason.
    """

    def __init__(self, why: str) -> None:
        self.why = why


def _toml(value: Any) -> str | _Unwritable:
    """A value as TOML, which has the same numbers and nearly the same texts as JSON."""
    if isinstance(value, list | tuple):
        parts = [_toml(one) for one in value]
        wrong = next((one for one in parts if isinstance(one, _Unwritable)), None)
        return wrong or f"[{', '.join(map(str, parts))}]"
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    text = str(value)
    if without_secrets(text) != text:
        return _Unwritable(f"contains a secret and is left out: {printable(without_secrets(text))}")
    try:
        text.encode()
    except UnicodeEncodeError:
        return _Unwritable(f"is not UTF-8 and cannot be written in TOML: {printable(text)}")
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _source(context: Any, parameter: Any) -> str | None:
    """Where the value of a parameter comes from; None for the default."""
    source = context.get_parameter_source(parameter.name)
    name = "" if source is None else source.name
    if name == "COMMANDLINE":
        return "command line"
    if name == "ENVIRONMENT":
        return f"environment variable {_variable(context, parameter)}"
    return f"file {printable(context.params['config'])}" if name == "DEFAULT_MAP" else None


def _variable(context: Any, parameter: Any) -> str:
    """The environment variable that sets a parameter."""
    named = [parameter.envvar] if isinstance(parameter.envvar, str) else list(parameter.envvar or ())
    own = f"{context.auto_envvar_prefix}_{parameter.name.upper()}"
    return next((one for one in named if os.environ.get(one)), own)


def value_beside_line(context: Any, name: str) -> Any:
    """The value of a parameter in the environment, else in the configuration file; None if neither sets it."""
    parameter = keyed_parameters(context.command).get(name)
    text = None if parameter is None else os.environ.get(_variable(context, parameter))
    return text or context.lookup_default(name)


def name_sources(error: Error, context: Any) -> Error:
    """The error, with the source of each option in it that was not set on the command line."""
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", error.found))
    notes = []
    for parameter in keyed_parameters(context.command).values():
        source = _source(context, parameter)
        if source not in (None, "command line") and flags & set(parameter.opts):
            notes.append(f" {parameter.opts[0]} is set by the {source}.")
    if not notes:
        return error
    return type(error)(error.found + "".join(notes), wanted=error.wanted, next_step=error.next_step)


def find_unknown_variables(context: Any) -> Iterator[str]:
    """A sentence for each environment variable that has the prefix of the command, but sets no option."""
    command = context.command
    options = [key for key, one in keyed_parameters(command).items() if one.param_type_name != "argument"]
    known = {f"{context.auto_envvar_prefix}_{key.upper()}" for key in (*options, "config")}
    for name in sorted(os.environ):
        if name.startswith(f"{context.auto_envvar_prefix}_") and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
        elif name.startswith(f"{PREFIX}_") and name.replace(PREFIX, context.auto_envvar_prefix, 1) in known:
            near = [name.replace(PREFIX, context.auto_envvar_prefix, 1)]
        else:
            continue
        hint = f"; the nearest name is {near[0]}" if near else ""
        yield f"The environment variable {name} sets no option of `oodscreen {command.name}`{hint}."
