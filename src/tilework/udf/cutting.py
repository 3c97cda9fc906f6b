"""Into how many tasks a run is cut, where the partitions of its dataset do not fit what functions take.

The size of the data says how long moving and adding up its pixels takes, and so partitions follow from it. What
somebody's own function takes for a frame cannot be known: it may be a microsecond, or a second for each of a few small
frames, and all workers should have some of them. And where a few frames are selected in each partition, what is built
in takes less time for them than a task does: partitions are joined.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from tilework.common.executor import LazyExecutor
from tilework.common.udf import UDFMethod, method_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tilework.common.executor import JobExecutor
    from tilework.io.dataset.base import DataSet
    from tilework.io.dataset.partition import Partition
    from tilework.udf.base import UDF
    from tilework.udf.run_plan import RunPlan

__all__ = ["cut", "most_tasks", "wanted_tasks"]

BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
Span: TypeAlias = tuple[int, int]

_FRAMES: Final = 128
"""A task costs about as much as a function that is quick takes for so many frames."""
_TASKS_EACH: Final = 4
"""More than one for each worker, as frames may differ in what they take."""
_FEW: Final = 2
"""Tasks of a small run: two cores have something to do."""
_MANY: Final = 16
"""The most tasks that are wanted for functions of single frames; for others, twice `_FEW`."""
_JOINED_BYTES: Final = 4 * 2**20
"""Of selected frames; what is built in goes over so much of them while a task begins and ends."""
_READERS: Final = 4
"""Tasks that stay, though they are small: a disk may take long to find a frame, and finds several at a time."""


def wanted_tasks(udfs: Sequence[UDF], plan: RunPlan, n_frames: int, executor: JobExecutor | None) -> int:
    """Return how many tasks a run should have at least.

    Only runs whose results are the same however they are cut go by the number of workers: all functions take single
    frames, and have results for each alone. In others the bits could depend on the machine.

    Parameters
    ----------
    udfs
        The functions, prepared on the main side.
    plan
        What was decided for them.
    n_frames
        Number of selected frames.
    executor
        What will run the tasks; None when that is not known.
    """
    by_frames = all(planned.method is UDFMethod.FRAME for planned in plan.udfs)
    if by_frames and not any(udf._merge_needs_order or method_of(udf, "postprocess") is not None for udf in udfs):
        workers = _count_workers(plan, executor)
        if workers < 2:
            return 0
        prepares = not _are_ours(type(udf).get_task_data for udf in udfs)  # which may take long
        each = 1 if prepares else min(max(1, n_frames // (2 * _FRAMES * workers)), _TASKS_EACH)
        return min(each * workers, n_frames)
    if _are_built_in(udfs):
        return 0
    wanted = min(max(n_frames // _FRAMES, _FEW), _MANY if by_frames else 2 * _FEW)
    return min(wanted + wanted % 2, n_frames)  # of three, one core of two would do twice as much as the other


def most_tasks(udfs: Sequence[UDF], plan: RunPlan, dataset: DataSet, n_selected: int) -> float:
    """Return how many tasks a run should have at most if positions are selected; infinity: it does not matter.

    Parameters
    ----------
    udfs, plan
        As in `wanted_tasks`.
    dataset
        What is processed.
    n_selected
        Number of selected frames.
    """
    if not _are_built_in(udfs) or any(planned.method is not UDFMethod.TILE for planned in plan.udfs):
        return math.inf
    frame_bytes = dataset.shape.sig.size * dataset.dtype.itemsize
    return max(_READERS, n_selected * frame_bytes // _JOINED_BYTES)


def _are_built_in(udfs: Sequence[UDF]) -> bool:
    return _are_ours(map(type, udfs))


def _are_ours(objects: Iterable[Any]) -> bool:
    return all(str(getattr(each, "__module__", "")).startswith("tilework.") for each in objects)


def _count_workers(plan: RunPlan, executor: JobExecutor | None) -> int:
    """Return how many tasks of a run can run at a time; 1 where nobody knows."""
    if executor is None or isinstance(executor, LazyExecutor):
        return 1
    return executor.get_available_workers().filter(lambda worker: worker.can_run(plan.resources)).concurrency()


def cut(dataset: DataSet, roi: BoolArray | None, wanted: int, most: float) -> tuple[list[Partition], list[Span]]:
    """Return the partitions of a run, those of the dataset or others where it should have more tasks, or fewer.

    Parameters
    ----------
    dataset
        What is processed.
    roi
        Selected positions, of nav shape, or None. Where few are, or all lie in few partitions, each of the others gets
        its share of them.
    wanted
        How many tasks there should be at least.
    most
        How many tasks there should be at most where positions are selected, unless more are wanted.

    Returns
    -------
    partitions, spans
        The partitions, and where each begins and ends among the selected positions.
    """
    partitions = list(dataset.get_partitions())
    spans = _spans(partitions, roi)
    stops = _other_stops(spans, roi, wanted, most)
    others = None if stops is None else dataset.cut_at(stops)
    if others is None:
        return partitions, spans
    partitions = list(others)
    return partitions, _spans(partitions, roi)


def _other_stops(spans: Sequence[Span], roi: BoolArray | None, wanted: int, most: float) -> list[int] | None:
    """Return where partitions would have to end for each to have its share; None when they have it."""
    counts = [stop - start for start, stop in spans if stop > start]
    total = sum(counts)
    n = len(counts)
    if wanted > 1 and (max(counts, default=0) - 1) * wanted > total:  # one more than its share is no reason
        n = max(wanted, n)
    elif roi is not None and n > most:
        n = max(wanted, int(most))
    else:
        return None
    ends = [i * total // n for i in range(1, n)]
    if roi is None:
        return [*ends, total]
    return [*np.flatnonzero(roi)[ends].tolist(), roi.size]


def _spans(partitions: Sequence[Partition], roi: BoolArray | None) -> list[Span]:
    """Return where partitions begin and end among the selected positions."""
    spans = [(p.slice.origin[0], p.slice.origin[0] + p.slice.shape[0]) for p in partitions]
    return spans if roi is None else _spans_of_selected(roi.reshape(-1), spans)


def _spans_of_selected(roi: BoolArray, spans: Sequence[Span]) -> list[Span]:
    """Return where stretches of flat positions begin and end among the selected ones."""
    found = []
    at = selected = 0
    for start, stop in spans:
        selected += int(np.count_nonzero(roi[at:start])) - int(np.count_nonzero(roi[start:at]))
        count = int(np.count_nonzero(roi[start:stop]))
        found.append((selected, selected + count))
        at, selected = stop, selected + count
    return found
