"""Whether the dropout calls of a trace arrived in the graph, and how they lie there.

In: the sites that were traced, the trace, and the converted graph. Out: the sites as the graph has
them, or a refusal: a site that got lost is a model that says something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import onnx
from onnx import helper

from export.contract.metadata import DOMAIN, Site
from export.errors import ModelRefused
from export.source.stochastic import read_mark


def match_sites(
    proto: onnx.ModelProto, traced: Sequence[Site], function: Any, origin: str
) -> tuple[tuple[Site, ...], tuple[str, ...]]:
    """The traced sites as the graph has them; those that the output does not depend on are told.

    Raises:
        ModelRefused: a site that the output depends on is not in the graph, or none is.
    """
    arrived = {}
    for node in proto.graph.node:
        if node.domain == DOMAIN:
            values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            arrived[values["site"].decode()] = values["layout"]
    missing = [site.name for site in traced if site.name not in arrived]
    needed = _marks_behind_output(function)
    lost = [name for name in missing if name in needed]
    if lost or not arrived:
        raise ModelRefused(
            f"{len(traced)} dropout calls were traced in {origin}, but {len(arrived)} reached the ONNX graph"
            + (f"; missing: {', '.join(lost)}." if lost else "."),
            wanted="every traced dropout call in the graph, and at least one",
            next_step="check that the dropout layers lie on the way to the output",
        )
    notices = tuple(f"{name} is no site: the output does not depend on it" for name in missing)
    return tuple(_laid_out(site, arrived[site.name]) for site in traced if site.name in arrived), notices


def _laid_out(site: Site, layout: Sequence[int]) -> Site:
    """The site with its axes in the order of the graph; the batch axis stays in front."""
    rows = [axis - 1 for axis in layout[1:]]
    return replace(
        site,
        shape=tuple(site.shape[axis] for axis in rows),
        noise_shape=tuple(site.noise_shape[axis] for axis in rows),
    )


def _marks_behind_output(function: Any) -> set[str]:
    """Names of the sites that the output of a trace depends on."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [output.op for output in function.outputs]
    while waiting:
        operation = waiting.pop()
        if operation.name in seen:
            continue
        seen.add(operation.name)
        if operation.type == "CheckNumerics":
            site = read_mark(operation.get_attr("message").decode())
            found |= {site.name} if site else set()
        waiting += [value.op for value in operation.inputs]
    return found
