"""Command classes: they report errors with exit codes, arrange `--help`, and print the configuration.

In: a command line, environment variables and an exception. Out: the error on standard error and the exit code; with
`--json`, one line of JSON on standard output too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from export.errors import Interrupted, OodscreenError, OptionRefused, Refused
from export.options import explain_value
from screen.command_line.options import GENERAL_PANEL
from screen.command_line.sources import find_unknown_variables, name_sources, print_configuration, value_beside_line
from screen.files.failures import explained_errors
from screen.files.temporary import provide_temporary_folder

_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""Typer's error for a command line that cannot be parsed; Typer makes only its subclass `BadParameter` public."""


_OUTPUTS = ("output", "out", "plot", "ledger", "results", "shards")
"""Parameters of commands that name an output; the last one because RESULTS contains the ledger of `queue`."""


class CommandLine(TyperGroup):
    """The command `oodscreen`; it records whether `--debug` and `--json` were given.

    `--json` is recorded even if the command line cannot be parsed.

    Attributes:
        debug: whether errors are printed with their traceback.
        as_json: whether an error is printed as JSON: the subcommand has a flag `--json`, and it was given.
    """

    debug = False
    as_json = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options before the name of the subcommand."""
        name = next((word for word in args if not word.startswith("-")), None)
        command: Any = self.commands.get(name or "")
        self.as_json = "--json" in args and (command is None or _json_flag(command) is not None)
        with _explained(ctx):
            rest = super().parse_args(ctx, args)
        self.debug = bool(ctx.params.get("debug"))
        return rest

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The subcommand whose name is the first word."""
        with _explained(ctx):
            return super().resolve_command(ctx, args)

    def get_params(self, ctx: Any) -> Any:
        """The options, in the form for `--help`."""
        return _arrange(super().get_params(ctx))

    def print_error(self, error: OodscreenError) -> None:
        """Print an error on standard error, and log it."""
        from screen.command_line.log import log_error

        log_error(error)

    def end(self, error: OodscreenError) -> NoReturn:
        """Print an error and end the process with its exit code."""
        code = error.exit_code
        self.print_error(error)
        if self.as_json:
            parts = {"found": error.found, "wanted": error.wanted, "next": error.next_step}
            typer.echo(json.dumps({"exit_code": int(code), "meaning": code.meaning, "error": parts}))
        raise SystemExit(int(code))


class Command(TyperCommand):
    """A subcommand of `oodscreen`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words after the name of the subcommand, and record whether the flag `--json` is among them."""
        line: Any = ctx.find_root().command
        args = _replace_former_names(args, self.callback)
        flag = _json_flag(self)
        options = args[: args.index("--")] if "--" in args else args
        line.as_json = flag is not None and any(word.split("=")[0] == "--json" for word in options)
        if not ctx.resilient_parsing:  # not while a shell completes a word
            for sentence in find_unknown_variables(ctx):
                typer.echo(f"warning: {sentence}", err=True)
        ctx.meta[_PRINTS] = "--print-config" in options
        with _explained(ctx, list(args)):
            rest = super().parse_args(ctx, args)
        line.as_json = flag is not None and bool(ctx.params[flag.name])
        return rest

    def get_params(self, ctx: Any) -> Any:
        """The arguments and options, in the form for `--help`: the option `--help` is in the last panel.

        With `--print-config`, nothing is required.
        """
        *own, help_option = _arrange(super().get_params(ctx))
        help_option.rich_help_panel = GENERAL_PANEL
        return [*(map(_optional, own) if ctx.meta.get(_PRINTS) else own), help_option]

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand, or print its configuration; Ctrl-C raises `Interrupted`, whose exit code is 130.

        Raises:
            OodscreenError: also for an error of the system or of an object store that no module has explained.
        """
        if ctx.params.get("print_config"):
            typer.echo(print_configuration(ctx))
            return None
        provide_temporary_folder(ctx.params.get(name) for name in _OUTPUTS)
        try:
            with explained_errors():
                return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted(
                "The command was interrupted by SIGINT.",
                wanted="a command that runs to its end",
                next_step="run the same command again",
            ) from error
        except Refused as error:
            raise name_sources(error, ctx) from error


def _replace_former_names(args: Sequence[str], command: Any) -> list[str]:
    """The words of a command line, with the present name of each option that has its former name.

    Raises:
        OptionRefused: an option is given by both names.
    """
    former: Mapping[str, str] = getattr(command, "former_names", {})
    end = args.index("--") if "--" in args else len(args)
    given = {word.partition("=")[0] for word in args[:end]}
    for name, present in former.items():
        if name in given and present in given:
            raise OptionRefused(
                f"{present} was given, and also {name}, the former name of {present}.",
                wanted="the option once",
                next_step=f"leave out {name}",
            )
    words = [(word.partition("="), word) for word in args[:end]]
    return [*(f"{former[name]}{sign}{value}" if name in former else word for (name, sign, value), word in words),
            *args[end:]]  # fmt: skip


_PRINTS = "oodscreen.prints_configuration"
"""Key of Typer's `Context.meta`: whether the command only prints its configuration."""


def _optional(parameter: Any) -> Any:
    """A copy of a parameter that is not required."""
    optional = copy(parameter)
    optional.required = False
    return optional


@contextmanager
def _explained(context: Any, words: Sequence[str] = ()) -> Iterator[None]:
    """Replace Typer's errors within the block by an `OptionRefused`, whose message has three parts.

    Args:
        context: context of the command whose words are parsed.
        words: the parsed words, from which the invalid value is read; empty if it is not needed.
    """
    try:
        yield
    except _UsageError as error:
        explained = _explain_value(error, context, words)
        raise _explain_usage(error, context) if explained is None else name_sources(explained, context) from None


def _explain_value(error: Any, context: Any, words: Sequence[str]) -> OptionRefused | None:
    """The error for an option whose value Typer could not convert; None for other errors."""
    name = error.param.name if isinstance(error, typer.BadParameter) and error.param is not None else None
    if name is None or not words:
        return None
    given = context.command.make_parser(context).parse_args(list(words))[0].get(name)
    value = value_beside_line(context, name) if given is None else given
    return explain_value(context.command.callback, name, str(value)) if isinstance(value, str | int | float) else None


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
            next_step=f"write it after the command: oodscreen {command} {option} ...",
        )
    return OptionRefused(error.format_message(), wanted=usage, next_step=f"see {context.command_path} --help")


def _has_option(command: Any, option: str | None) -> bool:
    return any(option in (*one.opts, *one.secondary_opts) for one in command.params)


def explain_unexpected(error: Exception) -> OodscreenError:
    """The error for an exception that the program did not raise on purpose."""
    return OodscreenError(
        f"Unexpected {type(error).__name__}: {error}",
        wanted="an error of oodscreen, with an explanation",
        next_step="run the command again as `oodscreen --debug COMMAND ...`, and report the printed traceback",
    )


def _json_flag(command: Any) -> Any:
    """The parameter of the flag `--json`; None if the command has no `--json`, or one with a value."""
    return next((one for one in command.params if "--json" in one.opts and one.is_flag), None)


def _arrange(parameters: list[Any]) -> list[Any]:
    """The parameters, changed so that `--help` shows no `<bool>` beside a flag, and no variables with our prefix."""
    for one in parameters:
        if getattr(one, "is_flag", False):
            one.metavar = ""
        if one.envvar is None:
            one.show_envvar = False
    return parameters
