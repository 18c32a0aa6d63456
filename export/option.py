"""One option: declared in the annotation of a field of a dataclass, or of a parameter of a command.

In: `Annotated[..., typer.Option(...)]`, with `FromText` and `FormerName` if needed. Out: `Option`s: names, choices and
ranges, and the parameter from which Typer makes the option.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from typer.models import OptionInfo

from export.errors import OptionRefused

_LARGEST = 2**64 - 1
"""Maximum value of an option that takes a whole number and declares no maximum: seeds are keys of a random generator
with 64-bit words."""


@dataclass(frozen=True)
class FromText:
    """Conversion of an option's text into the value of its field.

    Attributes:
        kind: type of the value that Typer parses: `str`, `Path`, or `list[str]` for an option that may be repeated.
        convert: function from that type to the type of the field; called only if the option was given.
    """

    kind: Any
    convert: Callable[[Any], Any]


@dataclass(frozen=True)
class FormerName:
    """A former name of an option, which still works, but is not shown in the help.

    Attributes:
        flag: the former name as written on the command line.
    """

    flag: str


@dataclass(frozen=True)
class Selection:
    """Options that one command takes from a dataclass: `config: Annotated[RunConfig, Selection(...)]`.

    Attributes:
        only: names of the fields that become options of this command; empty for all fields.
        leave_out: names of the fields that do not become options of this command.
        defaults: by field name, defaults of this command that replace those of the dataclass.
        help: by field name, help texts of this command that replace those of the dataclass.
    """

    only: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    help: Mapping[str, str] = field(default_factory=dict)

    def includes(self, name: str) -> bool:
        """Whether the field with this name is selected."""
        return name not in self.leave_out and (not self.only or name in self.only)


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        name: name of the field or parameter.
        default: default of the field or parameter; MISSING or `Parameter.empty` if the option is required.
        kind: type of the field or parameter.
        info: declaration of the option for Typer.
        conversion: conversion of the option's text; None if Typer converts it.
        former: former names of the option, which still work.
    """

    name: str
    default: Any
    kind: Any
    info: OptionInfo
    conversion: FromText | None = None
    former: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, default: Any, annotation: Any) -> Option | None:
        """The option of a field or parameter; None if its annotation contains no `typer.Option`."""
        kind, *metadata = get_args(annotation) if get_origin(annotation) is Annotated else [annotation]
        info = next((one for one in metadata if isinstance(one, OptionInfo)), None)
        conversion = next((one for one in metadata if isinstance(one, FromText)), None)
        former = tuple(one.flag for one in metadata if isinstance(one, FormerName))
        return None if info is None else cls(name, default, kind, info, conversion, former)

    @property
    def flag(self) -> str:
        """The option as written on the command line, such as `--max-pixels`."""
        # In an annotation, the first name is the positional argument `default` of `typer.Option`.
        names = (self.info.default, *(self.info.param_decls or ()))
        long = [text.split("/")[0] for text in names if isinstance(text, str) and text.startswith("--")]
        return long[0] if long else f"--{self.name.replace('_', '-')}"

    @property
    def key(self) -> str:
        """The option as written in Python, in configuration files and in environment variables: `max_pixels`."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def choices(self) -> tuple[Any, ...]:
        """Values of a `Literal`; empty for other types."""
        return get_args(self.bare) if get_origin(self.bare) is Literal else ()

    @property
    def bare(self) -> Any:
        """The type without `| None`; a union of several other types is returned unchanged."""
        if get_origin(self.kind) in (Union, types.UnionType):
            some = [one for one in get_args(self.kind) if one is not types.NoneType]
            return some[0] if len(some) == 1 else self.kind
        return self.kind

    def allows(self, value: Any) -> bool:
        """Whether a value is one of the choices, or within the limits if the option has no choices."""
        if self.choices:
            return value in self.choices
        if self.bare is bool or (self.bare is int and isinstance(value, bool | float)):
            return isinstance(value, bool) and self.bare is bool
        least, most = self.limits
        try:
            return (least is None or value >= least) and (most is None or value <= most)
        except TypeError:  # from Python, such as a text in place of a number
            return False

    @property
    def limits(self) -> tuple[float | None, float | None]:
        """Minimum and maximum; None for no limit."""
        least, most = self.info.min, self.info.max
        return least, _LARGEST if most is None and self.bare is int else most

    def refusal(self, shown: str) -> OptionRefused:
        """The error for a value that is not allowed; `shown` is the value as text."""
        if self.choices:
            return OptionRefused(
                f"{self.flag} is {shown}.", wanted=" or ".join(self.choices), next_step="give one of these values"
            )
        nouns = {bool: "true or false", int: "a whole number"}
        noun = nouns.get(self.bare, "a number")
        least, most = self.info.min, self.info.max
        if most is None:
            limits = "" if least is None else f", {least} or more"
        else:
            limits = f", {most} or less" if least is None else f", {least} to {most}"
        is_required = self.default in (MISSING, inspect.Parameter.empty)
        return OptionRefused(
            f"{self.flag} is {shown}.",
            wanted=noun + limits,
            next_step="give another value" + ("" if is_required else ", or leave the option out"),
        )

    def parameter(self, selection: Selection) -> inspect.Parameter:
        """The function parameter from which Typer makes the option."""
        info, kind, default = copy(self.info), self.kind, self.default
        if self.conversion is not None:
            kind, default = self.conversion.kind | None, None
        elif get_origin(self.bare) is Sequence or _is_sequence(self.bare):
            kind, default = list[get_args(self.bare)[0]] | None, None  # type: ignore[misc]
        if default is MISSING:
            default = inspect.Parameter.empty
        if self.name in selection.defaults:
            default = selection.defaults[self.name]
            info.show_default = True
        info.help = selection.help.get(self.name, info.help)
        return inspect.Parameter(
            self.key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
        )

    def convert(self, value: Any) -> Any:
        """The value of the field for a value that Typer parsed."""
        if self.conversion is not None:
            return self.conversion.convert(value)
        return tuple(value) if isinstance(value, list) else value


def _is_sequence(kind: Any) -> bool:
    origin = get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, Sequence)


@functools.cache
def options_of(config: type) -> tuple[Option, ...]:
    """The options that the fields of a dataclass declare."""
    hints = get_type_hints(config, include_extras=True)
    found = [Option.of(one.name, one.default, hints[one.name]) for one in fields(config)]
    return tuple(option for option in found if option is not None)
