"""`oodscreen inspect`: a model's contract, and the engine's plan for its passes; or the properties of a calibration.

In: an exported file and a `RunConfig`, or a calibration. Out: an `Inspection` or a `CalibrationInspection`, as text or
JSON. The model is not run.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from export.contract.metadata import ModelContract
from export.contract.reader import read_model
from screen.config import RunConfig
from screen.cores import usable_cores
from screen.decide.calibration import Calibration, has_signature, read_calibration
from screen.decide.request import describe_lines, describe_values
from screen.engine.device.provider import CPU_MEMORY
from screen.engine.graph.plan import plan_engine
from screen.engine.run_sizes import least_memory, size_runs
from screen.files.paths import as_path, name_place
from screen.settings.passes import count_passes

_MIB = 2**20


@dataclass(frozen=True)
class Inspection:
    """A model's contract, and the plan of its passes for one configuration.

    Attributes:
        model: path of the file.
        digest: SHA-256 of the bytes of the file.
        contract: the model's contract.
        boundary: the tensors between trunk and head, with the shape of one row.
        features: for each group of features, the tensor from which the features are computed.
        features_cost: arithmetic of the features, computed once for each row, as a share of the arithmetic of T passes
            of the exported network.
        sites: method by which the masks of a site are applied, by the name of the site: `batch`, `weights`,
            `subtracted`, `compacted` or `channels`; empty if the masks are `none`.
        trunk_share: share of the arithmetic of one pass that precedes the first dropout site.
        passes: number of passes, T.
        passes_per_run: number of passes in one session run.
        rows_per_run: maximum number of rows in one session run, limited by `memory`.
        memory: maximum size of the tensors of all concurrent session runs, in MiB; at least the size for two rows.
        relative_cost: arithmetic of T passes, as a multiple of the arithmetic of one pass through the whole network.
    """

    model: str
    digest: str
    contract: ModelContract
    boundary: dict[str, tuple[int, ...]]
    features: dict[str, str]
    features_cost: float
    sites: dict[str, str]
    trunk_share: float
    passes: int
    passes_per_run: int
    rows_per_run: int
    memory: int
    relative_cost: float

    def to_json(self) -> str:
        """One line of JSON, without the digests of the rows on which a dropout rate was chosen."""
        values = asdict(self)
        (values["contract"]["rate_choice"] or {}).pop("digests", None)
        return json.dumps(values)

    def to_text(self) -> str:
        """A readable report."""
        methods = {
            "weights": "masks multiply the weights of the following layer",
            "subtracted": "the product of the dropped units is subtracted from the product of all units",
            "compacted": "only the kept units are computed",
            "channels": "the convolutions leave out the dropped channels",
            "batch": "passes are folded into the batch axis",
        }
        boundary = ", ".join(f"{name} [B, {', '.join(map(str, shape))}]" for name, shape in self.boundary.items())
        lines = [
            f"{self.model}  sha256 {self.digest[:16]}",
            self.contract.describe(),
            f"  trunk          once for all passes: {self.trunk_share:.1%} of the arithmetic",
            f"  boundary       {boundary}",
            *(f"  features       {group}: {tensor}" for group, tensor in self.features.items()),
            f"                 the features cost {self.features_cost:.1%} of the arithmetic of "
            f"{count_passes(self.passes, 'whole ')}",
            f"  head           once for each pass: {1 - self.trunk_share:.1%} of the arithmetic",
        ]
        lines += [f"                 {name}: {methods[how]}" for name, how in self.sites.items()]
        lines += [
            f"  session run    {count_passes(self.passes_per_run)} over up to {self.rows_per_run} rows in "
            f"{self.memory} MiB",
            f"  cost           {count_passes(self.passes)} take{'s' if self.passes == 1 else ''} "
            f"{self.relative_cost:.2f} times the arithmetic of one pass",
        ]
        return "\n".join(lines)


def inspect_model(path: str | Path, config: RunConfig) -> Inspection:
    """Read a model and plan its passes.

    Raises:
        ContractRefused: the file was not written by `oodscreen export`, or the engine cannot plan the passes.
    """
    model = read_model(as_path(path))
    settings = config.settings()
    plan = plan_engine(model, masks=settings.masks)
    threads = config.threads or usable_cores()
    memory = CPU_MEMORY if config.memory is None else config.memory * _MIB
    return Inspection(
        model=name_place(path),
        digest=model.digest,
        contract=model.contract,
        boundary={tensor.name: tensor.shape for tensor in plan.boundary},
        features=dict(plan.features.describe()),
        features_cost=plan.features.flops / max(1, settings.passes * (plan.trunk_flops + plan.head_flops)),
        sites={} if settings.masks == "none" else {site.site.name: site.method for site in plan.sites},
        trunk_share=plan.trunk_share,
        passes=settings.passes,
        passes_per_run=min(plan.passes_per_run, settings.passes),
        rows_per_run=size_runs(plan, memory, threads).head_rows,
        memory=max(memory // _MIB, -(-least_memory(plan) // _MIB)),
        relative_cost=plan.relative_cost(settings.passes),
    )


@dataclass(frozen=True)
class CalibrationInspection:
    """The properties of a calibration.

    Attributes:
        path: path of the file.
        calibration: the calibration in this file.
    """

    path: str
    calibration: Calibration

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps({"calibration": self.path, **describe_values(self.calibration)})

    def to_text(self) -> str:
        """A readable report."""
        head = f"{self.path}  sha256 {self.calibration.digest[:16]}"
        return "\n".join([head, *describe_lines(self.calibration)])


def inspect_file(path: str, config: RunConfig) -> Inspection | CalibrationInspection:
    """Inspect a file that is an exported model or a calibration.

    Raises:
        ContractRefused: the file is neither a calibration nor an exported model, or the engine cannot plan the passes.
        CalibrationRefused: the file is a damaged calibration, or a calibration of another version.
    """
    if has_signature(path):
        return CalibrationInspection(name_place(path), read_calibration(path))
    return inspect_model(path, config)
