"""Rows and number of concurrent session runs that fit into a memory limit.

In: a plan, `--memory` and the number of threads. Out: `RunSizes`. All threads share one boundary. Where memory does not
suffice for a session run in each thread, fewer runs are concurrent: a run with too few rows spends most of its time on
work that does not depend on the rows. On the CPU, no result depends on these sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from screen.engine.graph.plan import EnginePlan
from screen.engine.runs import MIN_FED

TRUNK_ROWS = 128
"""Maximum rows per trunk slice: the trunk has the largest tensors, and more rows do not make it faster."""

_RUN_FLOPS = 4 * 10**8
"""Floating point operations of a session run below which the overhead of the run is more than about 10 %."""

_ROWS_PER_PASS_FLOP = 64
"""Factor in the number of rows per session run: factor x bytes of masked weights / floating point operations for a row.
With this number of rows, masking the weights takes at most about a quarter of the run (measured with 2 to 1,024
rows)."""

_MOST_ROWS_NEEDED = 512
"""Upper bound of the number of rows that a session run of the head needs to be efficient."""

_GPU_FLOPS = 2 * 10**11
"""Floating point operations of a trunk slice on a GPU: about 10 ms on a large GPU (an estimate, not a measurement)."""

_LEAST_GPU_ROWS, _MOST_GPU_ROWS = 32, 1024
"""Lower and upper bound of the number of rows in a session run on a GPU, if memory suffices."""


@dataclass(frozen=True)
class RunSizes:
    """Rows and concurrency of session runs.

    Attributes:
        rows: maximum rows whose boundary is in memory at the same time.
        trunk_rows: maximum rows per trunk slice.
        trunk_runs: maximum number of concurrent trunk slices.
        head_rows: maximum rows in a session run of the head.
        head_runs: maximum number of concurrent session runs of the head.
        trunk_least, head_least: minimum rows per slice where a batch is cut only to use more threads.
        padded: number of rows to which the rows of every session run are padded.
    """

    rows: int
    trunk_rows: int
    trunk_runs: int
    head_rows: int
    head_runs: int
    trunk_least: int
    head_least: int
    padded: int = MIN_FED

    def limit(self, rows: int) -> RunSizes:
        """The sizes with at most this number of rows in memory at the same time."""
        return replace(self, rows=rows, head_rows=min(rows, self.head_rows), padded=min(rows, self.padded))

    def trunk_slices(self, rows: int) -> int:
        """Number of trunk slices for a number of rows."""
        return _slices(rows, self.trunk_rows, self.trunk_runs, self.trunk_least)

    def head_slices(self, rows: int, runs: int) -> int:
        """Number of slices for a number of rows, if each slice takes `runs` session runs of the head."""
        return _slices(rows, self.head_rows, -(-self.head_runs // runs), self.head_least)


def size_runs(plan: EnginePlan, memory: int, workers: int = 1, boundary_copies: int = 2) -> RunSizes:
    """The sizes with which the tensors of all concurrent session runs need at most `memory`.

    A session run has at least two rows, even if these need more memory.

    Args:
        plan: plan of the model.
        memory: maximum size of the tensors of all concurrent session runs, in bytes.
        workers: number of threads, each with at most one session run at a time.
        boundary_copies: maximum number of copies of the rows' boundary in memory.
    """
    trunk_row = max(plan.trunk_row_bytes, 1)
    head_row = max(plan.head_row_bytes, 1)
    passes = plan.passes_per_run
    trunk_needed = min(TRUNK_ROWS, max(2, _RUN_FLOPS // max(plan.once_flops, 1)))
    by_masking = _ROWS_PER_PASS_FLOP * plan.head_pass_bytes // max(plan.pass_flops, 1)
    by_work = _RUN_FLOPS // max(passes * plan.pass_flops, 1)
    head_needed = min(_MOST_ROWS_NEEDED, max(2, by_masking, by_work if by_masking else by_work // 4))
    trunk_runs = min(workers, max(1, memory // 2 // (trunk_needed * trunk_row)))
    trunk_rows = max(2, min(TRUNK_ROWS, memory // 2 // (trunk_runs * trunk_row)))
    head_run = passes * (plan.head_pass_bytes + head_needed * head_row)
    head_runs = min(workers, max(1, (memory - memory // 4) // max(head_run, 1)))
    boundary_row = max(boundary_copies * plan.boundary_row_bytes, 1)
    fixed = max(trunk_runs * trunk_rows * trunk_row, head_runs * passes * plan.head_pass_bytes)
    rows = head_rows = (memory - fixed) // (boundary_row + head_runs * passes * head_row)
    shared = memory // 4 // boundary_row
    if workers > 1 and rows < shared:  # several slices of one boundary
        rows = shared
        head_rows = ((memory - rows * boundary_row) // (head_runs * passes) - plan.head_pass_bytes) // head_row
    rows = max(2, rows)
    return RunSizes(
        rows=rows,
        trunk_rows=trunk_rows,
        trunk_runs=trunk_runs,
        head_rows=min(rows, max(2, head_rows)),
        head_runs=head_runs,
        trunk_least=max(2, trunk_needed // 2),
        head_least=max(2, head_needed // 2),
    )


def size_gpu_runs(plan: EnginePlan, memory: int, boundary_copies: int = 2) -> RunSizes:
    """The sizes for a GPU: one session run at a time, and the same number of rows B in every run.

    Inputs of other shapes would use other kernels, which round differently, and cuDNN would choose an algorithm for
    each new shape. B is a power of two.

    Args:
        plan: plan of the model.
        memory: maximum size of the tensors of a session run, in bytes.
        boundary_copies: maximum number of copies of the rows' boundary in memory.
    """
    passes = plan.passes_per_run
    row = max(plan.trunk_row_bytes, passes * plan.head_row_bytes, 1) + boundary_copies * plan.boundary_row_bytes
    fitting = (memory - passes * plan.head_pass_bytes) // row
    needed = _GPU_FLOPS // max(plan.once_flops, 1)
    most = max(MIN_FED, min(fitting, max(needed, _LEAST_GPU_ROWS), _MOST_GPU_ROWS))
    rows = 2 ** (most.bit_length() - 1)
    return RunSizes(rows, rows, 1, rows, 1, rows, rows, padded=rows)


def least_memory(plan: EnginePlan, boundary_copies: int = 2) -> int:
    """Size in bytes of the tensors of one session run with two rows, the minimum number of rows."""
    heads = plan.passes_per_run * plan.head_pass_bytes
    row = boundary_copies * plan.boundary_row_bytes + plan.passes_per_run * plan.head_row_bytes
    return max(2 * plan.trunk_row_bytes, heads) + 2 * row


def _slices(rows: int, most: int, concurrent: int, least: int) -> int:
    """Number of slices of at most `most` rows; slices made only to use more threads have at least `least` rows."""
    return max(-(-rows // most), min(concurrent, rows // least), 1)
