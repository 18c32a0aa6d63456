"""Choose the method by which each site is run, and convert masks into inputs of the head.

In: a graph, its contract and its boundary. Out: a `SitePlan` for each site, with the names of the head's inputs for the
site's masks, and a method that computes the values of these inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from export.contract.metadata import ALPHA_KINDS, DOMAIN, ZEROING_KINDS, Site
from screen.engine.graph.builder import PREFIX
from screen.engine.graph.channels.paths import ChannelPath, choose_channels, find_channel_paths
from screen.engine.graph.compaction import CompactedLayer, choose_units, find_compactable_layers
from screen.engine.graph.sizes import TensorSizes
from screen.engine.graph.subtraction import choose_dropped, subtraction_pays
from screen.engine.graph.weights import WeightChain, find_weight_chain, mask_indices

Array = NDArray[np.float32] | NDArray[np.int64]


@dataclass(frozen=True)
class Shortcuts:
    """Optimizations that the planner may apply where they are mathematically exact and faster.

    Attributes:
        masks_in_weights: multiply weights by masks; otherwise every site has the method `batch`, and the other
            optimizations do not apply.
        compact_layers: compute only the units that the next site keeps.
        subtract_dropped: compute a product once, and for each pass subtract the part of the dropped features.
        leave_out_channels: leave out the channels that a site drops from the convolutions around it.
    """

    masks_in_weights: bool = True
    compact_layers: bool = True
    subtract_dropped: bool = True
    leave_out_channels: bool = True


@dataclass(frozen=True)
class SitePlan:
    """How one site is run.

    Attributes:
        site: name, kind, rate and shapes, from the contract.
        method: one of
            `batch` (the passes are folded into the batch axis, and the mask multiplies the data);
            `weights` (the mask multiplies the weights behind the site, and the boundary is never copied);
            `subtracted` (the product of the dropped features is subtracted from the full product, see
            `screen.engine.graph.subtraction`);
            `compacted` (as `weights`, and the preceding layer is computed only for the units that this
            site keeps, see `screen.engine.graph.compaction`);
            `channels` (the convolutions around the site leave out the dropped channels, see
            `screen.engine.graph.channels`).
        prefix: prefix of the names of the site's tensors.
        chain: the nodes from the site to its product; None for `batch` and `channels`.
        layer: the layer between this site and the next site, if it is compacted; else None.
        path: the nodes around the site that are computed for its kept channels alone, for `channels`; else None.
        indices: index into the flattened mask for each feature of the product, `[F]`; None without `chain`.
    """

    site: Site
    method: str
    prefix: str
    chain: WeightChain | None = None
    layer: CompactedLayer | None = None
    path: ChannelPath | None = None
    indices: NDArray[np.int64] | None = field(default=None, compare=False, repr=False)

    @property
    def mask(self) -> str:
        """Name of the head's input for the mask.

        `[P, 1 or B, *noise_shape]` for `batch`, `[P, F]` for `weights`, `[P, K]` for `compacted`, `[P, C]` for
        `channels`.
        """
        return f"{self.prefix}/mask"

    @property
    def units(self) -> str:
        """Name of the input with the indices of the kept units, `int64 [P, K]`, for `compacted`."""
        return f"{self.prefix}/units"

    @property
    def channels(self) -> str:
        """Name of the input with the indices of the channels, kept channels first, `int64 [P, C]`, for `channels`."""
        return f"{self.prefix}/channels"

    @property
    def count(self) -> str:
        """Name of the input with the number of channels to compute, `int64 [P]`, for `channels`."""
        return f"{self.prefix}/count"

    @property
    def dropped(self) -> str:
        """Name of the input with the indices of the dropped features, `int64 [P, D]`, for `subtracted`."""
        return f"{self.prefix}/dropped"

    @property
    def scale(self) -> str:
        """Name of the input with the factors for the weights of the dropped features, `[P, D]`, for `subtracted`."""
        return f"{self.prefix}/scale"

    @property
    def features(self) -> str:
        """Name of the boundary tensor with the transposed input of the product, `[F, B]`, for `subtracted`."""
        return f"{self.prefix}/features"

    @property
    def full_product(self) -> str:
        """Name of the boundary tensor with the full product, divided by the keep rate, `[B, H]`, for `subtracted`."""
        return f"{self.prefix}/whole"

    @property
    def kept_outputs(self) -> float:
        """Mean number of outputs of the site's product that a pass computes; 0 without `chain`."""
        if self.chain is None:
            return 0
        return self.chain.outer * (1 - self.layer.second_rate if self.layer else 1)

    @property
    def used_features(self) -> float:
        """Mean number of features of the site's product that a pass multiplies; 0 without `chain`."""
        if self.chain is None:
            return 0
        share = {"subtracted": self.site.rate, "compacted": 1 - self.site.rate}.get(self.method, 1)
        return self.chain.inner * share

    @property
    def flops(self) -> float:
        """Floating point operations of the site's product for one row in one pass; 0 without `chain`."""
        return 2 * self.used_features * self.kept_outputs

    @property
    def row_bytes(self) -> float:
        """Bytes of one row in one pass for gathered features and their product; 0 unless `subtracted`."""
        return 4 * (self.used_features + 2 * self.kept_outputs) if self.method == "subtracted" else 0

    @property
    def pass_bytes(self) -> float:
        """Bytes of one pass for the weights derived from the constant weight; 0 without `chain`."""
        if self.chain is None:
            return 0
        outputs = {"subtracted": self.chain.outer + 2 * self.kept_outputs, "weights": 2 * self.kept_outputs}
        return 4 * self.used_features * outputs.get(self.method, 2 * self.chain.outer)

    @property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """The head's inputs for this site."""
        make, types = onnx.helper.make_tensor_value_info, onnx.TensorProto
        if self.method == "batch":
            return [make(self.mask, types.FLOAT, ["P", None, *self.site.noise_shape])]
        if self.method == "subtracted":
            return [make(self.dropped, types.INT64, ["P", None]), make(self.scale, types.FLOAT, ["P", None])]
        mask = make(self.mask, types.FLOAT, ["P", None])
        if self.method == "channels":
            return [mask, make(self.channels, types.INT64, ["P", None]), make(self.count, types.INT64, ["P"])]
        return [make(self.units, types.INT64, ["P", None]), mask] if self.method == "compacted" else [mask]

    def feed(self, masks: NDArray[np.float32]) -> dict[str, Array]:
        """Values of `inputs` by name, from masks `[P, 1, *noise_shape]` (for `batch` also `[P, B, *noise_shape]`)."""
        if self.method == "channels":
            channels, kept, count = choose_channels(masks.reshape(len(masks), -1))
            return {self.channels: channels, self.mask: kept, self.count: count}
        if self.indices is None:
            return {self.mask: masks}
        flat = masks.reshape(len(masks), -1)[:, self.indices]
        if self.method == "subtracted":
            dropped, scale = choose_dropped(flat, self.site.rate)
            return {self.dropped: dropped, self.scale: scale}
        if self.method == "compacted":
            units, kept = choose_units(flat)
            return {self.units: units, self.mask: kept}
        return {self.mask: flat}


def plan_sites(
    graph: onnx.GraphProto,
    sites: Sequence[Site],
    boundary: Sequence[str],
    sizes: TensorSizes,
    shortcuts: Shortcuts,
    head: Sequence[onnx.NodeProto],
) -> tuple[SitePlan, ...]:
    """Plan how each site is run; the plans are in the contract's order.

    Args:
        graph: the exported graph.
        sites: the sites in the model's contract.
        boundary: names of the trunk values that the head reads.
        sizes: shapes of the graph's values.
        shortcuts: optimizations that may be applied.
        head: the nodes that are run in every pass.
    """
    nodes = {node.name: node for node in graph.node if node.domain == DOMAIN}
    chains: dict[str, WeightChain] = {}
    if shortcuts.masks_in_weights:
        affine = {site.name for site in sites if site.kind in ALPHA_KINDS}
        found = {name: find_weight_chain(graph, node, sizes) for name, node in nodes.items() if name not in affine}
        chains = {name: chain for name, chain in found.items() if chain is not None}
    layers = find_compactable_layers(graph, sites, chains, sizes) if shortcuts.compact_layers else {}
    may_leave_out = shortcuts.masks_in_weights and shortcuts.leave_out_channels
    paths = find_channel_paths(graph, sites, sizes, head) if may_leave_out else {}
    seconds = {layer.second_site for layer in layers.values()}
    plans = []
    for site in sites:
        prefix, chain, layer = f"{PREFIX}{site.name}", chains.get(site.name), layers.get(site.name)
        if chain is None:
            path = paths.get(site.name)
            plans.append(SitePlan(site, "channels" if path else "batch", prefix, path=path))
            continue
        method = "compacted" if site.name in seconds else "weights"
        plan = SitePlan(site, method, prefix, chain, layer, indices=mask_indices(chain, site, sizes))
        in_trunk = nodes[site.name].input[0] in boundary
        if (
            shortcuts.subtract_dropped
            and site.kind in ZEROING_KINDS
            and method == "weights"
            and in_trunk
            and subtraction_pays(site.rate, plan.kept_outputs)
        ):
            plan = replace(plan, method="subtracted")
        plans.append(plan)
    return tuple(plans)
