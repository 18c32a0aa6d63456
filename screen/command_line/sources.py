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
from pathlib import Path
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

    Values that are not set are comments, so that the configuration file sets the same values and no others.
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
    """A value that is not written into the configuration.

    Attributes:
        why: the reason, as the predicate of a sentence.
    """

    def __init__(self, why: str) -> None:
        self.why = why


def _toml(value: Any) -> str | _Unwritable:
    """A value as TOML, in which numbers and nearly all texts are written as in JSON."""
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
    return _file(context) if name == "DEFAULT_MAP" else None


def _file(context: Any) -> str:
    """The configuration file as a source."""
    return f"file {printable(str(context.params.get('config')))}"


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
    """The error, with the source of each parameter in it that the environment or the configuration file sets."""
    notes = []
    config = [one for one in context.command.params if one.name == "config"]
    for parameter in [*keyed_parameters(context.command).values(), *config]:
        key, source = parameter.name, _source(context, parameter)
        value = context.params.get(key, os.environ.get(_variable(context, parameter)))
        if source in (None, "command line") or not _concerns(error.found, parameter, value):
            continue
        if source == _file(context):
            source = f"key {key} in [{context.command.name}] of the {source}"
        notes.append(f" {name_parameter(parameter)} is set by the {source}.")
    if not notes:
        return error
    return type(error)(error.found + "".join(notes), wanted=error.wanted, next_step=error.next_step)


def _concerns(found: str, parameter: Any, value: Any) -> bool:
    """Whether an error contains the flag, the name or a value of a parameter."""
    name = parameter.name.replace("_", "[ _-]")
    values = value if isinstance(value, list | tuple) else [value]
    texts = [re.escape(str(one).rstrip("/")) for one in values if isinstance(one, str | Path) and len(str(one)) > 1]
    flags = "|".join(map(re.escape, (*parameter.opts, *parameter.secondary_opts)))
    return any(re.search(rf"(?<![\w-])(?:{one})(?![\w-])", found) for one in (flags, f"(?i:{name})", *texts))


def name_parameter(parameter: Any) -> str:
    """Name of a parameter as on the command line, such as `--passes` or `MODEL.onnx`."""
    is_argument = parameter.param_type_name == "argument"
    return str(parameter.metavar or parameter.name.upper()) if is_argument else str(parameter.opts[0])


def find_unknown_variables(context: Any) -> Iterator[str]:
    """A sentence for each environment variable that seems to be meant for the command, but sets no option.

    The name of the variable has the prefix of the command, or the prefix `OODSCREEN_` and the key of an option.
    """
    command, prefix = context.command, f"{context.auto_envvar_prefix}_"
    keyed = {key.upper(): one for key, one in keyed_parameters(command).items()}
    arguments = {key: one for key, one in keyed.items() if one.param_type_name == "argument"}
    known = ({*keyed} - {*arguments}) | {"CONFIG"}
    for name in sorted(os.environ):
        key = name.removeprefix(prefix)
        if key == name:
            key = name.removeprefix(f"{PREFIX}_")
            if key == name or key not in known:
                continue
        elif key in known:
            continue
        found = f"The environment variable {name} sets no option of `oodscreen {command.name}`"
        if key in arguments:
            shown = name_parameter(arguments[key])
            yield (
                f"{found}: {shown} is an argument, and arguments have no variables; write it on the command line, or "
                f"as the key {key.lower()} in a configuration file."
            )
        elif key in ("PRINT_CONFIG", "HELP"):
            yield f"{found}: --{key.lower().replace('_', '-')} has no variable; write it on the command line."
        else:
            near = difflib.get_close_matches(key, known, n=1)
            yield found + (f"; the nearest name is {prefix}{near[0]}." if near else ".")
