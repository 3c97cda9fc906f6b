"""Which kind of array each UDF of a run gets: the choice that converts least.

A dataset offers its tiles in some array backends, each UDF supports some, and a worker computes on a CPU or on a CUDA
device. UDFs are served in stages; within a stage, the backend that serves most of the UDFs that are left comes first:

1. what the dataset offers, on this kind of device: nothing is converted;
2. where the dataset offers sparse tiles: other sparse backends of this kind of device;
3. where it offers dense ones: dense backends of this kind of device;
4. anything else of this kind of device;
5. what the dataset offers and computes on the other kind of device, and then the rest.

So a choice depends on the UDFs, the dataset and the kind of device alone.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tilework.common.array_backends import (
    BACKENDS,
    CPU_BACKENDS,
    CUDA,
    CUDA_BACKENDS,
    CUPY_BACKENDS,
    DENSE_BACKENDS,
    SPARSE_BACKENDS,
    as_names,
    resources_for,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from tilework.common.scheduler import ResourceDef

__all__ = [
    "BackendPlan",
    "available_backends",
    "execution_plan",
    "get_resources_for_backends",
    "plan_backends",
]

Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BackendPlan:
    """Which arrays are used where, on one kind of device.

    Attributes
    ----------
    dataset
        The backend in which the dataset delivers tiles.
    udfs
        That of each UDF, in their order.
    conversions
        What tiles are converted to, and from which backend; a source comes before what is made from it.
    """

    dataset: str
    udfs: Names
    conversions: tuple[tuple[str, str], ...]

    @property
    def uses_cupy(self) -> bool:
        """Whether some array is on a GPU."""
        return not CUPY_BACKENDS.isdisjoint((self.dataset, *self.udfs))

    @property
    def is_sparse(self) -> bool:
        """Whether nothing dense is made of any tile."""
        return SPARSE_BACKENDS.issuperset((self.dataset, *self.udfs))


def available_backends(device_class: str, has_cupy: bool) -> frozenset[str]:
    """Return the backends that can be used on a worker.

    Parameters
    ----------
    device_class
        ``"cpu"`` or ``"cuda"``.
    has_cupy
        Whether CuPy works there; looked at with ``"cuda"`` only.
    """
    if device_class == "cpu":
        return CPU_BACKENDS
    return BACKENDS if has_cupy else CPU_BACKENDS | {CUDA}


@lru_cache(maxsize=256)
def plan_backends(
    supported: tuple[Names, ...],
    offered: Names,
    device_class: str | None = None,
    available: frozenset[str] = BACKENDS,
) -> BackendPlan:
    """Choose the backend of each UDF, and the conversions.

    Parameters
    ----------
    supported
        What each UDF supports, best first.
    offered
        What the dataset offers, best first.
    device_class
        Kind of device that is preferred, ``"cpu"`` or ``"cuda"``; None: either.
    available
        What can be used at all.

    Raises
    ------
    ValueError
        When a backend or the device class is unknown, or the dataset offers nothing.
    RuntimeError
        When there is none for a UDF.
    """
    _check_names(supported, offered, device_class)
    if not offered:
        msg = "the dataset offers no array backend at all"
        raise ValueError(msg)
    native = available & {None: BACKENDS, "cpu": CPU_BACKENDS, "cuda": CUDA_BACKENDS}[device_class]
    stages = [native.intersection(offered)]
    if not SPARSE_BACKENDS.isdisjoint(offered):
        stages.append(native & SPARSE_BACKENDS)
    if not DENSE_BACKENDS.isdisjoint(offered):
        stages.append(native & DENSE_BACKENDS)
    stages += [native, (available - native).intersection(offered), available]
    chosen: dict[int, str] = {}
    for candidates in stages:
        _serve(supported, candidates, offered, chosen)
    if len(chosen) < len(supported):
        left = [" or ".join(names) or "none" for i, names in enumerate(supported) if i not in chosen]
        msg = f"Could not find backends: {', '.join(left)} cannot be used here, only {', '.join(sorted(available))}"
        raise RuntimeError(msg)
    udfs = tuple(chosen[i] for i in range(len(supported)))
    dataset, conversions = _order_conversions(udfs, offered)
    return BackendPlan(dataset, udfs, conversions)


def _check_names(supported: tuple[Names, ...], offered: Names, device_class: str | None) -> None:
    unknown = {name for names in (*supported, offered) for name in names} - BACKENDS
    if unknown:
        msg = f"{', '.join(map(repr, sorted(unknown)))}: not a known array backend; known are {sorted(BACKENDS)}"
        raise ValueError(msg)
    if device_class not in {None, "cpu", "cuda"}:
        msg = f"the device class is 'cpu', 'cuda' or None, not {device_class!r}"
        raise ValueError(msg)


def _serve(supported: tuple[Names, ...], candidates: Collection[str], offered: Names, chosen: dict[int, str]) -> None:
    """Give UDFs without backend one of the candidates, those that serve most UDFs first."""
    left = {i: names for i, names in enumerate(supported) if i not in chosen}
    while left:

        def rank(name: str, left: dict[int, Names] = left) -> tuple[float, ...]:
            # What the dataset delivers comes first, in its order; then what the UDFs like best.
            order = offered.index(name) if name in offered else len(offered)
            served = [names for names in left.values() if name in names]
            return -len(served), order, sum(names.index(name) / len(names) for names in served)

        useful = [name for name in sorted(candidates) if any(name in names for names in left.values())]
        if not useful:
            return
        best = min(useful, key=rank)
        chosen.update({i: best for i, names in left.items() if best in names})
        left = {i: names for i, names in left.items() if best not in names}


def _order_conversions(udfs: Names, offered: Names) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return what the dataset delivers, and from what each other backend is made: always from the cheapest."""
    targets = list(dict.fromkeys(udfs))
    dataset = next((name for name in offered if name in targets), None)
    conversions: list[tuple[str, str]] = []
    if dataset is None:
        source, target = _cheapest_pair(offered, targets)
        dataset = source
        conversions.append((target, source))
        targets.remove(target)
    else:
        targets.remove(dataset)
    have = [dataset, *(target for target, _ in conversions)]
    while targets:
        source, target = _cheapest_pair(have, targets)
        conversions.append((target, source))
        targets.remove(target)
        have.append(target)
    return dataset, tuple(conversions)


def _cheapest_pair(sources: Sequence[str], targets: Sequence[str]) -> tuple[str, str]:
    if len(sources) == len(targets) == 1:
        return sources[0], targets[0]
    import sparseconverter

    pair: tuple[str, str] = sparseconverter.cheapest_pair(sources, targets)
    return pair


def execution_plan(
    udfs: Iterable[Any], ds: Any, device_class: str | None = None, available_backends: Iterable[str] = BACKENDS
) -> tuple[str, OrderedDict[str, list[Any]]]:
    """Return the backend in which a dataset delivers tiles, and the UDFs by the backend they get.

    Parameters
    ----------
    udfs
        The UDFs.
    ds
        The dataset.
    device_class, available_backends
        As of `plan_backends`.

    Returns
    -------
    str, OrderedDict
        The mapping is in the order in which tiles are converted.

    Raises
    ------
    ValueError
        When a backend or the device class is unknown, or the dataset offers none.
    RuntimeError
        When there is no backend for a UDF.
    """
    udfs = list(udfs)
    if ds.array_backends is None:
        msg = f"{type(ds).__name__} does not say in which array backends its tiles can be had: array_backends is None"
        raise ValueError(msg)
    supported = tuple(as_names(udf.get_backends()) for udf in udfs)
    plan = plan_backends(supported, tuple(ds.array_backends), device_class, frozenset(available_backends))
    by_backend: OrderedDict[str, list[Any]] = OrderedDict()
    for name in (plan.dataset, *(target for target, _ in plan.conversions)):
        members = [udf for udf, backend in zip(udfs, plan.udfs, strict=True) if backend == name]
        if members:
            by_backend[name] = members
    return plan.dataset, by_backend


def get_resources_for_backends(
    udf_backends: Iterable[str | Iterable[str]], user_backends: Iterable[str] | None = None
) -> ResourceDef:
    """Return what a worker must have to run UDFs together.

    Parameters
    ----------
    udf_backends
        What each UDF supports.
    user_backends
        What the run allows; None or empty: everything.

    Raises
    ------
    ValueError
        When one UDF needs a CPU worker and another one a CUDA worker.
    """
    allowed = frozenset(user_backends or BACKENDS)
    return resources_for([allowed.intersection(as_names(backends)) for backends in udf_backends])
