"""Control groups are read from real files, laid out as the kernel lays them out under different container engines."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tilework.utils.devices import (
    available_cpu_count,
    available_cpus,
    available_memory,
    cgroup_cpu_limit,
    detect,
    has_cupy,
)

if TYPE_CHECKING:
    from pathlib import Path

V2 = "30 23 0:26 {root} {point} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "33 31 0:30 {root} {point} rw,nosuid master:11 - cgroup cgroup rw,cpu,cpuacct"
OTHER = (
    "35 31 0:31 / /sys/fs/cgroup/memory rw shared:5 - cgroup cgroup rw,memory\n22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
)


def make_root(root: Path, mountinfo: str, cgroup: str, files: dict[str, str]) -> Path:
    proc = root / "proc" / "self"
    proc.mkdir(parents=True)
    (proc / "mountinfo").write_text(OTHER + mountinfo + "\n")
    (proc / "cgroup").write_text(cgroup)
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def v2(root: str = "/", point: str = "/sys/fs/cgroup") -> str:
    return V2.format(root=root, point=point)


def v1(root: str = "/", point: str = "/sys/fs/cgroup/cpu,cpuacct") -> str:
    return V1.format(root=root, point=point)


def test_version_2_container_with_its_own_namespace(tmp_path: Path) -> None:
    root = make_root(tmp_path, v2(), "0::/\n", {"sys/fs/cgroup/cpu.max": "250000 100000\n"})
    assert cgroup_cpu_limit(root) == 2.5


def test_version_2_the_tightest_group_up_to_the_top_counts(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/user.slice/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/user.slice/job/cpu.max": "max 100000\n",
        "sys/fs/cgroup/user.slice/job/step/cpu.max": "400000 100000\n",
        "sys/fs/cgroup/user.slice/other/cpu.max": "1000 100000\n",
    }
    root = make_root(tmp_path, v2(), "0::/user.slice/job/step\n", files)
    assert cgroup_cpu_limit(root) == 1.5


@pytest.mark.parametrize("content", ["max 100000\n", "", "nonsense", "0 0\n", "-1 100000"])
def test_version_2_without_a_limit(tmp_path: Path, content: str) -> None:
    assert cgroup_cpu_limit(make_root(tmp_path, v2(), "0::/\n", {"sys/fs/cgroup/cpu.max": content})) is None


def test_version_1_host(tmp_path: Path) -> None:
    folder = "sys/fs/cgroup/cpu,cpuacct/docker/abc/"
    files = {folder + "cpu.cfs_quota_us": "50000\n", folder + "cpu.cfs_period_us": "100000\n"}
    root = make_root(tmp_path, v1(), "11:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n", files)
    assert cgroup_cpu_limit(root) == 0.5


def test_version_1_container_that_sees_the_path_of_the_host(tmp_path: Path) -> None:
    """Docker mounts the container's group as the top, while the process is told the group's path on the host."""
    folder = "sys/fs/cgroup/cpu,cpuacct/"
    files = {folder + "cpu.cfs_quota_us": "300000", folder + "cpu.cfs_period_us": "100000"}
    for mount_root in ("/docker/abc", "/"):
        root = make_root(tmp_path / mount_root.replace("/", "_"), v1(mount_root), "4:cpu,cpuacct:/docker/abc\n", files)
        assert cgroup_cpu_limit(root) == 3


def test_a_group_outside_of_the_namespace(tmp_path: Path) -> None:
    root = make_root(tmp_path, v2(), "0::/../sibling\n", {"sys/fs/cgroup/cpu.max": "100000 100000"})
    assert cgroup_cpu_limit(root) == 1


def test_version_1_without_a_limit(tmp_path: Path) -> None:
    folder = "sys/fs/cgroup/cpu,cpuacct/"
    files = {folder + "cpu.cfs_quota_us": "-1\n", folder + "cpu.cfs_period_us": "100000\n"}
    assert cgroup_cpu_limit(make_root(tmp_path, v1(), "4:cpu,cpuacct:/\n0::/\n", files)) is None


def test_both_versions_at_once(tmp_path: Path) -> None:
    folder = "sys/fs/cgroup/cpu,cpuacct/"
    files = {
        folder + "cpu.cfs_quota_us": "800000",
        folder + "cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/unified/cpu.max": "600000 100000",
    }
    mounts = v1() + "\n" + v2(point="/sys/fs/cgroup/unified")
    assert cgroup_cpu_limit(make_root(tmp_path, mounts, "4:cpu,cpuacct:/\n0::/\n", files)) == 6


def test_a_mount_point_with_a_space(tmp_path: Path) -> None:
    files = {"sys/fs/c group/cpu.max": "200000 100000"}
    assert cgroup_cpu_limit(make_root(tmp_path, v2(point="/sys/fs/c\\040group"), "0::/\n", files)) == 2


def test_no_control_groups_at_all(tmp_path: Path) -> None:
    assert cgroup_cpu_limit(tmp_path) is None
    assert cgroup_cpu_limit(make_root(tmp_path, "broken line - \n", "::::\nx\n", {})) is None


def test_this_machine() -> None:
    limit = cgroup_cpu_limit()
    assert limit is None or limit > 0
    cpus = available_cpus()
    assert cpus
    assert cpus == sorted(set(cpus))
    assert 1 <= available_cpu_count() <= len(cpus)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be pinned here")
def test_affinity_mask_of_a_pinned_process() -> None:
    last = max(os.sched_getaffinity(0))
    code = f"""
import os
os.sched_setaffinity(0, {{{last}}})
from tilework.utils.devices import available_cpus, available_cpu_count, detect
assert available_cpus() == detect()["cpus"] == [{last}]
assert available_cpu_count() == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("value", "limits"), [("1", True), ("100000", False), ("", False), ("2(x3)", False), ("0", True)]
)
def test_slurm(monkeypatch: pytest.MonkeyPatch, value: str, limits: bool) -> None:
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    without = available_cpu_count()
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", value)
    assert available_cpu_count() == (1 if limits else without)


def test_detect_is_what_a_cluster_can_be_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    found = detect()
    assert list(found) == ["cpus", "cudas", "has_cupy"]
    assert found["cpus"] == available_cpus()[: available_cpu_count()]
    assert found["cudas"] == list(range(len(found["cudas"])))
    assert found["has_cupy"] is has_cupy()
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert detect()["cpus"] == available_cpus()[:1]


def test_detect_imports_nothing_heavy() -> None:
    code = (
        "import sys; from tilework.utils.devices import detect; found = detect();"
        "assert found['has_cupy'] or not {'cupy', 'numba'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_memory_that_the_system_has_left(tmp_path: Path) -> None:
    files = {"proc/meminfo": "MemTotal: 4000 kB\nMemFree: 500 kB\nMemAvailable: 3000 kB\nHugePages_Total: 0\n"}
    assert available_memory(make_root(tmp_path, v2(), "0::/\n", files)) == 3000 * 1024


def test_memory_that_a_control_group_has_left(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": "MemAvailable:   3000 kB\n",
        "sys/fs/cgroup/memory.max": "1000000\n",
        "sys/fs/cgroup/memory.current": "400000\n",
    }
    assert available_memory(make_root(tmp_path, v2(), "0::/\n", files)) == 600000


@pytest.mark.parametrize(
    ("mountinfo", "cgroup", "folder", "names"),
    [
        (v2(), "0::/job\n", "sys/fs/cgroup/job", ("memory.max", "memory.current", "")),
        (
            "",
            "4:memory:/job\n",
            "sys/fs/cgroup/memory/job",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
        ),
    ],
    ids=["version 2", "version 1"],
)
def test_files_in_the_page_cache_leave_room(
    tmp_path: Path, mountinfo: str, cgroup: str, folder: str, names: tuple[str, str, str]
) -> None:
    """A group that has read large files is full of them; what is dropped when memory is wanted is left."""
    limit, used, prefix = names
    stat = {"inactive_file": 500000, "active_file": 90000, "inactive_anon": 300000, "file": 600000}
    files = {
        "proc/meminfo": "MemAvailable:   3000 kB\n",
        f"{folder}/{limit}": "1000000\n",
        f"{folder}/{used}": "999999\n",
        f"{folder}/memory.stat": "".join(f"{prefix}{name} {value}\n" for name, value in stat.items()),
    }
    assert available_memory(make_root(tmp_path, mountinfo, cgroup, files)) == 590001


def test_a_group_that_is_slowed_down_before_it_is_stopped(tmp_path: Path) -> None:
    """It is only below memory.high that a group has its full speed."""
    files = {
        "proc/meminfo": "MemAvailable:   3000 kB\n",
        "sys/fs/cgroup/memory.max": "max\n",
        "sys/fs/cgroup/memory.high": "700000\n",
        "sys/fs/cgroup/memory.current": "400000\n",
    }
    assert available_memory(make_root(tmp_path, v2(), "0::/\n", files)) == 300000
