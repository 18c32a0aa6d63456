"""Choose the layers before which dropout is inserted: `--insert-dropout`.

In: the places of a network and the user's `Insertion`s. Out: the layers to insert, as `NoiseLayer`s, or an error that
names layers that can be given.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from export.contract.insertion import CLASSIFIER, LIST_COMMAND, Insertion
from export.errors import OptionRefused
from export.source.insertion.places import Place
from export.source.noise import NoiseLayer

PREFIX = "before:"
"""Beginning of the names of inserted sites; the path of the layer that follows completes the name."""

_PROVISIONAL = 0.5
"""Provisional rate of inserted dropout, until the export has chosen the rate."""

_NAMED = 5
"""Maximum number of layers in a message."""


def insert_layers(
    places: Sequence[Place], layers: Mapping[str, Any], insertions: Sequence[Insertion], origin: str
) -> tuple[NoiseLayer, ...]:
    """A dropout layer for each insertion; its mask has one value for each element of the input.

    Args:
        places: the layers of the model as places.
        layers: the layers by path.
        insertions: the user's choice.
        origin: name of the model, for messages.

    Raises:
        OptionRefused: `choose_places` refuses an insertion.
    """
    import keras

    inserted = []
    for place, rate in choose_places(places, insertions, origin):
        layer = keras.layers.Dropout(rate, dtype="float32")
        inserted.append(NoiseLayer(layer, PREFIX + place.path, "Dropout", rate, before=layers[place.path]))
    return tuple(inserted)


def choose_places(
    places: Sequence[Place], insertions: Sequence[Insertion], origin: str
) -> tuple[tuple[Place, float], ...]:
    """The place and the rate of each insertion; the rate is provisional if the export is to choose the rate.

    Raises:
        OptionRefused: a name is not the name of exactly one layer, dropout cannot be inserted before this layer, or two
            insertions name the same layer.
    """
    found: dict[str, str] = {}
    chosen = []
    for insertion in insertions:
        place = _find_place(insertion.layer, places, origin)
        if place.path in found:
            raise OptionRefused(
                f"--insert-dropout names the layer {place.path} of {origin} twice, as {found[place.path]} and "
                f"{insertion.layer}.",
                wanted="one rate for each layer",
                next_step=f"leave out --insert-dropout '{insertion.layer}=...'",
            )
        found[place.path] = insertion.layer
        chosen.append((place, _PROVISIONAL if insertion.rate is None else insertion.rate))
    return tuple(chosen)


def _find_place(name: str, places: Sequence[Place], origin: str) -> Place:
    """The place whose path, or the last part of whose path, is `name`; for `classifier`, the last layer with weights.

    Raises:
        OptionRefused: no place or several places have this name, or dropout cannot be inserted there.
    """
    exact = [place for place in places if place.path == name]
    named = exact or [place for place in places if place.path.rsplit("/", 1)[-1] == name]
    is_alias = name == CLASSIFIER and not named
    if is_alias:
        named = [place for place in places if place.makes_outputs]
    if len(named) == 1:
        return _checked(named[0], places, origin)
    if len(named) > 1:
        what = "several layers compute the outputs" if is_alias else f"{len(named)} layers with this name are part"
        raise OptionRefused(
            f"--insert-dropout names {name}, but {what} of {origin}: {_list_names(named)}.",
            wanted="the path of one layer; the option may be repeated",
            next_step=f"give a path, such as --insert-dropout '{named[0].path}=0.2'",
        )
    raise OptionRefused(
        f"--insert-dropout names {name}, but {origin} has no "
        + ("layer with weights that computes its outputs." if is_alias else "layer of this name."),
        wanted=f"classifier, or a layer of the model, such as {_list_names(_similar(name, places))}",
        next_step=f"give one of these names, or print more names with {LIST_COMMAND}",
    )


def _checked(place: Place, places: Sequence[Place], origin: str) -> Place:
    """The place, after a check that dropout can be inserted there.

    Raises:
        OptionRefused: dropout cannot be inserted there.
    """
    if place.problem:
        raise OptionRefused(
            f"Dropout cannot be inserted before {place.path} ({place.kind}) of {origin}: {place.problem}.",
            wanted="a layer with one variable input, of real numbers, and with an effect on the output, such as "
            + _list_names(_similar(place.path, places)),
            next_step=f"give one of these names, or print more names with {LIST_COMMAND}",
        )
    return place


def candidates(places: Sequence[Place]) -> list[Place]:
    """The layers with weights before which dropout can be inserted; if there are none, the layers without weights."""
    possible = [place for place in places if not place.problem]
    return [place for place in possible if place.has_weights] or possible


def _similar(name: str, places: Sequence[Place]) -> list[Place]:
    """Candidates for a message: the most similar paths first, then the last layers of the model."""
    possible = {place.path: place for place in reversed(candidates(places))}
    similar = difflib.get_close_matches(name, possible, n=_NAMED)
    return [possible[path] for path in dict.fromkeys([*similar, *possible])]


def _list_names(places: Sequence[Place]) -> str:
    more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
    return ", ".join(place.path for place in places[:_NAMED]) + more or "none"
