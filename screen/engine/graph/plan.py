"""Plan how an exported model runs: a trunk once for each batch, a head for each of T passes.

In: an `ExportedModel`. Out: an `EnginePlan`, a pure value with the two graphs. No graph is run here.

`screen.engine.graph.split` divides the nodes between trunk and head, `screen.engine.graph.sites` plans each site, and
`screen.engine.graph.trunk` and `screen.engine.graph.head` build the two graphs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import onnx.version_converter
from onnx import helper

from export.contract.metadata import ALPHA_KINDS, DOMAIN, GAUSSIAN_KINDS, ZEROING_KINDS, ModelContract
from export.contract.reader import ExportedModel
from export.errors import ContractRefused
from screen.engine.graph.channels.paths import PASSES, saved_flops
from screen.engine.graph.features.nodes import add_features
from screen.engine.graph.features.plan import FeaturePlan, plan_features
from screen.engine.graph.head import build_head
from screen.engine.graph.silent import keep_last_site
from screen.engine.graph.sites import Shortcuts, SitePlan, plan_sites
from screen.engine.graph.sizes import TensorSizes, count_flops, infer_sizes, largest_bytes
from screen.engine.graph.split import GraphSplit, ancestors, split_graph
from screen.engine.graph.stable import RowStability
from screen.engine.graph.trunk import BoundaryTensor, build_trunk

PASSES_PER_RUN_MIN = 3
"""Lower bound of `passes_per_run`, except for heads that leave out channels: with 3 or more, no T above 1 needs a
session run of a single pass."""

PASSES_PER_RUN_MAX = 32
"""Upper bound of `passes_per_run`; larger session runs are not faster and need more memory."""

_RUN_BYTES = 20 * 2**20
"""Maximum size of the tensors of one session run of the head with `_RUN_ROWS` rows, in bytes; a session run of
`PASSES_PER_RUN_MIN` passes may need more. The size is constant, so that the division of T passes into session runs, and
therefore the last bit of a result, depends on the model and T alone."""

_RUN_ROWS = 64
"""Number of rows to which `_RUN_BYTES` refers."""

_MIN_OPSET = 18
"""Minimum ONNX operator set version of the trunk and the head."""

_RUN_MULTIPLE = 4
"""Multiple to which a number of session runs above 2 is rounded up, so that 4 threads have equal work."""

_MASK_COPIES = 3
"""Number of copies of a mask element in memory while masks are drawn: random word, mask, and mask on the device."""


@dataclass(frozen=True)
class EnginePlan:
    """How an exported model is run: two graphs and their sizes.

    Attributes:
        contract: the model's contract.
        trunk: graph from images to boundary tensors, run once for each batch.
        head: graph from boundary tensors and masks to statistics, run for P passes at a time.
        boundary: the tensors that the trunk outputs and the head reads.
        features: the tensors that serve as features; the trunk outputs their summaries only if requested.
        sites: plans of the sites, in the contract's order.
        statistics: names of the head's outputs.
        passes_per_run: maximum of P, the number of passes in a session run of the head.
        boundary_row_bytes: bytes of one row of the boundary tensors.
        trunk_row_bytes: bytes of one row at the trunk's largest node: inputs, outputs and working space.
        head_row_bytes: bytes of one row in one pass of the head.
        head_pass_bytes: bytes of one pass that do not depend on the rows (masked weights).
        masks: `shared` by all rows, `per-row`, or `none`.
        weights_folder: folder of the external weights file, if the model has one.
        trunk_flops: floating point operations of the trunk for one row, in the exported graph; a multiply-add counts as
            two.
        head_flops: floating point operations of the head for one row and one pass, counted in the same way.
        once_flops, pass_flops: floating point operations for one row in the planned graphs, once and for each pass.
    """

    contract: ModelContract
    trunk: onnx.ModelProto
    head: onnx.ModelProto
    boundary: tuple[BoundaryTensor, ...]
    features: FeaturePlan
    sites: tuple[SitePlan, ...]
    statistics: tuple[str, ...]
    passes_per_run: int
    boundary_row_bytes: int
    trunk_row_bytes: int
    head_row_bytes: int
    head_pass_bytes: int
    masks: str
    trunk_flops: int
    head_flops: int
    once_flops: int
    pass_flops: int
    weights_folder: Path | None = None

    @property
    def trunk_share(self) -> float:
        """The trunk's fraction of the arithmetic of one pass of the exported network, 0 to 1."""
        return self.trunk_flops / max(1, self.trunk_flops + self.head_flops)

    def relative_cost(self, passes: int) -> float:
        """Arithmetic of T planned passes, relative to one pass of the exported network.

        Only matrix products and convolutions are counted.
        """
        return (self.once_flops + passes * self.pass_flops) / max(1, self.trunk_flops + self.head_flops)

    def runs(self, passes: int) -> tuple[int, ...]:
        """Divide T passes into session runs of nearly equal size, and return the number of passes in each.

        The number of session runs is 1, 2 or a multiple of 4, so that 2 or 4 threads have equal work; it is lower if T
        is too small for two passes in each session run. The number does not depend on the number of threads, because
        the last bit of a result depends on the division. No session run has a single pass unless T is 1.

        A head that leaves out channels is an exception: each session run has two passes; if T is odd, the last session
        run has one pass, which is computed twice.
        """
        if self.passes_per_run == PASSES:
            return (PASSES,) * (passes // PASSES) + (1,) * (passes % PASSES)
        count = -(-passes // self.passes_per_run)
        multiple = _RUN_MULTIPLE if count > _RUN_MULTIPLE // 2 else min(count, _RUN_MULTIPLE // 2)
        count = min(-(-count // multiple) * multiple, max(1, passes // 2))
        small, larger = divmod(passes, count)
        return (small + 1,) * larger + (small,) * (count - larger)


def plan_engine(
    model: ExportedModel,
    *,
    masks: str = "shared",
    shortcuts: Shortcuts | None = None,
    raw: bool = False,
    features: bool = False,
) -> EnginePlan:
    """Plan how to run an exported model.

    Args:
        model: the model and its contract.
        masks: `shared` (the same T thinned networks for every row), `per-row` (independent masks for every row, which
            never multiply weights) or `none` (the network without dropout, for one pass).
        shortcuts: optimizations that may be applied; None for all.
        raw: output the values of every pass instead of statistics.
        features: whether the trunk outputs features.

    Raises:
        ContractRefused: the sites of graph and contract differ, a kind of noise is unknown, the graph contains
            subgraphs, or the passes cannot be folded into a batch axis.
    """
    _check_sites(model)
    _check_kinds(model)
    _check_no_subgraphs(model)
    contract = model.contract
    model = _raise_opset(keep_last_site(model) if masks == "none" else model)
    graph = model.proto.graph
    sizes = infer_sizes(model.proto)
    split = split_graph(graph)
    if shortcuts is None:
        shortcuts = Shortcuts()
    if masks != "shared":
        shortcuts = replace(shortcuts, masks_in_weights=False)
    sites = plan_sites(graph, model.contract.sites, split.boundary, sizes, shortcuts, split.head)
    trunk = build_trunk(graph, split, sites, sizes)
    feature_plan = plan_features(graph, sizes, split.trunk)
    trunk_row_bytes = largest_bytes(split.trunk, sizes)
    if features and feature_plan.size:
        add_features(trunk.graph, graph, feature_plan)
        tensors = [one.name for one in (feature_plan.early, feature_plan.penultimate) if one.name]
        # The summary of a tensor needs the tensor, its centred copy and the square of this copy.
        summary_bytes = max(3 * sizes.row_bytes([name]) for name in tensors)
        trunk_row_bytes = max(largest_bytes(ancestors(tensors, graph.node), sizes), trunk_row_bytes, int(summary_bytes))
    stability = RowStability(graph, sizes)
    stable_nodes = [one for node in trunk.graph.node for one in stability.rewrite(node)]
    del trunk.graph.node[:]
    trunk.graph.node.extend(stable_nodes)
    head = build_head(graph, model.contract, split.head, trunk.boundary, sites, sizes, raw=raw)
    chains = [site.chain for site in sites if site.chain is not None]
    head_row_bytes = largest_bytes([n for n in split.head if not any(c.reads_in_place(n) for c in chains)], sizes)
    head_row_bytes += int(sum(site.row_bytes for site in sites))
    if masks == "per-row":
        head_row_bytes += _MASK_COPIES * sum(4 * math.prod(site.noise_shape) for site in model.contract.sites)
    head_pass_bytes = int(sum(site.pass_bytes for site in sites))
    fitting = _RUN_BYTES // max(1, head_pass_bytes + _RUN_ROWS * head_row_bytes)
    once_flops, pass_flops = _planned_flops(split, sites, sizes)
    paths = [site.path for site in sites if site.path is not None]
    pass_flops -= int(saved_flops(paths, sizes))
    return EnginePlan(
        contract=contract,
        trunk=_make_model(model.proto, trunk.graph),
        head=_make_model(model.proto, head.graph),
        boundary=trunk.boundary,
        features=feature_plan,
        sites=sites,
        statistics=head.statistics,
        passes_per_run=PASSES if paths else min(max(fitting, PASSES_PER_RUN_MIN), PASSES_PER_RUN_MAX),
        boundary_row_bytes=sum(tensor.row_bytes for tensor in trunk.boundary),
        trunk_row_bytes=trunk_row_bytes,
        head_row_bytes=head_row_bytes,
        head_pass_bytes=head_pass_bytes,
        masks=masks,
        trunk_flops=count_flops(split.trunk, sizes),
        head_flops=count_flops(split.head, sizes),
        once_flops=once_flops,
        pass_flops=pass_flops,
        weights_folder=model.weights_folder,
    )


def _planned_flops(split: GraphSplit, sites: tuple[SitePlan, ...], sizes: TensorSizes) -> tuple[int, int]:
    """Floating point operations for one row in the planned graphs: once, and for each pass."""
    moved = sum(2 * s.chain.inner * s.chain.outer for s in sites if s.chain is not None and s.method == "subtracted")
    chained = {name for site in sites if site.chain is not None for name in site.chain.product.output}
    others = [node for node in split.head if chained.isdisjoint(node.output)]
    each_pass = count_flops(others, sizes) + sum(site.flops for site in sites)
    return count_flops(split.trunk, sizes) + moved, int(each_pass)


def _make_model(model: onnx.ModelProto, graph: onnx.GraphProto) -> onnx.ModelProto:
    """A model of a graph, with the operator sets and the IR version of the exported model."""
    imports = [entry for entry in model.opset_import if entry.domain != DOMAIN]
    return helper.make_model(graph, opset_imports=imports, ir_version=model.ir_version)


def _raise_opset(model: ExportedModel) -> ExportedModel:
    """The model in operator set 18 or later, where the axes of a reduction are an input, as in the head."""
    found = next(entry.version for entry in model.proto.opset_import if entry.domain in ("", "ai.onnx"))
    if found >= _MIN_OPSET:
        return model
    plain = onnx.ModelProto()
    plain.CopyFrom(model.proto)
    del plain.functions[:]
    return replace(model, proto=onnx.version_converter.convert_version(plain, _MIN_OPSET))


def _check_sites(model: ExportedModel) -> None:
    in_graph = {node.name for node in model.proto.graph.node if node.domain == DOMAIN}
    in_contract = {site.name for site in model.contract.sites}
    if in_graph != in_contract or not in_contract:
        raise ContractRefused(
            f"The contract of {model.path} lists the dropout sites {sorted(in_contract)}, "
            f"but its graph contains {sorted(in_graph)}.",
            wanted="the graph that `oodscreen export` wrote, unchanged",
            next_step="export the model again and leave the file unchanged; a tool that optimizes ONNX files may have "
            "inlined the functions that mark dropout sites",
        )


def _check_kinds(model: ExportedModel) -> None:
    unknown = sorted({site.kind for site in model.contract.sites} - {*ZEROING_KINDS, *GAUSSIAN_KINDS, *ALPHA_KINDS})
    if unknown:
        raise ContractRefused(
            f"{model.path} uses a kind of noise that this version of oodscreen does not support: {', '.join(unknown)}.",
            wanted="dropout, Gaussian dropout or alpha dropout",
            next_step="install the version of oodscreen that exported the model, or export the model with this version",
        )


def _check_no_subgraphs(model: ExportedModel) -> None:
    """Refuse loops and branches: their subgraphs may read values of the outer graph, which `split_graph` ignores."""
    nested = sorted(
        {
            node.op_type
            for node in model.proto.graph.node
            if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
        }
    )
    if nested:
        raise ContractRefused(
            f"The graph of {model.path} contains subgraphs ({', '.join(nested)}).",
            wanted="a model without branches and loops; a recurrent layer is a loop, unless it is unrolled",
            next_step="unroll or replace the layers with loops or branches, then export the model again",
        )
