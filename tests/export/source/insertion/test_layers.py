from __future__ import annotations

from typing import Any

import pytest

from export.contract.insertion import Insertion
from export.errors import OptionRefused
from export.source.insertion.layers import candidates, insert_layers
from export.source.insertion.places import Place

PLACES = (
    Place("stem", "Conv2D", (8, 8, 3), has_weights=True),
    Place("encoder", "Functional", (6, 6, 4)),
    Place("encoder/block", "Conv2D", (6, 6, 4), has_weights=True),
    Place("decoder/block", "Conv2D", (6, 6, 4), has_weights=True),
    Place("sum", "Add", problem="it has 2 inputs"),
    Place("pool", "GlobalAveragePooling2D", (4, 4, 4)),
    Place("top", "Dense", (4,), has_weights=True, makes_outputs=True),
)
LAYERS = {place.path: object() for place in PLACES}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("top", "top"),
        ("classifier", "top"),
        ("encoder/block", "encoder/block"),
        ("encoder", "encoder"),
        ("pool", "pool"),
    ],
)
def test_a_layer_is_named_by_its_path_its_name_or_an_alias(keras: Any, name: str, path: str) -> None:
    (inserted,) = insert_layers(PLACES, LAYERS, [Insertion(name, 0.3)], "m")
    assert (inserted.path, inserted.rate, inserted.before) == (f"before:{path}", 0.3, LAYERS[path])
    assert (inserted.family, inserted.layer.rate) == ("Dropout", 0.3)


def test_a_layer_named_classifier_precedes_the_alias(keras: Any) -> None:
    places = (*PLACES, Place("head/classifier", "Dense", (4,), has_weights=True))
    (inserted,) = insert_layers(places, {**LAYERS, "head/classifier": 0}, [Insertion("classifier", 0.3)], "m")
    assert inserted.path == "before:head/classifier"


@pytest.mark.parametrize(
    ("names", "found", "wanted"),
    [
        (["tpo"], "has no layer of this name", "such as top, decoder/block, encoder/block, stem"),
        (["block"], "2 layers with this name are part of m: encoder/block, decoder/block", "the path of one layer"),
        (["sum"], "before sum (Add) of m: it has 2 inputs", "with one variable input"),
        (["top", "classifier"], "the layer top of m twice, as top and classifier", "one rate for each layer"),
    ],
)
def test_other_names_are_refused_with_names_to_give(keras: Any, names: list[str], found: str, wanted: str) -> None:
    with pytest.raises(OptionRefused) as caught:
        insert_layers(PLACES, LAYERS, [Insertion(name, 0.1) for name in names], "m")
    assert found in str(caught.value)
    assert wanted in str(caught.value)
    assert "next" in str(caught.value)


def test_outputs_of_several_layers_have_no_classifier(keras: Any) -> None:
    places = (*PLACES, Place("other", "Dense", (4,), has_weights=True, makes_outputs=True))
    with pytest.raises(OptionRefused, match="several layers compute the outputs of m: top, other"):
        insert_layers(places, LAYERS, [Insertion("classifier", 0.1)], "m")
    with pytest.raises(OptionRefused, match="m has no layer with weights that computes its outputs"):
        insert_layers(PLACES[:2], LAYERS, [Insertion("classifier", 0.1)], "m")


def test_candidates_are_the_layers_with_weights_if_there_are_any() -> None:
    assert [place.path for place in candidates(PLACES)] == ["stem", "encoder/block", "decoder/block", "top"]
    assert [place.path for place in candidates([PLACES[1], PLACES[4]])] == ["encoder"]
