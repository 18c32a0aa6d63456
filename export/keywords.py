"""Functions for Python callers: each option of a command is a keyword of a function.

In: a function with dataclasses of options (`export.options`) among its parameters. Out: the same function with keywords
in place of these parameters. A keyword has the name of its option, such as `review_rate` for `--review-rate`. Callers
give the value of the field, or the text that the command line takes.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, get_origin, get_type_hints, overload

from export.errors import OodscreenError, OptionRefused
from export.option import Option, Selection, options_of
from export.options import select_config

_PATHS = {"FILE", "FOLDER", "SHARDS", "INPUT", "MODEL", "QUEUE", "EARLIER"}
"""Words that denote a path in the placeholder of an option's value."""

_WRAPPED = textwrap.TextWrapper(
    116, initial_indent=" " * 4, subsequent_indent=" " * 8, break_long_words=False, break_on_hyphens=False
)
"""Wraps the help text of an option to the lines of a docstring."""

_FLAG = re.compile(r"(?<![\w-])--(no-)?([a-z]+(?:-[a-z]+)*)(?: (\w+(?:-\w+)*))?")
"""Pattern for an option in a text, and for the word after the option."""

Keywords = ParamSpec("Keywords")
Config = TypeVar("Config")
First = TypeVar("First")
Second = TypeVar("Second")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Keyword:
    """One keyword: a field of a dataclass.

    Attributes:
        field: name of the field; callers can use this name in place of the name of the option.
        kind: type of the field.
        default: default value; MISSING if the keyword is required.
        option: option of the field; None for a field without an option.
    """

    field: str
    kind: Any
    default: Any
    option: Option | None

    @property
    def name(self) -> str:
        """Name of the keyword: the key of the option, or the name of a field without an option."""
        return self.field if self.option is None else self.option.key

    @property
    def parameter(self) -> inspect.Parameter:
        """The keyword as a parameter of the function."""
        default = inspect.Parameter.empty if self.default is MISSING else self.default
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=self.accepted)

    @property
    def help(self) -> str:
        """Help of the option, with a default that the signature does not show; "" for a field without an option."""
        if self.option is None:
            return ""
        shown = self.option.info.show_default
        is_known = self.default in (None, ()) and isinstance(shown, str)
        return f"{self.option.info.help}{f' Default: {shown}.' if is_known else ''}"

    @property
    def accepted(self) -> Any:
        """The types of the values that the keyword takes: the type of the field, and types that are converted to it."""
        if self.option is None:
            return self.kind
        words = set(re.split(r"\W", str(self.option.info.metavar)))
        accepted = self.option.bare
        if self.option.conversion is not None or self.option.bare is Path:
            accepted |= str
        if self.option.conversion is not None and self.option.conversion.kind == list[str]:
            accepted |= Sequence[str]
        if words & _PATHS:
            accepted |= Path
        if "SHARE" in words:
            accepted |= float
        return accepted if self.option.bare == self.kind else accepted | None

    def read(self, value: Any) -> Any:
        """The value of the field for a value that the caller gave; a text is converted as on the command line."""
        if self.option is None:
            return value
        conversion = self.option.conversion
        if conversion is not None:
            return conversion.convert(_as_given(value, conversion.kind)) if _is_text(value, conversion.kind) else value
        if self.option.bare is str and isinstance(value, os.PathLike | int | float) and not isinstance(value, bool):
            return str(value)
        if get_origin(self.option.bare) is Sequence:
            if not isinstance(value, Iterable):
                raise TypeError(f"{self.name} is {value!r}; it must be a text or a list of texts")
            return (value,) if isinstance(value, str) else tuple(value)
        return Path(value) if isinstance(value, str) and self.option.bare is Path else value


def _is_path(value: Any) -> bool:
    """Whether a value is a text or a path; the paths of universal-pathlib are not of the type `os.PathLike`."""
    return isinstance(value, str | os.PathLike) or hasattr(value, "joinpath")


def _is_text(value: Any, kind: Any) -> bool:
    """Whether an option's conversion takes a value: a text, a path, or, for the kind `list[str]`, a list of texts."""
    is_list = kind == list[str] and isinstance(value, list | tuple) and bool(value)
    return isinstance(value, str | os.PathLike) or (is_list and all(isinstance(one, str) for one in value))


def _as_given(value: Any, kind: Any) -> Any:
    """A text, a path, or a list of texts, as the type that Typer passes to a conversion."""
    if kind in (str, Path):
        return kind(value)
    return list(value) if isinstance(value, list | tuple) else [str(value)]


@overload
def with_keywords(
    function: Callable[[First, Second, Config], Result], config: Callable[Keywords, Config]
) -> Callable[Concatenate[First, Second, Keywords], Result]: ...


@overload
def with_keywords(function: Callable[..., Result]) -> Callable[..., Result]: ...


def with_keywords(function: Callable[..., Result], config: object = None) -> Callable[..., Result]:
    """A function like the given one, but with a keyword for each field in place of a dataclass parameter.

    A `Selection` in the annotation of the parameter chooses fields and replaces defaults, as for a command.

    Args:
        function: the function.
        config: the dataclass of the function's third parameter, from which type checkers derive the keywords; optional.
    """
    signature = inspect.signature(function, eval_str=True)
    configs: dict[str, tuple[type, list[_Keyword]]] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        selected = select_config(parameter.annotation)
        if selected is None:
            parameters.append(parameter)
        else:
            configs[name] = selected[0], _keywords(*selected)
    keywords = [keyword for _, some in configs.values() for keyword in some]
    parameters += [keyword.parameter for keyword in keywords]
    order = sorted(parameters, key=lambda one: one.kind)
    shown = signature.replace(parameters=order)
    names = {keyword.field: keyword.name for keyword in keywords}
    options = {keyword.name: keyword.option for keyword in keywords if keyword.option}

    @functools.wraps(function)
    def call(*arguments: Any, **values: Any) -> Result:
        known = {name if name in shown.parameters else names.get(name, name): one for name, one in values.items()}
        try:
            given = shown.bind(*arguments, **known).arguments
        except TypeError as error:
            unknown = next((name for name in known if name not in shown.parameters), "")
            near = difflib.get_close_matches(unknown, shown.parameters, 1)
            raise TypeError(f"{function.__name__}() {error}{f'; did you mean {near[0]!r}?' if near else ''}") from None
        for name, value in given.items():
            if shown.parameters[name].annotation == str | Path and not _is_path(value):
                raise TypeError(
                    f"{function.__name__}() argument {name!r} must be a str or a Path, not {type(value).__name__}"
                )
        try:
            _refuse_empty(given)
            made = {name: kind(**_take(given, some)) for name, (kind, some) in configs.items()}
            return function(**given, **made)
        except OodscreenError as error:
            error.reword(functools.partial(_name_keywords, options))
            raise

    del call.__wrapped__
    call.__signature__ = shown  # type: ignore[attr-defined]
    call.__doc__ = "\n".join(_describe(inspect.getdoc(function) or "", configs))
    return call


def _refuse_empty(given: Mapping[str, Any]) -> None:
    """Refuse values that are empty texts.

    Raises:
        OptionRefused: a value, or a value in a list, is an empty text.
    """
    for name, value in given.items():
        if any(isinstance(one, str) and not one for one in (value if isinstance(value, list | tuple) else [value])):
            raise OptionRefused(
                f"{name} is an empty text.",
                wanted="a text that is not empty",
                next_step=f"give a value for {name}",
            )


def _keywords(config: type, selection: Selection) -> list[_Keyword]:
    options = {option.name: option for option in options_of(config)}
    hints = get_type_hints(config)
    return [
        _Keyword(one.name, hints[one.name], selection.defaults.get(one.name, one.default), options.get(one.name))
        for one in fields(config)
        if selection.includes(one.name)
    ]


def _take(given: dict[str, Any], keywords: Iterable[_Keyword]) -> dict[str, Any]:
    """The values of the fields of a dataclass, removed from the given keywords; for None, the default of the field."""
    values = {one.field: one.default for one in keywords if one.default is not MISSING}
    for one in keywords:
        value = given.pop(one.name, None)
        if value is not None:
            values[one.field] = one.read(value)
    return values


def _name_keywords(options: Mapping[str, Option], text: str) -> str:
    """The text of an error with keywords in place of options: `passes` for --passes, `go_on=True` for --go-on.

    Commands in backquotes stay as they are, and so do options of other commands.
    """

    def replace(match: re.Match[str]) -> str:
        no, flag, word = match.groups()
        name = flag.replace("-", "_")
        option = options.get(name)
        if option is None:
            return match[0]
        if option.bare is bool and word != "is":  # in `--flag is VALUE`, VALUE is neither True nor False
            return f"`{name}={no is None}`{f' {word}' if word else ''}"
        if word in option.choices:
            return f"`{name}={word!r}`"
        return f"`{name}`{f' {word}' if word else ''}"

    parts = text.split("`")
    parts[::2] = [_FLAG.sub(replace, part) for part in parts[::2]]
    return "`".join(parts)


def _describe(text: str, configs: Mapping[str, tuple[type, list[_Keyword]]]) -> list[str]:
    """The lines of a docstring, in which the help texts of the options replace the line of each dataclass."""
    lines: list[str] = []
    for line in text.splitlines():
        name = line.strip().partition(":")[0]
        if name in configs and line.startswith("    "):
            kind, keywords = configs[name]
            for one in keywords:
                lines += _WRAPPED.wrap(f"{one.name}: {one.help or f'see {kind.__name__}.'}")
        else:
            lines.append(line)
    return lines
