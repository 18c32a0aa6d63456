"""Check that the converted graph contains the traced sites, and read the axis order of each site in the graph.

In: the traced sites, the trace and the converted graph. Out: the sites with the graph's axis order. If the graph
lacks a site on which the output depends, `ModelRefused` is raised, because the outputs of the graph would have another
distribution than those of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import onnx
from onnx import helper

from export.contract.metadata import DOMAIN, Site
from export.errors import ModelRefused
from export.source.hidden import operations_before_output
from export.source.stochastic import read_mark


def match_sites(
    proto: onnx.ModelProto, traced: Sequence[Site], function: Any, origin: str
) -> tuple[tuple[Site, ...], dict[str, tuple[int, ...]], tuple[str, ...]]:
    """The traced sites with the graph's axis order, their layouts by name of the site, and notices.

    A layout is the permutation, with the batch axis, from Keras' axis order to the graph's. There is a notice for each
    site on which the output does not depend.

    Args:
        proto: the converted graph.
        traced: the sites of the trace.
        function: the trace, a TensorFlow concrete function.
        origin: name of the model, for messages.

    Raises:
        ModelRefused: the graph has no site, or lacks a site on which the output depends.
    """
    layouts = {}
    for node in proto.graph.node:
        if node.domain == DOMAIN:
            values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            layouts[values["site"].decode()] = tuple(values["layout"])
    missing = [site.name for site in traced if site.name not in layouts]
    needed = _sites_before_output(function)
    lost = [name for name in missing if name in needed]
    if lost or not layouts:
        raise ModelRefused(
            f"The trace of {origin} has {len(traced)} dropout call(s), but its ONNX graph has {len(layouts)}"
            + (f"; missing: {', '.join(lost)}." if lost else "."),
            wanted="at least one dropout call in the ONNX graph, and every dropout call on which the output depends",
            next_step="check that the output of the model depends on the dropout layers",
        )
    notices = tuple(f"{name} is not a site: the output does not depend on it" for name in missing)
    return tuple(_with_layout(site, layouts[site.name]) for site in traced if site.name in layouts), layouts, notices


def _with_layout(site: Site, layout: Sequence[int]) -> Site:
    """The site with its axes in the graph's order; the batch axis stays first."""
    rows = [axis - 1 for axis in layout[1:]]
    return replace(
        site,
        shape=tuple(site.shape[axis] for axis in rows),
        noise_shape=tuple(site.noise_shape[axis] for axis in rows),
    )


def _sites_before_output(function: Any) -> set[str]:
    """Names of the sites on which the output of a trace depends."""
    checks = [one for one in operations_before_output(function) if one.type == "CheckNumerics"]
    marks = [read_mark(one.get_attr("message").decode()) for one in checks]
    return {site.name for site in marks if site}
