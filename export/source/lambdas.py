"""Code in the Lambda layers of a model file: refuse it, or verify that this version of Python can run it.

In: the configuration of a model. Out: nothing, or `ModelRefused`. Keras stores the function of a Lambda layer as
compiled code, whose format depends on the version of Python. Code of another version fails, or crashes the process.
Code is run only with `unsafe`; the verification reads the code without running it.
"""

from __future__ import annotations

import base64
import binascii
import dis
import marshal
import platform
import struct
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

from export.errors import ModelRefused
from export.source.containers import objects_in, rebuilding


def check_code(config: Any, path: Path, *, unsafe: bool) -> None:
    """Refuse a model that contains code; with `unsafe`, only code that this version of Python cannot run.

    Args:
        config: configuration of the layers, as plain data.
        path: path of the model file, for messages.
        unsafe: whether code in the file may be run.

    Raises:
        ModelRefused: the model contains code that is not allowed or cannot be run.
    """
    lambdas = [one for one in objects_in(config) if one.get("class_name") in ("Lambda", "__lambda__")]
    if lambdas and not unsafe:
        raise ModelRefused(
            f"{path} contains code that loading would run: {', '.join(_name(one) for one in lambdas)}.",
            wanted="a model without Lambda layers, or a trusted file",
            next_step="replace the Lambda layer by keras.ops or a layer class; if you trust the file, add --unsafe",
        )
    for text in (text for one in lambdas for text in _codes(one["config"])):
        raw = _decode(text)
        if not _is_of_this_python(raw):
            raise ModelRefused(
                f"{path} contains a Lambda layer with code that {_writer(raw)} compiled; the installed Python "
                f"{platform.python_version()} cannot run this code.",
                wanted="code of this version of Python, because the file does not contain the source of the code",
                next_step="build the model with the installed version of Keras and the source of the Lambda layer, and "
                f"export the file that this Python code writes, with --unsafe: {rebuilding(path)}",
            )


def _name(one: dict[str, Any]) -> str:
    config = one.get("config")
    return str(config.get("name", one["class_name"])) if isinstance(config, dict) else str(one["class_name"])


def _codes(config: Any) -> Iterator[str]:
    """The compiled functions in the configuration of a Lambda layer, as text."""
    if isinstance(config.get("code"), str):  # Keras 3, and Keras 2.12 to 2.15
        yield config["code"]
    for key in ("function", "output_shape"):
        stored = config.get(key)
        if isinstance(stored, list) and len(stored) == 3 and isinstance(stored[0], str):  # code, defaults, closure
            yield stored[0]


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=False)
    except (binascii.Error, ValueError):
        return text.encode("raw_unicode_escape")  # Keras 2.0


def _is_of_this_python(raw: bytes) -> bool:
    """Whether compiled code has the format and the instructions of this version of Python."""
    try:
        code = marshal.loads(raw)  # noqa: S302  reads the code without running it
        lengths = [one for part in _nested(code) for one in _lengths(part)]
    except (AttributeError, EOFError, SystemError, TypeError, ValueError):
        return False
    own = dict(_lengths(next(part for part in _nested(_SAMPLE) if part.co_name == "<lambda>")))
    return all(
        operation in dis.opmap.values() and own.get(operation, length) == length for operation, length in lengths
    ) and dis.opmap["RESUME"] in dict(lengths)


_SAMPLE = compile("lambda x: module.a.b(x[..., 0] * 2 - 1, c=x.d(1)) > y", "", "eval")
"""Code with the usual instructions of a Lambda layer."""


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _lengths(code: CodeType) -> Iterator[tuple[int, int]]:
    """Each instruction of a function, and the number of cache entries after it; a cache entry has the number 0."""
    operations = code.co_code[::2]
    starts = [position for position, operation in enumerate(operations) if operation]
    for start, end in zip(starts, [*starts[1:], len(operations)], strict=True):
        yield operations[start], end - start - 1


def _writer(raw: bytes) -> str:
    """The versions of Python that write compiled code in this format."""
    # After a byte for the type, the format has four to six numbers, then the instructions as an object of type `s`.
    counts = [number for number in (4, 5, 6) if raw[1 + 4 * number : 2 + 4 * number] in (b"s", b"\xf3")]
    if not counts:
        return "another version of Python"
    numbers = struct.unpack_from(f"<{counts[0]}i", raw, 1)
    if counts[0] == 4:
        return "Python 2"
    if counts[0] == 6:
        return "Python 3.8, 3.9 or 3.10"
    # The third of five numbers is the number of keyword-only arguments since 3.11, of local variables before 3.8.
    # In the code of a Lambda layer, the former is 0, the latter at least 1.
    return "another version of Python since 3.11" if numbers[2] == 0 else "Python 3.7 or earlier"
