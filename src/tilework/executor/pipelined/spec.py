"""Which workers a pool has."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping
from itertools import count, islice
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from tilework.common.scheduler import Worker
from tilework.exceptions import ExecutorSpecException
from tilework.utils.device_ids import check_number, device_ids

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tilework.common.scheduler import ResourceDef

__all__ = ["WorkerSpec", "check_spec", "describe_worker", "make_spec", "resized"]


class WorkerSpec(TypedDict):
    """One worker."""

    name: str
    device_id: int
    device_kind: Literal["CPU", "CUDA"]
    worker_idx: int
    has_cupy: bool


def make_spec(
    cpus: int | Iterable[int] = (), cudas: int | Iterable[int] = (), has_cupy: bool = False
) -> list[WorkerSpec]:
    """Describe workers: one for each CUDA device that is named, then one for each CPU.

    Parameters
    ----------
    cpus
        Numbers of CPUs, or how many: then from 0 on.
    cudas
        Numbers of CUDA devices, or how many: then they are shared out among the devices of this machine. A number that
        is there several times stands for several workers on that device.
    has_cupy
        Whether workers on CUDA devices can use CuPy.

    Returns
    -------
    list of WorkerSpec
        Names are ``cuda-{device}-{i}`` and ``cpu-{id}``.

    Raises
    ------
    ExecutorSpecException
        When there would be no worker, a CPU is named twice, or something else is given than numbers, from 0 on.
    """
    chosen = device_ids("cpus", cpus)
    cpu_ids = list(range(chosen)) if isinstance(chosen, int) else chosen
    devices = device_ids("cudas", cudas)
    if isinstance(devices, int):
        devices = _round_robin(devices)
    spec: list[WorkerSpec] = []
    seen: Counter[int] = Counter()
    for device in devices:
        name = f"cuda-{device}-{seen[device]}"
        seen[device] += 1
        spec.append(_worker(name, device, "CUDA", len(spec), has_cupy))
    for cpu in cpu_ids:
        spec.append(_worker(f"cpu-{cpu}", cpu, "CPU", len(spec), False))
    check_spec(spec)
    return spec


def resized(spec: Iterable[WorkerSpec], n: int) -> list[WorkerSpec]:
    """Return the workers of a pool that is to have `n` for the CPU: the first of those that there are, or more.

    Parameters
    ----------
    spec
        The workers that there are; those for CUDA devices stay.
    n
        How many.

    Raises
    ------
    ExecutorSpecException
        When there would be no worker, or `n` is not a whole number.
    """
    try:
        n = max(0, operator.index(n))
    except TypeError:
        msg = f"resize takes a whole number of workers, not {n!r}"
        raise ExecutorSpecException(msg) from None
    check_number("resize", n)
    spec = list(spec)
    cpus = [each for each in spec if each["device_kind"] == "CPU"]
    others = [each for each in spec if each["device_kind"] != "CPU"]
    taken = {each["device_id"] for each in cpus}
    free = (number for number in count() if number not in taken)
    idx = count(1 + max((each["worker_idx"] for each in spec), default=-1))
    more = [_worker(f"cpu-{cpu}", cpu, "CPU", next(idx), False) for cpu in islice(free, max(0, n - len(cpus)))]
    new = [*others, *cpus[:n], *more]
    check_spec(new)
    return new


def _round_robin(n: int) -> list[int]:
    if n <= 0:
        return []
    from tilework.utils.devices import detect

    devices = detect()["cudas"]
    if not devices:
        msg = f"cudas={n} asks for workers on GPUs, but no CUDA device was found: use cudas=0"
        raise ExecutorSpecException(msg)
    return [devices[i % len(devices)] for i in range(n)]


def _worker(name: str, device: int, kind: Literal["CPU", "CUDA"], idx: int, has_cupy: bool) -> WorkerSpec:
    return {"name": name, "device_id": device, "device_kind": kind, "worker_idx": idx, "has_cupy": has_cupy}


def check_spec(spec: Any) -> None:
    """Raise ExecutorSpecException when a pool cannot be made of these workers, whatever was given as such."""
    remedy = "make_spec makes a spec, for example PipelinedExecutor.make_spec(cpus=2, cudas=[])"
    if not isinstance(spec, list | tuple):
        msg = f"the spec must be a list with a dictionary for each worker, not {spec!r}: {remedy}"
        raise ExecutorSpecException(msg)
    wanted = set(WorkerSpec.__annotations__)
    for each in spec:
        if not isinstance(each, Mapping) or not wanted <= set(each):
            msg = (
                f"each worker in the spec must be a dictionary with {', '.join(sorted(wanted))}, not {each!r}: {remedy}"
            )
            raise ExecutorSpecException(msg)
        if each["device_kind"] not in {"CPU", "CUDA"}:
            msg = f"the device_kind of a worker must be 'CPU' or 'CUDA', not {each['device_kind']!r}: {remedy}"
            raise ExecutorSpecException(msg)
        for key in ("device_id", "worker_idx"):
            if not hasattr(each[key], "__index__"):
                msg = f"the {key} of a worker must be a whole number, not {each[key]!r}: {remedy}"
                raise ExecutorSpecException(msg)
    if not spec:
        msg = "a pool needs at least one worker: give cpus or cudas, for example make_spec(cpus=2, cudas=[])"
        raise ExecutorSpecException(msg)
    twice = [name for name, n in Counter(worker["name"] for worker in spec).items() if n > 1]
    if twice:
        msg = f"every worker needs a name of its own, these are there several times: {', '.join(twice)}"
        raise ExecutorSpecException(msg)


def describe_worker(spec: WorkerSpec) -> Worker:
    """Return a worker's name and resources for the scheduler."""
    resources: ResourceDef
    if spec["device_kind"] == "CPU":
        resources = {"CPU": 1, "compute": 1, "ndarray": 1}
    else:
        resources = {"CUDA": 1, "compute": 1}
        if spec["has_cupy"]:
            resources["ndarray"] = 1
    return Worker(spec["name"], "localhost", resources, 1)
