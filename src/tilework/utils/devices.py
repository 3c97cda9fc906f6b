"""Which CPUs, memory and GPUs this process may really use.

A container, a batch system or ``taskset`` often gives a process less than the machine has. Asking for the number of
CPUs of the machine would then start far more workers than can run.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import math
import os
import re
import sys
import warnings
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, TypedDict

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "DetectResult",
    "available_cpu_count",
    "available_cpus",
    "available_memory",
    "cgroup_cpu_limit",
    "detect",
    "has_cupy",
]


class DetectResult(TypedDict):
    """What `detect` found; the keys are the arguments of functions that build a cluster."""

    cpus: list[int]
    cudas: list[int]
    has_cupy: bool


def available_cpus() -> list[int]:
    """Return the numbers of the CPUs that this process may run on (its affinity mask), ascending."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def available_cpu_count() -> int:
    """Return how many CPUs this process can keep busy, at least 1.

    The least of: the affinity mask, the CPU quota of its control groups (version 1 and 2, rounded up), and
    ``SLURM_CPUS_PER_TASK``.
    """
    counts = [len(available_cpus())]
    quota = cgroup_cpu_limit()
    if quota is not None:
        counts.append(math.ceil(quota))
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if slurm.isdecimal():
        counts.append(int(slurm))
    return max(1, min(counts))


# ---- control groups ----


class _Mount(NamedTuple):
    version: int
    root: PurePosixPath  # the group that is mounted there
    point: Path


def cgroup_cpu_limit(root: Path = Path("/")) -> float | None:
    """Return how many CPUs' worth of time the control groups of this process allow, or None if there is no limit.

    Parameters
    ----------
    root
        Where ``/proc`` and ``/sys`` are looked for.

    Notes
    -----
    A limit holds for all groups below the one that sets it, so every group from that of the process up to the top is
    looked at (https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/scheduler/sched-bwc.html).
    """
    limits = [
        limit
        for mount, group in _groups(root, "cpu")
        for folder in _upwards(mount, group)
        if (limit := _read_cpu_limit(mount.version, folder)) is not None
    ]
    return min(limits, default=None)


def _groups(root: Path, controller: str) -> Iterator[tuple[_Mount, PurePosixPath]]:
    """Yield each hierarchy that may limit CPU time, or memory, with the group of this process in it."""
    mounts = list(_mounts(root, controller))
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        version = 1 if controller in controllers.split(",") else 2 if not controllers else 0
        for mount in mounts:
            if mount.version == version:
                yield mount, PurePosixPath(group)


def _mounts(root: Path, controller: str) -> Iterator[_Mount]:
    # proc_pid_mountinfo(5): ID, parent, device, root, mount point, options, any number of fields, "-", type, source,
    # options of the file system.
    for line in _read(root / "proc/self/mountinfo").splitlines():
        fields, _, described = line.partition(" - ")
        mount, system = fields.split(), described.split()
        if len(mount) < 5 or len(system) < 3:
            continue
        version = (
            2 if system[0] == "cgroup2" else 1 if system[0] == "cgroup" and controller in system[2].split(",") else 0
        )
        if version:
            yield _Mount(version, PurePosixPath(_unescape(mount[3])), root / _unescape(mount[4]).lstrip("/"))


def _unescape(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), path)


def _upwards(mount: _Mount, group: PurePosixPath) -> Iterator[Path]:
    """Yield the folder of the group and of all groups above it that are visible here."""
    # In a container the group's path can be that of the host, while its own group is mounted as the top.
    visible = group.is_relative_to(mount.root) and ".." not in group.parts
    folder = mount.point / group.relative_to(mount.root) if visible else mount.point
    while folder != mount.point:
        yield folder
        folder = folder.parent
    yield folder


def _read_cpu_limit(version: int, folder: Path) -> float | None:
    if version == 2:
        quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
    else:
        quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
    if not quota.isdecimal() or not period.isdecimal() or int(quota) == 0 or int(period) == 0:
        return None  # "max" and -1 mean no limit
    return int(quota) / int(period)


def available_memory(root: Path = Path("/")) -> int:
    """Return how many bytes of memory this process can still take: what the system has left, and its control groups.

    Parameters
    ----------
    root
        Where ``/proc`` and ``/sys`` are looked for.

    Notes
    -----
    What a group has in the page cache counts as its use, and fills it up whenever large files are read. The system
    drops that when the memory is wanted, so it is left, as it is in the system's own ``MemAvailable``.
    """
    left = [_available_in_system(root)]
    for mount, group in _groups(root, "memory"):
        files = _MEMORY_FILES[mount.version]
        for folder in _upwards(mount, group):
            limits = [int(text) for name in files.limits if (text := _read(folder / name).strip()).isdecimal()]
            used = _read(folder / files.used).strip()
            if limits and used.isdecimal():
                left.append(max(0, min(limits) - max(0, int(used) - _page_cache(folder, files.cached))))
    return min(left)


def _page_cache(folder: Path, names: frozenset[str]) -> int:
    """Return how many bytes of files the group has in memory; those in memory only (tmpfs) are not among them."""
    entries = (line.split() for line in _read(folder / "memory.stat").splitlines())
    return sum(int(entry[1]) for entry in entries if len(entry) == 2 and entry[0] in names and entry[1].isdecimal())


def _available_in_system(root: Path) -> int:
    # proc_meminfo(5); psutil reads the same there, and takes long to load.
    for line in _read(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    import psutil

    return int(psutil.virtual_memory().available)


class _MemoryFiles(NamedTuple):
    limits: tuple[str, ...]
    used: str
    cached: frozenset[str]  # entries of memory.stat


# Beyond memory.high a group is not stopped, but slowed down until it is below.
_MEMORY_FILES = {
    1: _MemoryFiles(
        ("memory.limit_in_bytes",),
        "memory.usage_in_bytes",
        frozenset({"total_inactive_file", "total_active_file"}),
    ),
    2: _MemoryFiles(("memory.max", "memory.high"), "memory.current", frozenset({"inactive_file", "active_file"})),
}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


# ---- GPUs ----


def _cuda_devices() -> list[int]:
    """Ask the CUDA driver, if there is one, for its devices; ``CUDA_VISIBLE_DEVICES`` counts."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
        count = ctypes.c_int(0)
        failed = driver.cuInit(ctypes.c_uint(0)) or driver.cuDeviceGetCount(ctypes.byref(count))
    except (OSError, AttributeError):
        return []
    return [] if failed else list(range(count.value))


@functools.cache
def has_cupy() -> bool:
    """Return whether CuPy is installed and can use a GPU; found out once per process.

    Warns
    -----
    RuntimeWarning
        When there are a GPU and CuPy, but CuPy does not work.
    """
    if importlib.util.find_spec("cupy") is None or not _cuda_devices():
        return False
    try:
        import cupy

        cupy.zeros(1).sum().item()
    except Exception as e:  # noqa: BLE001  (a broken installation can fail in any way)
        msg = f"there is a GPU, but CuPy does not work and is not used: {type(e).__name__}: {e}"
        warnings.warn(msg, RuntimeWarning, stacklevel=2)
        return False
    return True


def detect() -> DetectResult:
    """Return the CPUs and CUDA devices that this process may use.

    Returns
    -------
    dict
        ``cpus``: numbers of the CPUs to run workers on, of which there are no more than can be kept busy;
        ``cudas``: numbers of the CUDA devices; ``has_cupy``: whether CuPy can use them.

    Examples
    --------
    >>> found = detect()
    >>> sorted(found), len(found["cpus"]) > 0
    (['cpus', 'cudas', 'has_cupy'], True)
    """
    return {"cpus": available_cpus()[: available_cpu_count()], "cudas": _cuda_devices(), "has_cupy": has_cupy()}
