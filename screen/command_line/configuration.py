"""The options `--config` and `--print-config` of every command, and the configuration file.

In: a TOML file with a table for each command, whose keys are the names of options and arguments. Out: the defaults of
the command that runs (Click's `default_map`), or an error that names the wrong key.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime
from typing import Annotated, Any, get_origin

import typer

from export.errors import OptionRefused, reason_of
from export.option import Option
from screen.command_line.options import GENERAL_PANEL

_OWN = ("config", "print_config", "help")
"""Options that a configuration file cannot contain."""


Derive = Callable[[Mapping[str, Any]], Mapping[str, tuple[Any, str]]]
"""Function from the values of the options, by key, to the values of options that are not set, each with its source."""


def with_configuration(command: Callable[..., None], derive: Derive | None = None) -> Callable[..., None]:
    """A command like the given one, with the options `--config` and `--print-config`.

    Args:
        command: function returned by `export.options.as_options`.
        derive: function for the values of options that are not set; None if no value depends on other options.
    """
    signature = inspect.signature(command)
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter("config", keyword, default=None, annotation=_ConfigFile),
        inspect.Parameter("print_config", keyword, default=False, annotation=_PrintConfig),
    ]

    @functools.wraps(command)
    def configured(*, config: str | None, print_config: bool, **values: Any) -> None:
        command(**values)

    del configured.__wrapped__
    parameters = [*signature.parameters.values(), *added]
    configured.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    configured.__annotations__ = {one.name: one.annotation for one in parameters}
    configured.derive = derive  # type: ignore[attr-defined]
    return configured


def keyed_parameters(command: Any) -> dict[str, Any]:
    """The options and arguments of a command that a configuration file can contain, by key."""
    return {one.name: one for one in command.params if one.name not in _OWN and not getattr(one, "hidden", False)}


def _load(context: typer.Context, value: str | None) -> str | None:
    if value is not None and not context.resilient_parsing:
        commands: Mapping[str, Any] = context.find_root().command.commands  # type: ignore[attr-defined]
        tables = _read(value)
        _check_tables(value, tables, commands)
        command = context.command
        context.default_map = dict(_values(value, str(command.name), tables.get(str(command.name), {}), command))
    return value


_ConfigFile = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        is_eager=True,
        callback=_load,
        help="Configuration file in TOML with a table for each command; the keys of a table are names of options and "
        "arguments. The command line and environment variables override the file.",
        show_default=False,
        rich_help_panel=GENERAL_PANEL,
    ),
]

_PrintConfig = Annotated[
    bool,
    typer.Option(
        "--print-config",
        allow_from_autoenv=False,
        help="Print the values of all options and arguments, with the source of each value, as a configuration file; "
        "then exit.",
        rich_help_panel=GENERAL_PANEL,
    ),
]


def _read(file: str) -> dict[str, Any]:
    """The tables of a configuration file.

    Raises:
        OptionRefused: the file cannot be read, or is not TOML.
    """
    import tomllib

    from screen.files.failures import explain_environment
    from screen.files.paths import as_path

    wanted = "a TOML file with a table for each command, such as [run] with the line `passes = 100`"
    try:
        if as_path(file).is_dir():
            raise OptionRefused(
                f"The configuration file {file} is a folder.",
                wanted=wanted,
                next_step="give the path of a file in the folder",
            )
        return tomllib.loads(as_path(file).read_bytes().decode("utf-8-sig"))
    except ValueError as error:  # not TOML, or not UTF-8
        raise OptionRefused(
            f"The configuration file {file} is not TOML: {error}.",
            wanted=wanted,
            next_step="correct the file; `oodscreen run --print-config` prints a valid configuration file",
        ) from error
    except OSError as error:
        raise OptionRefused(
            f"The configuration file {file} cannot be read: {reason_of(error)}.",
            wanted=wanted,
            next_step="check the path; `oodscreen run --print-config` prints a valid configuration file",
        ) from error
    except Exception as error:
        explained = explain_environment(error)
        if explained is None:
            raise
        raise explained from error


def _check_tables(file: str, tables: dict[str, Any], commands: Mapping[str, Any]) -> None:
    """Check the names of all tables and keys, also of commands that do not run.

    Raises:
        OptionRefused: a table is not named after a command, or a key is not a name of an option or argument.
    """
    for name, table in tables.items():
        if isinstance(table, list) and name in commands and all(isinstance(one, dict) for one in table):
            raise OptionRefused(
                f"[[{name}]] of {file} is a table in an array of tables, because of the double brackets.",
                wanted=f"one table [{name}]",
                next_step=f"write [{name}] with single brackets, once",
            )
        if not isinstance(table, dict):
            owners = [one for one, command in commands.items() if _spelled(name) in keyed_parameters(command)]
            raise OptionRefused(
                f"The key {name} of {file} is not in a table.",
                wanted="keys in the table of their command, such as [run]",
                next_step=f"write [{owners[0] if owners else 'run'}] in a line above the key",
            )
        if name not in commands:
            raise OptionRefused(
                f"The name of the table [{name}] of {file} is not a command of oodscreen.",
                wanted=f"one of [{'], ['.join(commands)}]",
                next_step=_nearest(name, commands, "rename the table to [{}]", "remove the table"),
            )
        known = keyed_parameters(commands[name])
        seen: dict[str, str] = {}
        for key in table:
            spelled = _spelled(key)
            if spelled not in known:
                raise _unknown_key(file, name, key, commands)
            if spelled in seen:
                raise OptionRefused(
                    f"[{name}] of {file} contains {seen[spelled]} and {key}, which are the same option.",
                    wanted="each option once",
                    next_step="remove one of the two lines",
                )
            seen[spelled] = key


def _unknown_key(file: str, name: str, key: str, commands: Mapping[str, Any]) -> OptionRefused:
    spelled, known = _spelled(key), keyed_parameters(commands[name])
    owners = [one for one, command in commands.items() if spelled in keyed_parameters(command)]
    if owners:
        next_step = f"move the line to the table [{'] or ['.join(owners)}], or remove it"
    elif spelled in _OWN:
        next_step = "remove the line, and write the option on the command line"
    else:
        next_step = _nearest(spelled, known, "rename the key to {}", f"see oodscreen {name} --help")
    return OptionRefused(
        f"The key {key} in [{name}] of {file} is not an option of `oodscreen {name}`.",
        wanted="the name of an option without the leading dashes, or of an argument in lower case",
        next_step=next_step,
    )


def _spelled(key: str) -> str:
    return key.replace("-", "_")


def _nearest(name: str, known: Mapping[str, Any], found: str, otherwise: str) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return found.format(near[0]) if near else otherwise


def _values(file: str, name: str, table: dict[str, Any], command: Any) -> Iterator[tuple[str, Any]]:
    """The values of a table in the types that Typer expects, by key."""
    options: Mapping[str, Option] = command.callback.options
    known = keyed_parameters(command)
    for key, value in table.items():
        parameter, option = known[_spelled(key)], options.get(_spelled(key))
        wanted, converted = _convert(parameter, option, value)
        if "" in (converted if isinstance(converted, list) else [converted]):
            wanted, converted = "a text that is not empty", None
        if converted is None:
            raise OptionRefused(
                f"The key {key} in [{name}] of {file} is {_describe(value)}.",
                wanted=wanted,
                next_step="change the value, or remove the line",
            )
        yield parameter.name, converted


def _convert(parameter: Any, option: Option | None, value: Any) -> tuple[str, Any]:
    """The wanted kind of value, in words, and the value for Typer; None if the value is of another kind."""
    kind = str if option is None or option.conversion is not None else option.bare
    if getattr(parameter, "is_flag", False):
        return "true or false, without quotes", value if isinstance(value, bool) else None
    if getattr(parameter, "multiple", False) or parameter.nargs == -1:
        texts = [_as_text(one) for one in (value if isinstance(value, list) else [value])]
        return 'a list of texts, such as ["a", "b"]', None if None in texts else texts
    if kind in (int, float):
        is_number = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
        return f"a {'whole ' if kind is int else ''}number, without quotes", value if is_number else None
    if isinstance(value, list) and option is not None and get_origin(option.bare) is not None:
        texts = [_as_text(one) for one in value]
        if any(one is None or "," in one for one in texts):
            return "a list of texts or numbers without commas", None
        return "", ",".join(map(str, texts))
    wanted = "a text in quotes"
    return f"{wanted}: {' or '.join(option.choices)}" if option and option.choices else wanted, _as_text(value)


def _as_text(value: Any) -> str | None:
    """The text of a value, as on the command line; None for a boolean, a time without a date, a list or a table."""
    if isinstance(value, date | datetime):
        return value.isoformat()
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None


def _describe(value: Any) -> str:
    if isinstance(value, bool):
        return f"{str(value).lower()} (a truth value)"
    kinds = {str: "a text", int: "a whole number", float: "a number", list: "a list", dict: "a table"}
    kind = next((text for one, text in kinds.items() if isinstance(value, one)), "a date or time")
    return f"{value!r} ({kind})"
