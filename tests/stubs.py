"""The types of `import oodscreen` for type checkers and editors: the stub `oodscreen-stubs/__init__.pyi`.

The keywords of the functions come from dataclasses at run time, so type checkers cannot find them. The stub contains
the same signatures. `python -m tests.generated` writes the stub; `tests/test_oodscreen.py` fails if the stub is stale.
In: the public functions. Out: the text of the stub.
"""

from __future__ import annotations

import inspect
import textwrap
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

import oodscreen
from tests.pages import REPOSITORY

STUB = REPOSITORY / "oodscreen-stubs" / "__init__.pyi"

_HEAD = """# Written by `python -m tests.generated` from the signatures of the functions.
"""


def stub_text() -> str:
    """The stub: names that are defined elsewhere, and a signature for each function with keywords."""
    public: dict[str, Any] = {name: getattr(oodscreen, name) for name in oodscreen.__all__ if name != "__version__"}
    functions = {name: one for name, one in public.items() if hasattr(one, "__signature__")}
    imported = {one.__module__: set[str]() for one in public.values()}
    for name, one in public.items():
        if name not in functions:
            imported[one.__module__].add(f"{name} as {name}")
    written = [_write(name, one) for name, one in functions.items()]
    for module, name in (pair for one in functions.values() for pair in _names(inspect.signature(one))):
        imported.setdefault(module, set()).add(name)
    lines = [f"from {module} import {name}" for module, names in sorted(imported.items()) for name in sorted(names)]
    return "\n".join([_HEAD, *lines, "", "__all__: list[str]", "__version__: str", *written])


def _write(name: str, function: Any) -> str:
    signature = inspect.signature(function)
    lines = ["", f"def {name}("]
    is_open = False
    for one in signature.parameters.values():
        if one.kind is one.KEYWORD_ONLY and not is_open:
            lines.append("    *,")
            is_open = True
        default = "" if one.default is one.empty else f" = {one.default!r}"
        lines.append(f"    {one.name}: {_type(one.annotation)}{default},")
    lines.append(f") -> {_type(signature.return_annotation)}:")
    return "\n".join([*lines, textwrap.indent(f'"""{inspect.getdoc(function)}\n"""', " " * 4), ""])


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " | ".join(_type(one) for one in arguments)
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if arguments:
        return f"{origin.__name__}[{', '.join(_type(one) for one in arguments)}]"
    return "None" if annotation is types.NoneType else str(annotation.__name__)


def _names(signature: inspect.Signature) -> Iterator[tuple[str, str]]:
    """The modules and names of all types in a signature that are not built in."""
    found = [signature.return_annotation, *(one.annotation for one in signature.parameters.values())]
    while found:
        annotation = found.pop()
        origin = get_origin(annotation)
        if origin is Literal:
            yield "typing", "Literal"
            continue
        found += get_args(annotation)
        named = annotation if origin is None else origin
        if named not in (Union, types.UnionType, types.NoneType) and named.__module__ != "builtins":
            yield named.__module__.replace("pathlib._local", "pathlib"), named.__name__
