"""Replace former names of options, refuse empty values, and explain the errors of Typer in three parts.

In: the words after the name of a command. Out: the words with the present names, or an `OptionRefused`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from export.errors import OptionRefused
from export.options import explain_value
from screen.command_line.sources import name_parameter, value_beside_line

_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""Typer's error for a command line that cannot be parsed; Typer makes only its subclass `BadParameter` public."""


def replace_former_names(args: Sequence[str], command: Any) -> list[str]:
    """The words of a command line, in which the former name of an option is replaced by its present name.

    Raises:
        OptionRefused: an option is given by both names.
    """
    former: Mapping[str, str] = getattr(command, "former_names", {})
    end = args.index("--") if "--" in args else len(args)
    given = {word.partition("=")[0] for word in args[:end]}
    for name, present in former.items():
        if name in given and present in given:
            raise OptionRefused(
                f"{present} and {name}, the former name of {present}, were both given.",
                wanted="the option once",
                next_step=f"leave out {name}",
            )
    words = [(word.partition("="), word) for word in args[:end]]
    return [*(f"{former[name]}{sign}{value}" if name in former else word for (name, sign, value), word in words),
            *args[end:]]  # fmt: skip


def refuse_empty(context: Any, words: list[str]) -> None:
    """Refuse an empty value, which is often the value of an unset variable of a shell.

    Raises:
        OptionRefused: the value of an option or argument is an empty text.
    """
    if not any(word == "" or word.endswith("=") for word in words):
        return
    given = context.command.make_parser(context).parse_args(list(words))[0]
    for parameter in context.command.params:
        value = given.get(parameter.name)
        if "" in (value if isinstance(value, list | tuple) else [value]):
            shown = name_parameter(parameter)
            raise OptionRefused(
                f"{shown} is an empty text.",
                wanted="a text that is not empty",
                next_step=f"give a value for {shown}; if the value is a variable of the shell, set this variable",
            )


@contextmanager
def explained_usage(context: Any, words: Sequence[str] = ()) -> Iterator[None]:
    """Replace Typer's errors within the block by an `OptionRefused`, whose message has three parts.

    Args:
        context: context of the command whose words are parsed.
        words: the parsed words, from which the invalid value is read; empty if it is not needed.
    """
    try:
        yield
    except _UsageError as error:
        explained = _explain_value(error, context, words)
        raise _explain_usage(error, context) if explained is None else explained from None


def _explain_value(error: Any, context: Any, words: Sequence[str]) -> OptionRefused | None:
    """The error for an option whose value Typer could not convert; None for other errors."""
    name = error.param.name if isinstance(error, typer.BadParameter) and error.param is not None else None
    if name is None or not words:
        return None
    given = context.command.make_parser(context).parse_args(list(words))[0].get(name)
    value = value_beside_line(context, name) if given is None else given
    if not isinstance(value, str | int | float):
        return None
    explained = explain_value(context.command.callback, name, str(value))
    if explained is None and getattr(error.param, "is_flag", False):  # a flag of `oodscreen` itself
        return OptionRefused(
            f"{name_parameter(error.param)} is {value!r}.",
            wanted="true or false",
            next_step="give another value, or leave the option out",
        )
    return explained


def _explain_usage(error: Any, context: Any) -> OptionRefused:
    """The error for a command line that does not match the usage of the command."""
    usage = " ".join(context.get_usage().split()).removeprefix("Usage: ")
    option = getattr(error, "option_name", None)
    owners = [one.name for one in getattr(context.command, "commands", {}).values() if _has_option(one, option)]
    if owners:
        command = owners[0] if len(owners) == 1 else "COMMAND"
        return OptionRefused(
            f"{option} is written before the name of the command.",
            wanted="the options of a command after its name",
            next_step=f"write {option} after the command: oodscreen {command} {option} ...",
        )
    return OptionRefused(error.format_message(), wanted=usage, next_step=f"see {context.command_path} --help")


def _has_option(command: Any, option: str | None) -> bool:
    return any(option in (*one.opts, *one.secondary_opts) for one in command.params)
