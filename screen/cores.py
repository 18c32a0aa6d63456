"""The number of CPU cores that this process may use, the default number of threads.

In: the process's CPU affinity, the CPU quotas of its control groups (version 1 or 2), and `OMP_NUM_THREADS`. Out: the
smallest of these numbers. A container's quota (`docker run --cpus 2`, a Kubernetes limit) changes neither the affinity
nor `os.cpu_count`: with one thread for each core of the machine, the kernel would stop all threads most of the time.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

_PROC = Path("/proc/self")


def usable_cores() -> int:
    """Number of CPU cores that this process may use, at least 1; a quota of 1.5 cores counts as 2."""
    quotas = (math.ceil(quota) for quota in cpu_quotas())
    return max(1, min([available_cores(), *quotas, *requested_threads(os.environ)]))


def available_cores() -> int:
    """Number of CPU cores in the process's affinity; on systems without affinity, the cores of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def requested_threads(environment: Mapping[str, str]) -> list[int]:
    """The first value of `OMP_NUM_THREADS`, as a list of one number; empty if this value is not from 1 to 999999."""
    first = environment.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return [int(first)] if re.fullmatch("[0-9]{1,6}", first) and int(first) else []


def cpu_quotas(proc: Path = _PROC) -> list[float]:
    """CPU quotas of the process's control groups and of all groups above them, in cores; empty without a quota.

    Args:
        proc: folder of the process in the file system `proc`; tests give a copy of this folder.
    """
    try:
        groups = (proc / "cgroup").read_text().splitlines()
        mounts = [line.split(" - ", 1) for line in (proc / "mountinfo").read_text().splitlines()]
    except (OSError, ValueError):  # not Linux, or no access
        return []
    quotas: list[float] = []
    for before, after in (mount for mount in mounts if len(mount) == 2):
        fields, kind = before.split(" "), after.split(" ")[0]
        controllers = after.split(" ")[-1].split(",")
        if len(fields) < 5 or kind not in ("cgroup", "cgroup2") or (kind == "cgroup" and "cpu" not in controllers):
            continue
        root, mount = _unescape(fields[3]), _unescape(fields[4])
        for group in _groups(groups, "" if kind == "cgroup2" else "cpu"):
            for folder in _folders(group, root, Path(mount)):
                quota = _quota_2(folder) if kind == "cgroup2" else _quota_1(folder)
                if quota is not None:
                    quotas.append(quota)
    return quotas


def _groups(lines: list[str], controller: str) -> Iterator[str]:
    """Paths of the process's groups in the hierarchy of a controller; "" stands for the hierarchy of version 2."""
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            yield path


def _folders(group: str, root: str, mount: Path) -> list[Path]:
    """Folders of a group and of the groups above it, up to the mounted group.

    In a container without its own namespace for groups, the path of the group begins with the root of the mount. If the
    group is not below the root, only the mounted group can be read.
    """
    path = PurePosixPath(group)
    below = path.relative_to(root) if path.is_relative_to(root) else PurePosixPath()
    folder = mount / below
    return [mount] if ".." in below.parts else [folder, *(one for one in folder.parents if one.is_relative_to(mount))]


def _quota_2(folder: Path) -> float | None:
    """Quota of a group of version 2 in cores, from `cpu.max`: "QUOTA PERIOD" in microseconds, or "max PERIOD"."""
    values = _numbers(folder / "cpu.max")
    return values[0] / values[1] if len(values) == 2 and min(values) > 0 else None


def _quota_1(folder: Path) -> float | None:
    """Quota of a group of version 1 in cores, from `cpu.cfs_quota_us` (-1: no quota) and `cpu.cfs_period_us`."""
    values = _numbers(folder / "cpu.cfs_quota_us") + _numbers(folder / "cpu.cfs_period_us")
    return values[0] / values[1] if len(values) == 2 and min(values) > 0 else None


def _numbers(file: Path) -> list[int]:
    """The whole numbers in a file; empty if the file cannot be read or contains anything else."""
    try:
        return [int(word) for word in file.read_text().split()]
    except (OSError, ValueError):
        return []


def _unescape(text: str) -> str:
    r"""The path in a field of mountinfo, where a space is written as `\040`."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
