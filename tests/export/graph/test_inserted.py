from __future__ import annotations

from dataclasses import replace

import pytest

from export.contract.metadata import INSERTED, Site
from export.errors import OptionRefused
from export.graph.inserted import check_inserted

TRAINED = Site("drop", "MCDropout", 0.3, (4,), (4,), ("top/MatMul",))
ADDED = Site("before:top", "MCDropout", 0.3, (4,), (4,), ("top/MatMul",), INSERTED)


def test_inserted_dropout_beside_other_dropout_on_the_same_values_is_refused() -> None:
    check_inserted((TRAINED, ADDED), "m")
    check_inserted((replace(TRAINED, feeds=("again",)), replace(TRAINED, name="again")), "m")
    for sites in ((replace(TRAINED, feeds=("before:top",)), ADDED), (TRAINED, replace(ADDED, feeds=("drop",)))):
        with pytest.raises(OptionRefused, match="before:top next to the dropout drop of m") as caught:
            check_inserted(sites, "m")
        assert "--rate 'drop=RATE'" in str(caught.value)
    with pytest.raises(OptionRefused, match="name only one of the two layers"):
        check_inserted((ADDED, replace(ADDED, name="before:flat", feeds=("before:top",))), "m")
