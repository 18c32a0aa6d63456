"""The default number of threads: affinity, quotas of control groups (fake files and, where possible, a real group)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from screen import cores

_PERIOD = 100_000


def fake_proc(folder: Path, cgroup: str, mounts: list[str]) -> Path:
    """A folder with fake files `cgroup` and `mountinfo` of a process."""
    proc = folder / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(cgroup)
    (proc / "mountinfo").write_text("".join(f"{line}\n" for line in mounts))
    return proc


def mount_2(folder: Path, root: str = "/") -> str:
    """A line of mountinfo for a hierarchy of version 2, with an optional field before the dash."""
    escaped = str(folder).replace(" ", r"\040")
    return f"31 23 0:28 {root} {escaped} rw,relatime shared:4 - cgroup2 cgroup2 rw"


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


@pytest.mark.parametrize(
    ("outer", "inner", "wanted"),
    [
        (f"max {_PERIOD}", f"150000 {_PERIOD}", [1.5]),
        (f"200000 {_PERIOD}", f"400000 {_PERIOD}", [4.0, 2.0]),
        ("max", "nonsense", []),
    ],
)
def test_fake_files_of_version_2_give_the_quotas_of_a_group_and_of_those_above(
    tmp_path: Path, outer: str, inner: str, wanted: list[float]
) -> None:
    mounted = tmp_path / "a folder"
    write(mounted / "outer", cpu__max=outer)
    write(mounted / "outer" / "inner", cpu__max=inner)
    assert cores.cpu_quotas(fake_proc(tmp_path, "0::/outer/inner\n", [mount_2(mounted)])) == wanted


def test_fake_files_of_version_1_give_the_quota_of_the_cpu_controller(tmp_path: Path) -> None:
    mounted = tmp_path / "cpu"
    write(mounted / "docker" / "a", cpu__cfs_quota_us="250000", cpu__cfs_period_us=str(_PERIOD))
    write(mounted / "docker", cpu__cfs_quota_us="-1", cpu__cfs_period_us=str(_PERIOD))
    line = f"33 30 0:30 / {mounted} rw - cgroup cgroup rw,cpu,cpuacct"
    other = f"34 30 0:31 / {tmp_path} rw - cgroup cgroup rw,memory"
    proc = fake_proc(tmp_path, "4:memory:/x\n1:cpu,cpuacct:/docker/a\n0::/\n", [other, line])
    assert cores.cpu_quotas(proc) == [2.5]


@pytest.mark.parametrize("group", ["/docker/a", "/", "/../other"])
def test_fake_files_of_a_container_give_the_quota_of_the_mounted_group(tmp_path: Path, group: str) -> None:
    """Docker mounts the container's own group, whose path in `cgroup` may be that of the host."""
    write(tmp_path / "mounted", cpu__max=f"300000 {_PERIOD}")
    proc = fake_proc(tmp_path, f"0::{group}\n", [mount_2(tmp_path / "mounted", "/docker/a")])
    assert cores.cpu_quotas(proc) == [3.0]


def test_a_system_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert cores.cpu_quotas(tmp_path) == []
    assert cores.cpu_quotas(fake_proc(tmp_path, "damaged\n", ["damaged", "1 2 - cgroup2"])) == []


@pytest.mark.parametrize(
    ("value", "wanted"),
    [("4", [4]), (" 4,2", [4]), ("", []), ("0", []), ("-1", []), ("many", []), ("1.5", []), ("9" * 30, [])],
)
def test_the_first_number_of_omp_num_threads_counts_and_nonsense_does_not(value: str, wanted: list[int]) -> None:
    assert cores.requested_threads({"OMP_NUM_THREADS": value}) == wanted
    assert cores.requested_threads({}) == []


@pytest.mark.parametrize(
    ("available", "quotas", "threads", "wanted"),
    [(8, [], "", 8), (8, [2.5, 4.0], "", 3), (8, [2.5], "2", 2), (8, [0.1], "", 1), (2, [7.5], "64", 2)],
)
def test_the_smallest_number_counts_and_a_fraction_is_rounded_up(
    monkeypatch: pytest.MonkeyPatch, available: int, quotas: list[float], threads: str, wanted: int
) -> None:
    monkeypatch.setattr(cores, "available_cores", lambda: available)
    monkeypatch.setattr(cores, "cpu_quotas", lambda: quotas)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert cores.usable_cores() == wanted


@pytest.fixture
def real_group() -> Iterator[tuple[Path, str]]:
    """A real control group with a quota of half a core, and the name of the file that takes processes."""
    for mounted, quota in (("/sys/fs/cgroup", f"50000 {_PERIOD}"), ("/sys/fs/cgroup/cpu", "50000")):
        group = Path(mounted) / f"oodscreen-test-{os.getpid()}"
        file = group / ("cpu.cfs_quota_us" if mounted.endswith("cpu") else "cpu.max")
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if file.exists():
                file.write_text(quota)
                yield group, "cgroup.procs"
                return
        except OSError:
            continue
        finally:
            group.rmdir()
    pytest.skip("this machine lets the tests create no control group with a CPU quota")


def test_the_quota_of_a_real_control_group_is_found(real_group: tuple[Path, str]) -> None:
    group, processes = real_group
    code = (
        f"import os; open({str(group / processes)!r}, 'w').write(str(os.getpid()));"
        "from screen.cores import cpu_quotas, usable_cores; print(min(cpu_quotas()), usable_cores())"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if "PermissionError" in ended.stderr:
        pytest.skip("this machine lets the tests move no process into a control group")
    assert ended.stdout.split() == ["0.5", "1"], ended.stderr
