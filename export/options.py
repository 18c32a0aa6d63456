"""Options declared once: each field of a frozen dataclass is an option of a command and a keyword of a function.

In: dataclasses with fields of type `Annotated[..., typer.Option(...)]`. Out: commands with these options, functions
with these keywords, and a check of choices and ranges. A field without a `typer.Option` is for Python callers only.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import (
    Annotated,
    Any,
    Concatenate,
    Literal,
    ParamSpec,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from typer.models import OptionInfo

from export.errors import OptionRefused

Keywords = ParamSpec("Keywords")
Config = TypeVar("Config")
First = TypeVar("First")
Second = TypeVar("Second")
Result = TypeVar("Result")

_LARGEST = 2**64 - 1
"""Maximum of a whole number: seeds are keys of a counter-based generator with 64-bit words."""


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


@dataclass(frozen=True)
class _Option:
    """One option: name, default and type of a field or parameter, and the metadata in its annotation."""

    name: str
    default: Any
    kind: Any
    info: OptionInfo
    conversion: FromText | None = None

    @classmethod
    def of(cls, name: str, default: Any, annotation: Any) -> _Option | None:
        """The option of a field or parameter; None if its annotation contains no `typer.Option`."""
        kind, *metadata = get_args(annotation) if get_origin(annotation) is Annotated else [annotation]
        info = next((one for one in metadata if isinstance(one, OptionInfo)), None)
        conversion = next((one for one in metadata if isinstance(one, FromText)), None)
        return None if info is None else cls(name, default, kind, info, conversion)

    @property
    def flag(self) -> str:
        """The option as written on the command line, such as `--max-pixels`."""
        long = [text.split("/")[0] for text in self.info.param_decls or () if text.startswith("--")]
        return long[0] if long else f"--{self.name.replace('_', '-')}"

    @property
    def choices(self) -> tuple[Any, ...]:
        """Values of a `Literal`; empty for other types."""
        return get_args(self.bare) if get_origin(self.bare) is Literal else ()

    @property
    def bare(self) -> Any:
        """The type without `| None`."""
        if get_origin(self.kind) in (Union, types.UnionType):
            some = [one for one in get_args(self.kind) if one is not types.NoneType]
            return some[0] if len(some) == 1 else self.kind
        return self.kind

    def allows(self, value: Any) -> bool:
        """Whether a value is one of the choices, or within the limits if the option has no choices."""
        if self.choices:
            return value in self.choices
        least, most = self.limits
        return (least is None or value >= least) and (most is None or value <= most)

    @property
    def limits(self) -> tuple[float | None, float | None]:
        """Minimum and maximum; None for no limit."""
        least, most = self.info.min, self.info.max
        return least, _LARGEST if most is None and self.bare is int else most

    def refusal(self, shown: str) -> OptionRefused:
        """The error for a value that is not allowed."""
        if self.choices:
            return OptionRefused(
                f"{self.flag} is {shown}.", wanted=" or ".join(self.choices), next_step="give one of these values"
            )
        noun = "a whole number" if self.bare is int else "a number"
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
        """The parameter of the function from which Typer makes the option."""
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
            self.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
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
def _options(config: type) -> tuple[_Option, ...]:
    hints = get_type_hints(config, include_extras=True)
    found = [_Option.of(one.name, one.default, hints[one.name]) for one in fields(config)]
    return tuple(option for option in found if option is not None)


def _select(annotation: Any) -> tuple[type, Selection] | None:
    """The dataclass and the selection in an annotation; None for an annotation without a dataclass."""
    selection = Selection()
    if get_origin(annotation) is Annotated:
        annotation, *metadata = get_args(annotation)
        selection = next((item for item in metadata if isinstance(item, Selection)), selection)
    return (annotation, selection) if is_dataclass(annotation) and isinstance(annotation, type) else None


def as_options(command: Callable[..., None]) -> Callable[..., None]:
    """A Typer command like the given one, but with an option for each field in place of a dataclass parameter."""
    signature = inspect.signature(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    configs: dict[str, tuple[type, list[_Option]]] = {}
    known: dict[str, _Option] = {}
    for name, parameter in signature.parameters.items():
        selected = _select(parameter.annotation)
        if selected is None:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            own = _Option.of(name, parameter.default, parameter.annotation)
            known |= {} if own is None else {name: own}
            continue
        config, selection = selected
        options = [
            option
            for option in _options(config)
            if option.name not in selection.leave_out and (not selection.only or option.name in selection.only)
        ]
        configs[name] = config, options
        known |= {option.name: option for option in options}
        parameters += [option.parameter(selection) for option in options]

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        made = {}
        for name, (config, options) in configs.items():
            given = {option: values.pop(option.name) for option in options}
            made[name] = config(
                **{
                    option.name: option.convert(value)
                    for option, value in given.items()
                    if value is not None and value != []  # else the default of the field
                }
            )
        command(**values, **made)

    del with_options.__wrapped__  # Typer would read the signature of the command through it
    with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_options.options = known  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options


def with_keywords(
    function: Callable[[First, Second, Config], Result], config: Callable[Keywords, Config]
) -> Callable[Concatenate[First, Second, Keywords], Result]:
    """A function like the given one, but with the fields of a dataclass as keywords in place of the third parameter."""
    kind = cast(type, config)
    hints = get_type_hints(kind)
    first, second, third = inspect.signature(function).parameters.values()
    keywords = [one.replace(annotation=hints[one.name]) for one in inspect.signature(config).parameters.values()]
    signature = inspect.signature(function).replace(parameters=[first, second, *keywords])

    @functools.wraps(function)
    def call(*arguments: Any, **values: Any) -> Result:
        bound = signature.bind(*arguments, **values).arguments
        return function(bound.pop(first.name), bound.pop(second.name), kind(**bound))

    del call.__wrapped__
    call.__signature__ = signature  # type: ignore[attr-defined]
    help_texts = {option.name: option.info.help for option in _options(kind)}
    lines: list[str] = []
    for line in inspect.cleandoc(function.__doc__ or "").splitlines():
        if line.startswith(f"    {third.name}: "):
            lines += [f"    {one.name}: {help_texts.get(one.name) or f'see {kind.__name__}.'}" for one in keywords]
        else:
            lines.append(line)
    call.__doc__ = "\n".join(lines)
    return call


def check_options(config: Any) -> None:
    """Check the values of a dataclass against the choices and limits of its options, as Typer does on the command line.

    Raises:
        OptionRefused: a value is not one of the choices, or is outside the limits.
    """
    kind: type = type(config)
    for option in _options(kind):
        value = getattr(config, option.name)
        if value is not None and not option.allows(value):
            raise option.refusal(repr(value) if option.choices else str(value))


def explain_value(command: Callable[..., Any] | None, name: str, text: str) -> OptionRefused | None:
    """The error for a text that cannot be converted to the type of an option; None if the parameter is an argument.

    Args:
        command: function returned by `as_options`, or a wrapper of it.
        name: name of the parameter.
        text: value as given on the command line.
    """
    option: _Option | None = getattr(command, "options", {}).get(name)
    if option is None:
        return None
    return option.refusal(text if not option.choices and _is_number(text) else repr(text))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
