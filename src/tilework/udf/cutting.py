"""Into how many tasks a run is cut, where the partitions of its dataset are too few for what functions may take.

The size of the data says how long moving and adding up its pixels takes, and so partitions follow from it. What
somebody's own function takes for a frame cannot be known: it may be a microsecond, or a second for each of a few small
frames, and all workers should have some of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tilework.common.executor import LazyExecutor
from tilework.common.udf import UDFMethod
from tilework.udf.base import UDF

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tilework.common.executor import JobExecutor
    from tilework.io.dataset.base import DataSet
    from tilework.io.dataset.partition import Partition
    from tilework.udf.run_plan import RunPlan

__all__ = ["cut", "wanted_tasks"]

_FRAMES: Final = 128
"""A task costs about as much as a function that is quick takes for so many frames."""
_TASKS_EACH: Final = 4
"""More than one for each worker, as frames may differ in what they take."""
_FEW: Final = 2
_MANY: Final = 16


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
    if by_frames and not any(udf._needs_order or hasattr(udf, "postprocess") for udf in udfs):
        workers = _count_workers(plan, executor)
        if workers < 2:
            return 0
        prepares = any(type(udf).get_task_data is not UDF.get_task_data for udf in udfs)  # which may take long
        each = 1 if prepares else min(max(1, n_frames // (2 * _FRAMES * workers)), _TASKS_EACH)
        return min(each * workers, n_frames)
    if all(type(udf).__module__.startswith("tilework.") for udf in udfs):
        return 0
    wanted = min(max(n_frames // _FRAMES, _FEW), _MANY if by_frames else 2 * _FEW)
    return min(wanted + wanted % 2, n_frames)


def _count_workers(plan: RunPlan, executor: JobExecutor | None) -> int:
    """Return how many tasks of a run can run at a time; 1 where nobody knows."""
    if executor is None or isinstance(executor, LazyExecutor):
        return 1
    return executor.get_available_workers().filter(lambda worker: worker.can_run(plan.resources)).concurrency()


def cut(dataset: DataSet, roi: np.ndarray[Any, np.dtype[np.bool_]] | None, wanted: int) -> list[Partition]:
    """Return the partitions of a run: those of the dataset, or others when it should have more tasks.

    Parameters
    ----------
    dataset
        What is processed.
    roi
        Selected positions, of nav shape, or None. Where few are, or all lie in few partitions, each of the others gets
        its share of them.
    wanted
        How many tasks there should be at least.
    """
    partitions = list(dataset.get_partitions())
    if wanted < 2 or (roi is None and len(partitions) >= wanted):
        return partitions
    selected = np.arange(dataset.shape.nav.size) if roi is None else np.flatnonzero(roi)
    starts = [p.slice.origin[0] for p in partitions]
    counts = np.diff(np.searchsorted(selected, starts), append=len(selected))
    if (counts.max(initial=0) - 1) * wanted <= len(selected):  # one more than its share is no reason
        return partitions
    n = max(wanted, int(np.count_nonzero(counts)))
    ends = [int(selected[i * len(selected) // n]) for i in range(1, n)]
    others = dataset.cut_at([*ends, dataset.shape.nav.size])
    return partitions if others is None else list(others)
