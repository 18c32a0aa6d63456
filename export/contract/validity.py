"""Check the values of a contract: text, numbers and sizes that an export can write.

In: a `ModelContract`, or class names. Out: nothing, or an error. Sizes are checked before anything is allocated, and
text before it is printed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from export.contract.metadata import ALPHA_KINDS, GAUSSIAN_KINDS, ZEROING_KINDS, ModelContract, Site
from export.errors import ContractRefused, OptionRefused

MOST_ELEMENTS = 2**31
"""Maximum number of elements of one row of a tensor: the image, or the input of a site."""

MOST_OUTPUTS = 2**20
"""Maximum number of outputs, C."""


def check_contract(contract: ModelContract, origin: str) -> None:
    """Check the values of a contract that was read from a file.

    Args:
        contract: the contract.
        origin: path of the file, for messages.

    Raises:
        ContractRefused: a value is impossible; the message names it.
    """
    try:
        _check_values(contract)
    except (ValueError, TypeError, AttributeError) as error:
        raise ContractRefused(
            f"{origin} has an impossible oodscreen contract: {error}.",
            wanted="the unmodified metadata that `oodscreen export` wrote",
            next_step="export the model again, and do not edit the file's metadata",
        ) from error


def _check_values(contract: ModelContract) -> None:
    _check_shape("image_shape", contract.image_shape)
    if not 1 <= contract.classes <= MOST_OUTPUTS:
        raise ValueError(f"{contract.classes} outputs")
    named = len(contract.class_names)  # earlier versions required one name for each output of any task
    check_class_names(contract.class_names, named if named == contract.classes else contract.class_count)
    texts = [contract.input_name, contract.output_name, contract.source_digest, contract.preprocessing.name]
    for text in (*texts, *contract.versions, *contract.versions.values()):
        _check_text("text", text)
    names = [site.name for site in contract.sites]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"sites {names}")
    for site in contract.sites:
        _check_site(site)
    pre = contract.preprocessing
    _check_numbers("scale", () if pre.scale is None else (pre.scale,), nonzero=True)
    _check_numbers("mean", pre.mean)
    _check_numbers("std", pre.std, nonzero=True)
    if {len(pre.mean), len(pre.std)} - {0, 1, contract.channels}:
        raise ValueError(f"mean {list(pre.mean)} and std {list(pre.std)} for {contract.channels} channel(s)")
    if pre.reshape:
        _check_shape("reshape", pre.reshape)
    measured = () if contract.accuracy is None else vars(contract.accuracy).values()
    _check_numbers("verified", [*contract.verified.values(), *measured])


def check_class_names(names: Sequence[Any], classes: int) -> None:
    """Check the names of the outputs; an empty sequence is valid.

    Args:
        names: names in the order of the outputs.
        classes: number of classes.

    Raises:
        ValueError: a name is blank, is not printable text or occurs twice, or the number of names is not `classes`.
    """
    for name in names:
        _check_text("class name", name)
        if not name.strip():
            raise ValueError("a blank class name")
    if names and len(names) != classes:
        raise ValueError(f"{len(names)} class names for {classes} classes")
    name, count = Counter(names).most_common(1)[0] if names else ("", 1)
    if count > 1:
        raise ValueError(f"the class name {name!r} {count} times")


def check_given_names(names: tuple[str, ...], count: int) -> None:
    """Check the given class names; an empty tuple is valid.

    Args:
        names: the names.
        count: number of classes of the model; 0 for a regression.

    Raises:
        OptionRefused: the number of names is not `count`, two names are equal, or a name is not printable.
    """
    if names and not count:
        raise OptionRefused(
            f"--classes has {len(names)} name(s), and the model is a regression.",
            wanted="no class names",
            next_step="leave out --classes",
        )
    if names and len(names) != count:
        raise OptionRefused(
            f"--classes has {len(names)} name(s), and the model has {count} classes.",
            wanted=f"{count} names, in the order of the class numbers",
            next_step="give one name for each class",
        )
    try:
        check_class_names(names, count)
    except ValueError as error:
        raise OptionRefused(
            f"--classes contains {error}.",
            wanted=f"{count} different names, one for each class, without control characters",
            next_step="change the names, for example give 'crane bird' and 'crane machine' in place of 'crane' twice",
        ) from error


def _check_site(site: Site) -> None:
    _check_text("site name", site.name)
    for name in site.feeds:
        _check_text("node name", name)
    if site.kind not in (*ZEROING_KINDS, *GAUSSIAN_KINDS, *ALPHA_KINDS):
        raise ValueError(f"site {site.name!r} of the kind {site.kind!r}")
    if not 0 < site.rate < 1:  # also for NaN
        raise ValueError(f"site {site.name!r} with rate {site.rate}")
    _check_shape(f"site {site.name!r}", site.shape)
    if len(site.noise_shape) != len(site.shape) or any(
        type(own) is not int or own not in (1, size) for own, size in zip(site.noise_shape, site.shape, strict=True)
    ):
        raise ValueError(f"site {site.name!r} of shape {list(site.shape)} with masks of shape {list(site.noise_shape)}")


def _check_shape(name: str, shape: Sequence[Any]) -> None:
    if not all(type(size) is int and size > 0 for size in shape) or math.prod(shape) > MOST_ELEMENTS:
        raise ValueError(f"{name} of shape {list(shape)}")


def _check_numbers(name: str, values: Iterable[Any], *, nonzero: bool = False) -> None:
    for value in values:
        if type(value) not in (int, float) or not math.isfinite(value) or (nonzero and value == 0):
            raise ValueError(f"{name} {value!r}")


def _check_text(name: str, text: Any) -> None:
    if not isinstance(text, str) or not (text.isprintable() or not text):
        raise ValueError(f"{name} {text!a}, which is not printable text")
