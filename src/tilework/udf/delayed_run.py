"""A run that becomes a Dask graph, on an executor that computes nothing itself.

::

    MainRun                          prepares: plan, tiling, parameters, tasks; as for every executor
    executor.run_tasks               a node per partition: one read for all UDFs of the run
      merging, for each UDF          merge_all, or its own merge step by step, or nothing but putting together
        Finish, if it has get_results of its own
          DaskResultBufferWrapper    what the user gets

Who owns what: the graph holds parameters and partitions; nothing of it refers to the executor or to the UDF instances
of the user, which can run again at once.
"""

from __future__ import annotations

import warnings
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.callers import outside_level
from tilework.common.dask_graphs import (
    ArraySpec,
    Constant,
    LazyGraph,
    import_dask,
    is_lazy,
    rechunked,
    single_key,
    single_task,
)
from tilework.common.executor import JobExecutor, LazyExecutor, RunOptions
from tilework.common.shape import Shape
from tilework.common.slice import Slice
from tilework.common.without_options import run_tasks_with
from tilework.exceptions import UDFException
from tilework.udf.base import UDF
from tilework.udf.data import MergeAttrMapping
from tilework.udf.delayed_finish import AnnouncedOf, Finish, MaskOf, RawOf, rehearse
from tilework.udf.delayed_results import DaskResultBufferWrapper, DelayedRunResult
from tilework.udf.instance import snapshot
from tilework.udf.ordered_merge import merge_in_order
from tilework.udf.results import Provenance, RunResult, UDFResultsLazy

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from tilework.common.buffers import BufferWrapper
    from tilework.udf.main_run import MainRun

__all__ = ["DelayedRun", "delayed_steps", "merges_all"]

BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


def delayed_steps(
    run: MainRun, executor: JobExecutor, cancel_id: str, options: RunOptions, *, progress: bool
) -> Generator[UDFResultsLazy, None, None]:
    """Yield the results of a run once: as Dask arrays, nothing of which is computed.

    Parameters
    ----------
    run
        The run.
    executor
        A `LazyExecutor`.
    cancel_id, options
        As of `JobExecutor.run_tasks`.
    progress
        Whether progress was asked for; there is none here.
    """
    if progress:
        msg = "nothing runs before the results are computed, so there is no progress to show: use Dask's ProgressBar"
        warnings.warn(msg, stacklevel=outside_level())
    try:
        delayed = DelayedRun(run, executor, cancel_id, options)
        buffers = delayed.results()
        run.count_as_merged()
        results = UDFResultsLazy(lambda: buffers, run.damage)
        run.keep(results)
    finally:
        run.close()
    yield results


def merges_all(udf: UDF) -> bool:
    """Return whether `udf` puts all partial results together at once.

    A class that overrides ``merge`` only does not mean the ``merge_all`` that it inherits.
    """
    mro = type(udf).__mro__
    merge_all = next((i for i, cls in enumerate(mro) if "merge_all" in vars(cls)), None)
    merge = next(i for i, cls in enumerate(mro) if "merge" in vars(cls))
    return merge_all is not None and merge_all <= merge


class DelayedRun:
    """Builds the graph of a run; parameters are those of `delayed_steps`."""

    def __init__(self, run: MainRun, executor: JobExecutor, cancel_id: str, options: RunOptions) -> None:
        assert isinstance(executor, LazyExecutor)
        self._run = run
        if run.tasks and not any(buffer.has_data() for udf in run.udfs for buffer in udf.results.values()):
            what = "; ".join(_no_results(udf) for udf in run.udfs)
            msg = f"nothing would ever be computed: {what}; run it on another executor"
            raise UDFException(msg)
        for udf in run.udfs:
            udf.meta.set_valid_nav_mask(run.covered)
        with executor.scatter(run.params) as handle:
            executor.register_master_udfs(run.udfs)
            handler = run.dataset.get_task_comm_handler()
            self._parts = list(run_tasks_with(executor, run.tasks, handle, cancel_id, handler, options))

    def results(self) -> tuple[RunResult, ...]:
        """Return the results of each UDF."""
        run = self._run
        made = [self._finish(udf, self._merge(i, udf)) for i, udf in enumerate(run.udfs)]
        siblings: weakref.WeakSet[DaskResultBufferWrapper] = weakref.WeakSet()
        for result in made:
            for buffer in result.values():
                assert isinstance(buffer, DaskResultBufferWrapper)
                siblings.add(buffer)
                buffer._siblings = siblings
        return tuple(made)

    # -- merging

    def _merge(self, position: int, udf: UDF) -> dict[str, Any]:
        """Return the merged results by name, as Dask arrays, scan axes flat and compressed."""
        stored = {name: buffer for name, buffer in udf.results.items() if buffer.has_data()}
        if not self._parts or not stored:
            return {name: _as_lazy(buffer.raw_data) for name, buffer in stored.items()}
        parts = OrderedDict((self._part_slice(task), part[position].get_proxy()) for part, task in self._parts)
        if merges_all(udf):
            return self._merge_all(udf, stored, parts)
        if type(udf).merge is not UDF.merge:
            nav = [name for name, buffer in stored.items() if buffer.kind == "nav"]
            return merge_in_order(udf, parts, list(stored), nav, self._initial(stored))
        udf.merge(MergeAttrMapping({}), MergeAttrMapping({}))  # refuses what it cannot merge
        return {name: _put_together(name, parts) for name in stored}

    def _part_slice(self, task: Any) -> Slice:
        start, stop = self._run.span(task)
        sig = tuple(self._run.dataset.shape.sig)
        return Slice((start, *(0,) * len(sig)), Shape((stop - start, *sig), sig_dims=len(sig)))

    def _initial(self, stored: Mapping[str, BufferWrapper]) -> dict[str, Any]:
        """Return what results hold before the first merge, where that is not zeros."""
        lengths = tuple(part.shape[0] for part in map(self._part_slice, (task for _, task in self._parts)))
        initial: dict[str, Any] = {}
        for name, buffer in stored.items():
            array: Any = buffer.raw_data
            if not is_lazy(array):
                if array.dtype.hasobject or array.view(np.uint8).any():
                    initial[name] = array.copy()
            elif not getattr(buffer, "is_untouched", False):
                initial[name] = rechunked(array, (lengths, *(-1,) * (array.ndim - 1)))
        return initial

    def _merge_all(
        self, udf: UDF, stored: Mapping[str, BufferWrapper], parts: OrderedDict[Slice, MergeAttrMapping]
    ) -> dict[str, Any]:
        name = type(udf).__name__
        returned = udf.merge_all(parts)  # type: ignore[attr-defined]
        unknown = sorted(set(returned) - set(udf.results.keys()))
        if unknown:
            msg = f"{name}.merge_all() returned {', '.join(map(repr, unknown))}, which get_result_buffers() lacks"
            raise UDFException(msg)
        merged = {}
        for key, buffer in stored.items():
            if key not in returned and buffer.kind != "nav":
                msg = f"{name}.merge_all() did not return {key!r}: return all results that are declared, as a dict"
                raise UDFException(msg)
            array = _as_lazy(returned[key]) if key in returned else _put_together(key, parts)
            if array.shape != buffer.shape or array.dtype.kind != buffer.dtype.kind:
                msg = (
                    f"{name}.merge_all() returned {key!r} as {array.dtype}{array.shape}, it is declared as "
                    f"{buffer.dtype}{buffer.shape}"
                )
                raise UDFException(msg)
            merged[key] = array.astype(buffer.dtype)
        return merged

    # -- results

    def _finish(self, udf: UDF, merged: Mapping[str, Any]) -> DelayedRunResult:
        run = self._run
        provenance = Provenance(type(udf).__qualname__, udf._kwargs, run.dataset, run.roi, run.params.corrections)
        if type(udf).get_results is UDF.get_results:
            names = UDF.get_results(udf)  # refuses what only an own one can make
            declared = udf.results.as_dict()
            buffers = {
                name: DaskResultBufferWrapper(merged[name], self._default_mask(declared[name]), declared[name])
                for name in names
            }
        else:
            buffers = self._ask(udf, merged)
        for name, buffer in buffers.items():
            buffer.name = name
            buffer.provenance = provenance
        return DelayedRunResult(buffers, provenance)

    def _default_mask(self, declared: BufferWrapper) -> BoolArray:
        return declared.make_default_mask(self._run.covered, self._run.dataset.shape, self._run.roi)

    def _ask(self, udf: UDF, merged: Mapping[str, Any]) -> dict[str, DaskResultBufferWrapper]:
        """Return what ``get_results`` will return: one step makes all of it, from everything that is merged."""
        run = self._run
        finish = Finish.of(udf, merged, run.covered, run.dataset.shape, run.roi)
        expected = rehearse(finish, udf, merged)
        graph = LazyGraph(f"results-{type(udf).__name__}")
        whole = [rechunked(array, -1) for array in merged.values()]
        graph.use(*whole)
        udf_key = graph.add("udf", Constant(snapshot(udf)))
        key = graph.add("get_results", finish, udf_key, [single_key(array) for array in whole])
        wanted = []
        for name, dtype in expected.items():
            declared: BufferWrapper = udf.results.get_buffer(name)
            raw = RawOf(type(udf).__name__, name)
            wanted.append(ArraySpec.whole(name, (AnnouncedOf(raw, dtype), key), declared.shape, dtype))
            wanted.append(ArraySpec.whole(f"returned-{name}", (raw, key), declared.shape, dtype))
            wanted.append(ArraySpec.whole(f"valid-{name}", (MaskOf(name), key), declared.data_shape, np.dtype(bool)))
        arrays = iter(graph.arrays(wanted))
        return {
            name: DaskResultBufferWrapper(array, mask, udf.results.get_buffer(name), returned)
            for name, array, returned, mask in zip(expected, arrays, arrays, arrays, strict=True)
        }


def _no_results(udf: UDF) -> str:
    made = [repr(name) for name, buffer in udf.results.items() if buffer.use == "result_only"]
    name = type(udf).__name__
    return f"only get_results of {name} makes {', '.join(made)}, from nothing" if made else f"{name} has no results"


def _as_lazy(array: Any) -> Any:
    return array if is_lazy(array) else import_dask().array.from_array(np.array(array), chunks=-1)


def _put_together(name: str, parts: Mapping[Slice, MergeAttrMapping]) -> Any:
    """Return a nav result, each chunk of which is that of a partition."""
    arrays = [getattr(part, name) for part in parts.values()]
    graph = LazyGraph("nav")
    graph.use(*arrays)
    chunks = (tuple(array.shape[0] for array in arrays), *((n,) for n in arrays[0].shape[1:]))
    (whole,) = graph.arrays([ArraySpec(name, [single_task(a) for a in arrays], chunks, arrays[0].dtype)])
    return whole
