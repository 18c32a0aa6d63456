"""Select the noise layers that an export keeps, and their rates: `--keep-layer` and `--rate`.

In: the layers of a model by path, and a `SiteChoice`. Out: the `NoiseLayer`s of the export.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from export.contract.insertion import Insertion
from export.errors import ModelRefused, OptionRefused
from export.source.noise import NoiseLayer, family_of, is_active

WITHOUT_DROPOUT = "docs/without-dropout.md"
"""Documentation page about models without dropout."""


@dataclass(frozen=True)
class SiteChoice:
    """The user's selection of sites and rates.

    Attributes:
        keep: shell patterns of layer names or paths, such as `top_dropout*`; if empty, all sites are kept.
        rates: rate by pattern; the pattern `*` matches every kept site.
        insertions: sites to insert, which `keep` and `rates` do not affect.
    """

    keep: tuple[str, ...] = ()
    rates: Mapping[str, float] = field(default_factory=dict)
    insertions: tuple[Insertion, ...] = ()

    def at_rate(self, rate: float) -> SiteChoice:
        """The selection with this rate for all sites to insert."""
        return replace(self, insertions=tuple(replace(insertion, rate=rate) for insertion in self.insertions))

    def keeps(self, path: str) -> bool:
        """Whether the site with this path is kept."""
        return not self.keep or any(matches(path, pattern) for pattern in self.keep)


def matches(path: str, pattern: str) -> bool:
    """Whether a pattern matches a layer, by its path or by its name."""
    return fnmatchcase(path, pattern) or fnmatchcase(path.rsplit("/", 1)[-1], pattern)


def check_patterns(
    choice: SiteChoice, paths: Sequence[str], origin: str, *, also: Mapping[str, str] | None = None
) -> None:
    """Check that each pattern in `choice.keep` matches a site, and each pattern in `choice.rates` a kept site.

    Args:
        choice: the user's selection.
        paths: paths of the sites.
        origin: name of the model, for messages.
        also: by path, second names of the sites, which patterns can match too.

    Raises:
        OptionRefused: a pattern has no match; for a model without sites, only the pattern `*` in `choice.keep` is
            allowed.
    """
    if not paths:
        # '*' is allowed: it disables noise that is not a site (`export.source.hidden`)
        stated = [
            *(("--keep-layer", one) for one in choice.keep if one != "*"),
            *(("--rate", one) for one in choice.rates),
        ]
        if stated:
            raise OptionRefused(
                f"{stated[0][0]} {stated[0][1]!r} was given, but {origin} has no active dropout.",
                wanted="only --insert-dropout, which sets the layers and the rates of inserted dropout",
                next_step=f"leave out {stated[0][0]}",
            )
        return

    def fits(path: str, pattern: str) -> bool:
        return matches(path, pattern) or matches((also or {}).get(path, path), pattern)

    kept = [path for path in paths if not choice.keep or any(fits(path, pattern) for pattern in choice.keep)]
    unmatched = [("--keep-layer", pattern) for pattern in choice.keep if not any(fits(one, pattern) for one in paths)]
    unmatched += [("--rate", pattern) for pattern in choice.rates if not any(fits(one, pattern) for one in kept)]
    if unmatched:
        option, pattern = unmatched[0]
        raise OptionRefused(
            f"{option} {pattern!r} matches none of the {'kept ' if option == '--rate' else ''}dropout layers of "
            f"{origin}.",
            wanted=f"a pattern that matches one of: {', '.join(kept if option == '--rate' and kept else paths)}",
            next_step="give one of these names; in a pattern, * matches any characters and ? matches one character",
        )


def choose_sites(named: Sequence[tuple[str, Any]], choice: SiteChoice, origin: str) -> tuple[NoiseLayer, ...]:
    """The noise layers of the model that the export keeps, with their rates.

    Args:
        named: all layers of the model with their paths, in model order.
        choice: the user's selection.
        origin: name of the model, for messages.

    Raises:
        ModelRefused: the model has no noise layer with a rate above 0, and `choice` has no insertions; or a layer's
            own rate is not below 1.
        OptionRefused: a pattern matches no site, or a rate in `choice` is not between 0 and 1.
    """
    noise = [(path, layer) for path, layer in named if family_of(layer)]
    active = [(path, layer) for path, layer in noise if is_active(layer)]
    if not active and not choice.insertions:
        raise _no_active_dropout(named, noise, origin)
    check_patterns(choice, [path for path, _ in active], origin)
    return tuple(
        NoiseLayer(layer, path, family_of(layer), _rate_of(path, layer, choice, origin))
        for path, layer in active
        if choice.keeps(path)
    )


def _rate_of(path: str, layer: Any, choice: SiteChoice, origin: str) -> float:
    """The rate of the last matching pattern; if no pattern matches, the rate of the layer."""
    stated = [rate for pattern, rate in choice.rates.items() if matches(path, pattern)]
    rate = float(stated[-1] if stated else layer.rate)
    if not 0 < rate < 1:
        error = OptionRefused if stated else ModelRefused
        raise error(
            f"The dropout layer {path} of {origin} would have rate {rate:g}.",
            wanted="a rate above 0 and below 1",
            next_step="give another rate with --rate 'PATTERN=RATE', or select only other layers with --keep-layer",
        )
    return rate


def _no_active_dropout(named: Sequence[tuple[str, Any]], noise: Sequence[tuple[str, Any]], origin: str) -> ModelRefused:
    examined = ", ".join(f"{layer.name} (rate {layer.rate})" for _, layer in noise)
    if not examined:
        kinds = sorted({type(layer).__name__ for _, layer in named})
        examined = f"no Dropout among {len(named)} layers ({', '.join(kinds)})"
    return ModelRefused(
        f"{origin} has no active dropout. Examined: {examined}.",
        wanted="at least one Dropout layer with a rate above 0 that was active in training",
        next_step="train the model with dropout; or add --insert-dropout 'classifier=0.2', which inserts dropout "
        f"before the last layer with weights (see {WITHOUT_DROPOUT})",
    )
