"""Split an exported graph: what runs once a batch (the trunk) and what runs T times (the head).

In: an `ExportedModel`. Out: an `EnginePlan`, a pure value that can be printed, with the two
graphs to run. Nothing is executed here.

`screen.engine.graph.split` says what belongs where, `screen.engine.graph.sites` how each dropout is run, and
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
from screen.engine.graph.features import GRID, FeaturePlan, add_features, plan_features
from screen.engine.graph.head import build_head
from screen.engine.graph.sites import Shortcuts, SitePlan, plan_sites
from screen.engine.graph.sizes import TensorSizes, count_flops, infer_sizes, largest_bytes
from screen.engine.graph.split import GraphSplit, split_graph
from screen.engine.graph.trunk import BoundaryTensor, build_trunk

PASSES_PER_RUN_MIN = 3
"""With 3 or more, T above 1 can always be cut without a run of a single pass."""

PASSES_PER_RUN_MAX = 32
"""No session run makes more passes: beyond this nothing is gained, and memory is lost."""

_RUN_BYTES = 20 * 2**20
"""What the passes of one run may take, at `_RUN_ROWS` rows. A constant, so that the way in which
T passes are cut into runs, and with it the last bit of a result, follows from the model alone."""

_RUN_ROWS = 64

_LEAST_OPSET = 18

_SHARED_BY = 4

TRUNK_ROWS = 128
"""Rows that the trunk takes at a time at most: its tensors are the largest there are, and more rows do not
make it faster."""

_MASK_COPIES = 3
"""Words, mask and its copy on the device: what an element of a mask takes while it is drawn."""


@dataclass(frozen=True)
class EnginePlan:
    """How an exported model is run: two graphs and their sizes.

    Attributes:
        contract: the model's contract.
        trunk: image to boundary tensors, once a batch.
        head: boundary tensors and masks to reduced statistics, for P passes a run.
        boundary: the tensors between them.
        features: where the trunk's features come from; the trunk gives them if that was asked for.
        sites: how each site is run, in the contract's order.
        statistics: names of the head's outputs.
        passes_per_run: P at most.
        boundary_row_bytes: what one row takes of the boundary, in bytes.
        trunk_row_bytes: what one row takes of the trunk's largest neighbouring tensors, in bytes.
        head_row_bytes: what one row takes in one pass of the head, in bytes.
        head_pass_bytes: what one pass takes apart from rows (masked weights), in bytes.
        masks: `shared` by all rows, or `per-row`.
        weights_folder: where the file is that holds weights which are not in the graphs, if there is one.
        trunk_flops, head_flops: multiply-adds of one row (of one pass) in the graph as it was
            exported, counted twice each.
        once_flops, pass_flops: the same as they are run, once and for each pass.
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
        """Share of one pass' arithmetic that lies before the first site, 0 to 1."""
        return self.trunk_flops / max(1, self.trunk_flops + self.head_flops)

    def relative_cost(self, passes: int) -> float:
        """Arithmetic of T passes relative to one pass of the whole network, by matrix products alone."""
        return (self.once_flops + passes * self.pass_flops) / max(1, self.trunk_flops + self.head_flops)

    def trunk_rows(self, memory: int, workers: int = 1) -> int:
        """How many rows the trunk takes at a time, in at most half of `memory` bytes; at least 2.

        Args:
            memory: bytes.
            workers: how many slices go on at a time.
        """
        return max(2, min(TRUNK_ROWS, memory // 2 // (workers * max(self.trunk_row_bytes, 1))))

    def rows_per_run(self, memory: int, workers: int = 1, boundaries: int = 2) -> int:
        """How many rows may be run together in `memory` bytes; at least 2.

        Args:
            memory: bytes.
            workers: how many runs go on at a time; each has its own trunk slice, then its own head.
            boundaries: how often the boundary of these rows is in memory at most.
        """
        trunk = workers * self.trunk_rows(memory, workers) * self.trunk_row_bytes
        heads = workers * self.passes_per_run * self.head_pass_bytes
        each = boundaries * self.boundary_row_bytes + workers * self.passes_per_run * self.head_row_bytes
        return max(2, (memory - max(trunk, heads)) // max(each, 1))

    def runs(self, passes: int) -> tuple[int, ...]:
        """T passes as runs of nearly equal size, none of a single pass unless T is 1.

        Their number is a multiple of 4 (of 2, where they are few), so that they can be shared evenly by as
        many threads; it must not follow from the number of threads, because the last bit depends on it.
        """
        count = -(-passes // self.passes_per_run)
        multiple = _SHARED_BY if count > _SHARED_BY // 2 else min(count, _SHARED_BY // 2)
        count = min(-(-count // multiple) * multiple, max(1, passes // 2))
        small, larger = divmod(passes, count)
        return (small + 1,) * larger + (small,) * (count - larger)


def plan_engine(
    model: ExportedModel,
    *,
    masks: str = "shared",
    shortcuts: Shortcuts | None = None,
    raw: bool = False,
    features: int = 0,
) -> EnginePlan:
    """Plan how to run an exported model.

    Args:
        model: the model and its contract.
        masks: `shared` (every row sees the same T thinned networks) or `per-row` (independent
            masks for every row; these never go into weights).
        shortcuts: what may be done where it is exact and pays; all by default.
        raw: let the head give every pass instead of statistics.
        features: let the trunk give features, averaged over so many places along each axis; 0: none.

    Raises:
        ContractRefused: the graph does not hold the sites that the contract names, or the passes
            cannot be folded into it.
    """
    _check_sites(model)
    _check_kinds(model)
    _check_flat(model)
    model = _raise_opset(model)
    graph = model.proto.graph
    sizes = infer_sizes(model.proto)
    split = split_graph(graph)
    if shortcuts is None:
        shortcuts = Shortcuts()
    if masks == "per-row":
        shortcuts = replace(shortcuts, masks_in_weights=False)
    sites = plan_sites(graph, model.contract.sites, split.boundary, sizes, shortcuts)
    trunk = build_trunk(graph, split, sites, sizes)
    feature_plan = plan_features(split, sizes, features or GRID)
    if features and feature_plan.tensor:
        add_features(trunk.graph, feature_plan)
    head = build_head(graph, model.contract, split.head, trunk.boundary, sites, sizes, raw=raw)
    chains = [site.chain for site in sites if site.chain is not None]
    head_row_bytes = largest_bytes([n for n in split.head if not any(c.reads_in_place(n) for c in chains)], sizes)
    head_row_bytes += int(sum(site.row_bytes for site in sites))
    if masks == "per-row":
        head_row_bytes += _MASK_COPIES * sum(4 * math.prod(site.noise_shape) for site in model.contract.sites)
    head_pass_bytes = int(sum(site.pass_bytes for site in sites))
    fitting = _RUN_BYTES // max(1, head_pass_bytes + _RUN_ROWS * head_row_bytes)
    once, each = _run_flops(split, sites, sizes)
    return EnginePlan(
        contract=model.contract,
        trunk=_make_part(model.proto, trunk.graph),
        head=_make_part(model.proto, head.graph),
        boundary=trunk.boundary,
        features=feature_plan,
        sites=sites,
        statistics=head.statistics,
        passes_per_run=min(max(fitting, PASSES_PER_RUN_MIN), PASSES_PER_RUN_MAX),
        boundary_row_bytes=sum(tensor.row_bytes for tensor in trunk.boundary),
        trunk_row_bytes=largest_bytes(split.trunk, sizes),
        head_row_bytes=head_row_bytes,
        head_pass_bytes=head_pass_bytes,
        masks=masks,
        trunk_flops=count_flops(split.trunk, sizes),
        head_flops=count_flops(split.head, sizes),
        once_flops=once,
        pass_flops=each,
        weights_folder=model.weights_folder,
    )


def _run_flops(split: GraphSplit, sites: tuple[SitePlan, ...], sizes: TensorSizes) -> tuple[int, int]:
    """Floating point operations of one row as they are run: once, and in each pass."""
    moved = sum(2 * s.chain.inner * s.chain.outer for s in sites if s.chain is not None and s.how == "subtracted")
    chained = {name for site in sites if site.chain is not None for name in site.chain.product.output}
    others = [node for node in split.head if chained.isdisjoint(node.output)]
    each = count_flops(others, sizes) + sum(site.flops for site in sites)
    return count_flops(split.trunk, sizes) + moved, int(each)


def _make_part(model: onnx.ModelProto, graph: onnx.GraphProto) -> onnx.ModelProto:
    """A model of this graph with the operator sets and the IR version of the whole."""
    imports = [entry for entry in model.opset_import if entry.domain != DOMAIN]
    return helper.make_model(graph, opset_imports=imports, ir_version=model.ir_version)


def _raise_opset(model: ExportedModel) -> ExportedModel:
    """The model in an operator set in which every reduction takes its axes as an input, as ours do."""
    found = next(entry.version for entry in model.proto.opset_import if entry.domain in ("", "ai.onnx"))
    if found >= _LEAST_OPSET:
        return model
    plain = onnx.ModelProto()
    plain.CopyFrom(model.proto)
    del plain.functions[:]
    return replace(model, proto=onnx.version_converter.convert_version(plain, _LEAST_OPSET))


def _check_sites(model: ExportedModel) -> None:
    in_graph = {node.name for node in model.proto.graph.node if node.domain == DOMAIN}
    promised = {site.name for site in model.contract.sites}
    if in_graph != promised or not promised:
        raise ContractRefused(
            f"{model.path} promises the dropout sites {sorted(promised)}, but its graph holds {sorted(in_graph)}.",
            wanted="the graph that `oodscreen export` wrote, unchanged",
            next_step="export the model again; tools that optimise ONNX files inline our functions away",
        )


def _check_kinds(model: ExportedModel) -> None:
    unknown = sorted({site.kind for site in model.contract.sites} - {*ZEROING_KINDS, *GAUSSIAN_KINDS, *ALPHA_KINDS})
    if unknown:
        raise ContractRefused(
            f"{model.path} draws noise of a kind that this oodscreen does not know: {', '.join(unknown)}.",
            wanted="a kind of noise for which masks can be drawn",
            next_step="install the version of oodscreen that exported the model, or export it again with this one",
        )


def _check_flat(model: ExportedModel) -> None:
    """Loops and branches read values of the outer graph, which the split does not follow."""
    nested = sorted(
        {
            node.op_type
            for node in model.proto.graph.node
            if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
        }
    )
    if nested:
        raise ContractRefused(
            f"{model.path} has graphs within its graph ({', '.join(nested)}).",
            wanted="a model without loops and branches, such as recurrent layers make",
            next_step="unroll the layer, or replace it, then export again",
        )
