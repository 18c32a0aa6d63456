"""Choose which noise layers are kept and at which rate: `--keep` and `--rate`.

In: a model's noise layers by path, and the user's choice. Out: the `NoiseLayer`s of the export.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from export.errors import ModelRefused, OptionRefused
from export.source.noise import NoiseLayer, family_of, is_active


@dataclass(frozen=True)
class SiteChoice:
    """What the user said about sites.

    Attributes:
        keep: shell patterns of layer names, such as `top_dropout*`; empty keeps all.
        rates: rates by pattern; the pattern `*` means every kept site.
    """

    keep: tuple[str, ...] = ()
    rates: Mapping[str, float] = field(default_factory=dict)

    def keeps(self, path: str) -> bool:
        """Whether a site of this path is kept."""
        return not self.keep or any(matches(path, pattern) for pattern in self.keep)


def matches(path: str, pattern: str) -> bool:
    """Whether a pattern means a layer: by its whole path, or by its own name."""
    return fnmatchcase(path, pattern) or fnmatchcase(path.rsplit("/", 1)[-1], pattern)


def choose_sites(named: Sequence[tuple[str, Any]], choice: SiteChoice, origin: str) -> tuple[NoiseLayer, ...]:
    """The noise layers that are kept, with their rates.

    Args:
        named: every layer of the model with its path, in model order.
        choice: the user's.
        origin: the model's name, for messages.

    Raises:
        ModelRefused: no layer was trained with noise.
        OptionRefused: a pattern means no such layer, or a rate is not between 0 and 1.
    """
    seen = [(path, layer) for path, layer in named if family_of(layer)]
    active = [(path, layer) for path, layer in seen if is_active(layer)]
    if not active:
        raise _no_active_dropout(named, seen, origin)
    _check_patterns(choice, [path for path, _ in active], origin)
    return tuple(
        NoiseLayer(layer, path, family_of(layer), _rate_of(path, layer, choice, origin))
        for path, layer in active
        if choice.keeps(path)
    )


def _rate_of(path: str, layer: Any, choice: SiteChoice, origin: str) -> float:
    """The rate of the last pattern that matches, else the layer's own."""
    stated = [rate for pattern, rate in choice.rates.items() if matches(path, pattern)]
    rate = float(stated[-1] if stated else layer.rate)
    if not 0 < rate < 1:
        error = OptionRefused if stated else ModelRefused
        raise error(
            f"The dropout layer {path} of {origin} would have rate {rate:g}.",
            wanted="a rate above 0 and below 1",
            next_step="give another one: --rate 'PATTERN=RATE'; to leave a layer out, choose the others by --keep",
        )
    return rate


def _check_patterns(choice: SiteChoice, paths: Sequence[str], origin: str) -> None:
    kept = [path for path in paths if choice.keeps(path)]
    unmatched = [("--keep", pattern) for pattern in choice.keep if not any(matches(path, pattern) for path in paths)]
    unmatched += [("--rate", pattern) for pattern in choice.rates if not any(matches(path, pattern) for path in kept)]
    if unmatched:
        option, pattern = unmatched[0]
        raise OptionRefused(
            f"{option} {pattern!r} means none of the {'kept ' if option == '--rate' else ''}sites of {origin}.",
            wanted=f"a pattern of: {', '.join(kept if option == '--rate' and kept else paths)}",
            next_step="take a name from this list; * and ? stand for any letters",
        )


def _no_active_dropout(named: Sequence[tuple[str, Any]], seen: Sequence[tuple[str, Any]], origin: str) -> ModelRefused:
    looked = ", ".join(f"{layer.name} (rate {layer.rate})" for _, layer in seen)
    if not looked:
        kinds = sorted({type(layer).__name__ for _, layer in named})
        looked = f"no Dropout among its {len(named)} layers ({', '.join(kinds)})"
    return ModelRefused(
        f"{origin} has no active dropout. Looked at: {looked}.",
        wanted="at least one Dropout layer with a rate above 0, trained with it",
        next_step="train the model with dropout; adding it afterwards would not measure uncertainty",
    )
