"""How each site is run, and what its masks become for that.

In: a graph, its contract and its boundary. Out: a `SitePlan` for each site. It names the inputs of
the head that carry the site's masks, and turns masks into them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from export.contract.metadata import ALPHA_KINDS, DOMAIN, ZEROING_KINDS, Site
from screen.engine.graph.builder import PREFIX
from screen.engine.graph.compaction import CompactedLayer, choose_units, find_thinned_layers
from screen.engine.graph.sizes import TensorSizes
from screen.engine.graph.subtraction import choose_dropped, subtraction_pays
from screen.engine.graph.weights import WeightChain, find_weight_chain, flatten_order

Array = NDArray[np.float32] | NDArray[np.int64]


@dataclass(frozen=True)
class Shortcuts:
    """What the planner may do where it is exact and pays; the numbers are the same without.

    Attributes:
        masks_in_weights: let masks multiply weights; otherwise the passes are folded into the batch
            axis everywhere, and the other two have nothing to work on.
        thin_layers: leave out the units that the next site drops.
        subtract_dropped: compute a product once, and for each pass only the part that it drops.
    """

    masks_in_weights: bool = True
    thin_layers: bool = True
    subtract_dropped: bool = True


@dataclass(frozen=True)
class SitePlan:
    """How one site is run.

    Attributes:
        site: name, rate and shapes, from the contract.
        how: one of
            `batch` (the passes are folded into the batch axis, the mask multiplies the data);
            `weights` (the mask multiplies the weights behind the site, the boundary is never copied);
            `subtracted` (only the dropped features are multiplied, and what they give is subtracted
            from the product of all, see `screen.engine.graph.subtraction`);
            `thinned` (as `weights`, and the layer in front is computed only for the units that this
            site keeps, see `screen.engine.graph.compaction`).
        prefix: what the names of its tensors begin with.
        chain: what lies between the site and its product; None for `batch`.
        layer: the layer behind this site, if that one is thinned.
        order: for a site with a chain, where in its mask each feature of the product finds its
            element, `[F]`.
    """

    site: Site
    how: str
    prefix: str
    chain: WeightChain | None = None
    layer: CompactedLayer | None = None
    order: NDArray[np.int64] | None = field(default=None, compare=False, repr=False)

    @property
    def mask(self) -> str:
        """Input: the mask. `[P, 1 or B, *noise_shape]` for `batch`, `[P, K]` for `thinned`, else `[P, F]`."""
        return f"{self.prefix}/mask"

    @property
    def units(self) -> str:
        """Input for `thinned`: the units that are kept, `int64 [P, K]`."""
        return f"{self.prefix}/units"

    @property
    def dropped(self) -> str:
        """Input for `subtracted`: the features that are dropped, `int64 [P, D]`."""
        return f"{self.prefix}/dropped"

    @property
    def scale(self) -> str:
        """Input for `subtracted`: what the weights of these are multiplied by, `[P, D]`."""
        return f"{self.prefix}/scale"

    @property
    def features(self) -> str:
        """From the trunk for `subtracted`: the rows as the product sees them, transposed, `[F, B]`."""
        return f"{self.prefix}/features"

    @property
    def whole(self) -> str:
        """From the trunk for `subtracted`: the product of all features over the keep rate, `[B, H]`."""
        return f"{self.prefix}/whole"

    @property
    def kept_outputs(self) -> float:
        """How many outputs of its product a pass computes, on average."""
        if self.chain is None:
            return 0
        return self.chain.outer * (1 - self.layer.second_rate if self.layer else 1)

    @property
    def used_features(self) -> float:
        """How many features of its product a pass multiplies, on average."""
        if self.chain is None:
            return 0
        share = {"subtracted": self.site.rate, "thinned": 1 - self.site.rate}.get(self.how, 1)
        return self.chain.inner * share

    @property
    def flops(self) -> float:
        """Floating point operations of its product for one row in one pass; 0 for `batch`."""
        return 2 * self.used_features * self.kept_outputs

    @property
    def row_bytes(self) -> float:
        """What one row takes in one pass for the features that are picked, in bytes."""
        return 4 * (self.used_features + 2 * self.kept_outputs) if self.how == "subtracted" else 0

    @property
    def pass_bytes(self) -> float:
        """What one pass takes for the weights that it makes of the constant one, in bytes."""
        if self.chain is None:
            return 0
        outputs = {"subtracted": self.chain.outer + 2 * self.kept_outputs, "weights": 2 * self.kept_outputs}
        return 4 * self.used_features * outputs.get(self.how, 2 * self.chain.outer)

    @property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """What the head takes for this site."""
        make, types = onnx.helper.make_tensor_value_info, onnx.TensorProto
        if self.how == "batch":
            return [make(self.mask, types.FLOAT, ["P", None, *self.site.noise_shape])]
        if self.how == "subtracted":
            return [make(self.dropped, types.INT64, ["P", None]), make(self.scale, types.FLOAT, ["P", None])]
        mask = make(self.mask, types.FLOAT, ["P", None])
        return [make(self.units, types.INT64, ["P", None]), mask] if self.how == "thinned" else [mask]

    def feed(self, masks: NDArray[np.float32]) -> dict[str, Array]:
        """The values of `inputs`, from masks `[P, 1, *noise_shape]` (for `batch` also `[P, B, ...]`)."""
        if self.order is None:
            return {self.mask: masks}
        flat = masks.reshape(len(masks), -1)[:, self.order]
        if self.how == "subtracted":
            dropped, scale = choose_dropped(flat, self.site.rate)
            return {self.dropped: dropped, self.scale: scale}
        if self.how == "thinned":
            units, kept = choose_units(flat)
            return {self.units: units, self.mask: kept}
        return {self.mask: flat}


def plan_sites(
    graph: onnx.GraphProto,
    sites: Sequence[Site],
    boundary: Sequence[str],
    sizes: TensorSizes,
    shortcuts: Shortcuts,
) -> tuple[SitePlan, ...]:
    """Decide how each site is run; in the contract's order.

    Args:
        graph: the exported graph.
        sites: from its contract.
        boundary: names of the trunk's values that stochastic nodes read.
        sizes: shapes of the graph's values.
        shortcuts: what may be done where it is exact and pays.
    """
    nodes = {node.name: node for node in graph.node if node.domain == DOMAIN}
    chains: dict[str, WeightChain] = {}
    if shortcuts.masks_in_weights:
        affine = {site.name for site in sites if site.kind in ALPHA_KINDS}
        found = {name: find_weight_chain(graph, node, sizes) for name, node in nodes.items() if name not in affine}
        chains = {name: chain for name, chain in found.items() if chain is not None}
    layers = find_thinned_layers(graph, sites, chains, sizes) if shortcuts.thin_layers else {}
    seconds = {layer.second_site for layer in layers.values()}
    plans = []
    for site in sites:
        prefix, chain, layer = f"{PREFIX}{site.name}", chains.get(site.name), layers.get(site.name)
        if chain is None:
            plans.append(SitePlan(site, "batch", prefix))
            continue
        how = "thinned" if site.name in seconds else "weights"
        plan = SitePlan(site, how, prefix, chain, layer, flatten_order(chain, site, sizes))
        in_trunk = nodes[site.name].input[0] in boundary
        if (
            shortcuts.subtract_dropped
            and site.kind in ZEROING_KINDS
            and how == "weights"
            and in_trunk
            and subtraction_pays(site.rate, plan.kept_outputs)
        ):
            plan = replace(plan, how="subtracted")
        plans.append(plan)
    return tuple(plans)
