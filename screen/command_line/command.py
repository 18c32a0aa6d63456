"""Command classes, which report errors with exit codes, arrange `--help`, and print the configuration.

In: a command line, environment variables and an exception. Out: the error on standard error and the exit code; with
`--json`, one line of JSON on standard output too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import fields, replace
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from export.errors import Interrupted, OodscreenError
from screen.command_line.log_config import LogConfig
from screen.command_line.options import GENERAL_PANEL
from screen.command_line.order import explain_order
from screen.command_line.sources import (
    find_unknown_variables,
    name_sources,
    print_configuration,
)
from screen.command_line.usage import explained_usage, refuse_empty, replace_former_names
from screen.files.failures import explained_errors
from screen.files.temporary import usable_temporary_folder


class CommandLine(TyperGroup):
    """The command `oodscreen`; it records whether `--debug` and `--json` were given.

    `--json` is recorded even if the command line cannot be parsed.

    Attributes:
        debug: whether errors are printed with their traceback.
        as_json: whether an error is printed as JSON, too: `--json` was given, and the subcommand has this flag or is
            not known.
    """

    debug = False
    as_json = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options before the name of the subcommand."""
        name = next((word for word in args if not word.startswith("-")), None)
        command: Any = self.commands.get(name or "")
        self.as_json = "--json" in args and (command is None or _json_flag(command) is not None)
        with _completed_errors(ctx), explained_usage(ctx, list(args)):
            rest = super().parse_args(ctx, args)
        self.debug = bool(ctx.params.get("debug"))
        return rest

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The subcommand whose name is the first word: its name, its command object and the words after its name."""
        with explained_usage(ctx):
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
        args = replace_former_names(args, self.callback)
        flag = _json_flag(self)
        options = args[: args.index("--")] if "--" in args else args
        line.as_json = flag is not None and any(word.split("=")[0] == "--json" for word in options)
        ctx.meta[_PRINTS] = "--print-config" in options
        if ctx.resilient_parsing:  # a shell completes a word, or the options of the log are read
            return super().parse_args(ctx, args)
        try:
            with _completed_errors(ctx), explained_usage(ctx, list(args)):
                refuse_empty(ctx, args)
                rest = super().parse_args(ctx, list(args))
        except OodscreenError:
            with suppress(OodscreenError):
                self._start_log(ctx, self._parse_leniently(ctx, args))
            raise
        line.as_json = flag is not None and bool(ctx.params[flag.name])
        with _completed_errors(ctx):
            self._start_log(ctx, ctx.params)
        return rest

    def _parse_leniently(self, ctx: Any, args: list[str]) -> Mapping[str, Any]:
        """The values of a command line with an error; values that cannot be read are None."""
        lenient: Any = self.context_class(self, parent=ctx.parent, info_name=ctx.info_name, resilient_parsing=True)
        lenient.default_map = ctx.default_map
        self.parse_args(lenient, list(args))
        values: Mapping[str, Any] = lenient.params
        return values

    def _start_log(self, ctx: Any, values: Mapping[str, Any]) -> None:
        """Start the log, if the command has one, and warn of environment variables without effect.

        Raises:
            OptionRefused: the log file cannot be opened.
        """
        sentences = list(find_unknown_variables(ctx))
        if "log_format" not in values:
            for sentence in sentences:
                typer.echo(f"warning: {sentence}", err=True)
            return
        from screen.command_line.log import LOG, start_log

        given = {one.name: values.get(one.name) for one in fields(LogConfig)}
        config = LogConfig(**{name: value for name, value in given.items() if value is not None})
        start_log(replace(config, log_file=None) if ctx.meta[_PRINTS] else config, as_json=bool(values.get("json")))
        for sentence in sentences:
            LOG.warning("%s", sentence)

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
        try:
            with _completed_errors(ctx), explained_errors():
                if ctx.params.get("print_config"):
                    self._check_options(ctx.params)
                    return typer.echo(print_configuration(ctx))
                with usable_temporary_folder(ctx.params):
                    return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted(
                "The command was interrupted by SIGINT.",
                wanted="a command that runs to its end",
                next_step="run the same command again",
            ) from error

    def _check_options(self, values: Mapping[str, Any]) -> None:
        """Check the values, as is done before a command starts; nothing is checked if a required option is missing."""
        required = (one.name for one in self.params if one.required and one.param_type_name == "option")
        if self.callback is not None and all(values[name] is not None for name in required):
            self.callback.convert(dict(values))  # type: ignore[attr-defined]


@contextmanager
def _completed_errors(context: Any) -> Iterator[None]:
    """Add the sources of values, and the right order of arguments, to an error within the block."""
    try:
        yield
    except OodscreenError as error:
        raise name_sources(explain_order(error, context), context) from error


_PRINTS = "oodscreen.prints_configuration"
"""Key of Typer's `Context.meta`: whether the command only prints its configuration."""


def _optional(parameter: Any) -> Any:
    """A copy of a parameter that is not required."""
    optional = copy(parameter)
    optional.required = False
    return optional


def explain_unexpected(error: Exception) -> OodscreenError:
    """The error for an exception other than an `OodscreenError`."""
    return OodscreenError(
        f"Unexpected {type(error).__name__}: {error}",
        wanted="a command that ends without an error, or with an error that oodscreen explains",
        next_step="run the command again as `oodscreen --debug COMMAND ...`, and report the printed traceback",
    )


def _json_flag(command: Any) -> Any:
    """The parameter of the flag `--json`; None if the command has no `--json`, or a `--json` with a value."""
    return next((one for one in command.params if "--json" in one.opts and one.is_flag), None)


def _arrange(parameters: list[Any]) -> list[Any]:
    """The parameters, changed so that `--help` shows neither `<bool>` beside a flag nor `OODSCREEN_...` variables.

    Options that replace the work of the command, such as `--help`, have no environment variable.
    """
    for one in parameters:
        if one.name in ("help", "install_completion", "show_completion"):
            one.allow_from_autoenv = False
        if getattr(one, "is_flag", False):
            one.metavar = ""
        if one.envvar is None:
            one.show_envvar = False
    return parameters
