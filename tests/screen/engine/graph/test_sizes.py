from __future__ import annotations

import numpy as np

from screen.engine.graph.sizes import PROBE_ROWS, infer_sizes
from tests.screen.engine.graphs import Graph


def test_shapes_do_not_need_the_numbers_of_large_floats() -> None:
    g = Graph()
    hidden = g.dense(g.flat(), 48, 100)
    model = g.finish(g.dense(g.site(hidden, 100), 100, 3), 3)
    sizes = infer_sizes(model.proto)
    assert sizes.shapes[hidden] == (PROBE_ROWS, 100)
    weights = {weight.name: tuple(weight.dims) for weight in model.proto.graph.initializer}
    assert (48, 100) in weights.values()
    assert {name: sizes.shapes[name] for name in weights} == weights


def test_a_shape_may_come_of_a_large_table_of_integers() -> None:
    g = Graph()
    size = g.op("Gather", g.const(np.full(5000, 48)), g.const(np.array([7])))
    flat = g.op("Reshape", g.image, g.op("Concat", g.const(np.array([-1])), size, axis=0))
    model = g.finish(g.dense(g.site(flat, 48), 48, 3), 3)
    assert infer_sizes(model.proto).shapes[flat] == (PROBE_ROWS, 48)
