"""One run on the main side: what is prepared before data is read, and the merging of what comes back.

A `MainRun` owns the buffers of the whole, the map of what is merged, the tasks and the parameters. It does no I/O and
knows of the executor only which type of buffers it wants, and which workers it has.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.array_backends import CPU_BACKENDS
from tilework.common.arrays import short_repr
from tilework.common.buffers import BufferWrapper
from tilework.common.shape import Shape
from tilework.common.udf import kernel_of, method_of
from tilework.exceptions import NoBackendError, UDFException, UDFRunCancelled
from tilework.io.dataset.tiling import Negotiator
from tilework.udf.checks import check_results_can_be_made, check_tiling, noted, too_large
from tilework.udf.cutting import cut, most_tasks, wanted_tasks
from tilework.udf.data import prepare_aux
from tilework.udf.instance import claim, release, reset, snapshot, update_kwargs
from tilework.udf.kernel_arguments import check_kernel
from tilework.udf.merging import merge_part
from tilework.udf.meta import UDFMeta
from tilework.udf.params import RunCache, UDFParams
from tilework.udf.plan import make_plan
from tilework.udf.results import RunResult, UDFResultsLazy, collect_results
from tilework.udf.task import UDFTask

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tilework.common.environment import Environment
    from tilework.common.executor import JobExecutor
    from tilework.io.corrections.corrset import CorrectionSet
    from tilework.io.dataset.base import DataSet
    from tilework.io.dataset.partition import Partition
    from tilework.udf.base import UDF
    from tilework.udf.data import UDFData
    from tilework.udf.run_plan import RunPlan

__all__ = ["MainRun"]

BoolArray = np.ndarray[Any, np.dtype[np.bool_]]

logger = logging.getLogger(__name__)


def _check_workers(plan: RunPlan, executor: JobExecutor | None) -> None:
    """Raise NoBackendError when what only a GPU can do is to be done where there is none."""
    needs = plan.resources
    if executor is None or "CUDA" not in needs or any(w.can_run(needs) for w in executor.get_available_workers()):
        return
    gpu_only = [p for p in plan.udfs if CPU_BACKENDS.isdisjoint(p.backends)]
    each = "; ".join(f"{p.name} can use {', '.join(p.backends)} here" for p in gpu_only)
    cupy = " with CuPy" if "ndarray" in needs else ""
    msg = (
        f"{each}, which needs a worker on a CUDA device{cupy}, and {type(executor).__name__} has none: support and "
        "allow 'numpy', or use an executor with GPUs"
    )
    raise NoBackendError(msg)


class MainRun:
    """A run, ready to be handed to an executor.

    Not thread-safe by itself: `lock` is held while a part is merged, and must be held by whoever looks at results from
    another thread.

    Parameters
    ----------
    udfs
        The UDFs; an instance that another run is using now is replaced by a copy.
    dataset
        What is processed.
    roi
        Selected positions, of nav shape, or None.
    corrections
        Detector corrections, or None.
    backends
        Array backends that may be used; None: all.
    executor
        Says which type result buffers have; None: ordinary ones.
    environment
        Where the main side runs.

    Raises
    ------
    UDFException
        When a UDF cannot work on this dataset.
    ValueError
        When the corrections are made for another detector.
    """

    def __init__(
        self,
        udfs: Sequence[UDF],
        dataset: DataSet,
        roi: BoolArray | None,
        corrections: CorrectionSet | None = None,
        backends: str | Iterable[str] | None = None,
        executor: JobExecutor | None = None,
        environment: Environment | None = None,
    ) -> None:
        self.udfs: list[UDF] = []
        self._is_exiting = sys.is_finalizing  # the name `sys` may be gone then
        self.dataset = dataset
        self.roi = roi
        # A signal handler, or a method of a UDF, may look at the run in the thread that merges.
        self.lock = threading.RLock()
        self.merged = 0, 0
        """How many partitions and frames are merged."""
        self._present = self._present_positions()
        n_nav = dataset.shape.nav.size if roi is None else int(np.count_nonzero(roi))
        self._damage = np.zeros(n_nav, dtype=bool)
        self._spans: dict[int, tuple[int, int]] = {}
        self.has_begun = False
        self._kept: UDFResultsLazy | None = None
        self._to_tell: list[UDF] = []
        if corrections is not None:
            corrections.check_fits(tuple(dataset.shape.sig))
            if not corrections.have_corrections():
                corrections = None
        try:
            for udf in udfs:
                self.udfs.append(claim(udf, self))
            plan = make_plan(self.udfs, dataset, roi, corrections, backends)
            _check_workers(plan, executor)
            self._prepare_udfs(plan, corrections, executor, environment)
            wanted = wanted_tasks(self.udfs, plan, n_nav, executor)
            partitions, spans = cut(dataset, roi, wanted, most_tasks(self.udfs, plan, dataset, n_nav))
            self.params = self._make_params(plan, corrections, partitions)
            self.tasks = self._make_tasks(plan, partitions, spans)
            self.n_frames = sum(task.task_frames for task in self.tasks)
        except BaseException:
            try:
                self.end()
            finally:  # whoever keeps the error, as notebooks do, keeps this run
                self._give_back(self.udfs)
            raise

    # -- preparing

    def _present_positions(self) -> BoolArray | None:
        """Return which (selected) flat positions have a frame; None when all have."""
        absent = self.dataset.absent_frames
        if absent is None:
            return None
        present = ~absent.reshape(-1)
        return present if self.roi is None else present[self.roi.reshape(-1)]

    def _prepare_udfs(
        self, plan: RunPlan, corrections: Any, executor: JobExecutor | None, environment: Environment | None
    ) -> None:
        dataset = self.dataset
        cache = RunCache()
        main_gpu = None if environment is None else environment.gpu_id
        if main_gpu is not None and environment is not None and not environment.has_cupy:
            main_gpu = None
        for position, (udf, planned) in enumerate(zip(self.udfs, plan.udfs, strict=True)):
            reset(udf, cache, position)
            udf.set_main_process_gpu(main_gpu)
            prepare_aux(udf._kwargs, dataset.shape, self.roi, planned.name)
            meta = UDFMeta(
                None,
                dataset.shape,
                self.roi,
                dataset.dtype,
                planned.input_dtype,
                corrections=corrections,
                device_class=None if environment is None else environment.device_class,
                threads_per_worker=None if environment is None else environment.threads_per_worker,
                compiled=planned.compiled,
            )
            udf.set_meta(meta)
            with noted(f"get_result_buffers of {planned.name}"):
                udf.init_result_buffers()
            check_results_can_be_made(udf)
            if (kernel := kernel_of(udf, planned.method)) is not None:
                check_kernel(udf, kernel, planned.method)
            for name, declared in list(udf.results.items()):
                udf.results.set_buffer(name, self._allocate(planned.name, name, declared, executor))
            if method_of(udf, "end_run") is not None:
                self._to_tell.append(udf)
            if (preprocess := method_of(udf, "preprocess")) is not None:
                with noted(f"preprocess of {planned.name}, before the run"):
                    preprocess()
            check_tiling(udf)  # what is preferred may depend on all of this

    def _allocate(
        self, udf_name: str, name: str, declared: BufferWrapper, executor: JobExecutor | None
    ) -> BufferWrapper:
        buffer: BufferWrapper = declared if executor is None else executor.modify_buffer_type(declared)
        buffer.set_shape_ds(self.dataset.shape, self.roi)
        try:
            buffer.allocate()
        except MemoryError as e:
            raise too_large(udf_name, name, buffer, "select positions with a roi") from e
        if self._present is not None:
            buffer.mark_absent(~self._present)
        return buffer

    def _make_params(self, plan: RunPlan, corrections: Any, partitions: Sequence[Partition]) -> UDFParams:
        shape = self.dataset.shape
        frames = max((int(p.shape[0]) for p in partitions), default=1)
        scheme = Negotiator().get_scheme(
            self.udfs,
            self.dataset,
            plan.read_dtype,
            Shape((frames, *shape.sig), sig_dims=shape.sig_dims),
            self.roi,
            corrections if plan.corrects else None,
            converts=plan.converts,
            sparse=plan.usual.is_sparse,
        )
        return UDFParams.from_udfs(self.udfs, self.roi, corrections, scheme, plan)

    def _make_tasks(
        self, plan: RunPlan, partitions: Sequence[Partition], spans: Sequence[tuple[int, int]]
    ) -> list[UDFTask]:
        """Return the tasks of all partitions in which something is selected; keep which positions each covers."""
        classes = [type(udf) for udf in self.udfs]
        tasks = []
        for idx, (partition, (start, stop)) in enumerate(zip(partitions, spans, strict=True)):
            if stop == start:
                continue
            partition.set_idx(idx)
            absent = None
            if self._present is not None and not self._present[start:stop].all():
                absent = ~self._present[start:stop]
            tasks.append(UDFTask(partition, idx, classes, plan.resources, task_frames=stop - start, absent=absent))
            self._spans[idx] = (start, stop)
        return tasks

    def belong_to(self, span_context: Any) -> None:
        """Make the spans of all tasks children of this one; None: nobody looks."""
        for task in self.tasks if span_context is not None else ():
            task.belong_to(span_context)

    # -- merging

    @property
    def needs_order(self) -> bool:
        """Whether the order of merging can change the bits of a result."""
        return any(udf._merge_needs_order for udf in self.udfs)

    @property
    def covered(self) -> BoolArray:
        """Which of the (selected) flat positions are merged when the run is over: those with a frame."""
        return np.ones(len(self._damage), dtype=bool) if self._present is None else self._present

    def span(self, task: UDFTask) -> tuple[int, int]:
        """Return the first and the one-past-last of the (selected) flat positions of a task."""
        return self._spans[task.idx]

    @property
    def damage(self) -> BufferWrapper:
        """A copy of the map of what is merged, as nav buffer."""
        buffer = BufferWrapper(kind="nav", dtype=bool)
        buffer.set_shape_ds(self.dataset.shape, self.roi)
        buffer.replace_array(self._damage.copy())
        return buffer

    def merge(self, parts: Sequence[UDFData], task: UDFTask) -> None:
        """Put the results of one partition into those of the whole."""
        start, stop = self._spans[task.idx]
        with self.lock:
            for udf, part in zip(self.udfs, parts, strict=True):
                udf.meta.set_valid_nav_mask(self._damage)
                dest = {
                    name: buffer.raw_data[start:stop] if buffer.kind == "nav" else buffer.raw_data
                    for name, buffer in udf.results.items()
                    if buffer.has_data()
                }
                where = f"partition {task.get_partition().get_ident()}"
                merge_part(udf, dest, part.get_proxy(), start, stop, where)
            self._damage[start:stop] = True if self._present is None else self._present[start:stop]
            n_partitions, n_frames = self.merged
            self.merged = n_partitions + 1, n_frames + task.task_frames

    def count_as_merged(self) -> None:
        """Take all partitions for merged: when results are computed later, it is known how."""
        self.has_begun = True
        self.merged = len(self.tasks), self.n_frames
        self._damage[:] = self.covered

    def results(self) -> UDFResultsLazy:
        """Return the results of what is merged so far; they are made when somebody looks."""
        if self._kept is not None:
            return self._kept

        def make() -> tuple[RunResult, ...]:
            return collect_results(self.udfs, self._damage, self.dataset, self.roi, self.params.corrections)

        return UDFResultsLazy(make, self.damage)

    def keep(self, results: UDFResultsLazy) -> None:
        """Take these for the results of the run, which is complete, from now on: its UDFs may soon work elsewhere."""
        with self.lock:  # who makes some now needs the UDFs
            self._kept = results

    def make_cancelled(self) -> UDFRunCancelled:
        """Return the error of a run that is cancelled now; it says how far it came."""
        return UDFRunCancelled(f"UDF run cancelled after {self.merged[0]} partitions")

    def check_patch(self, parameters: Sequence[Mapping[str, Any]]) -> None:
        """Raise before anybody gets new parameters with which no UDF could be made.

        Raises
        ------
        ValueError
            When there is not one mapping per UDF.
        UDFException
            When a UDF has no such parameter, or refuses it, or auxiliary data does not fit the dataset.
        """
        given: object = parameters
        is_list = isinstance(given, Collection) and not isinstance(given, Mapping)
        if not (is_list and all(isinstance(new, Mapping) for new in parameters)):
            shown = short_repr(parameters)
            msg = f"parameters must be a list with one mapping for each UDF, such as [{{'k': 5}}], not {shown}"
            raise ValueError(msg)
        if len(parameters) != len(self.udfs):
            msg = f"parameters must be given for each of the {len(self.udfs)} UDFs of the run, got {len(parameters)}"
            raise ValueError(msg)
        for udf, new in zip(self.udfs, parameters, strict=True):
            name = type(udf).__name__
            unknown = sorted(set(new) - set(udf._kwargs))
            if unknown:
                known = ", ".join(sorted(udf._kwargs)) or "none"
                msg = f"{name} has no parameter {', '.join(map(repr, unknown))} that could be changed; it has: {known}"
                raise UDFException(msg)
            prepare_aux(new, self.dataset.shape, self.roi, name)
            try:
                type(udf)(**{**udf._kwargs, **new})
            except Exception as e:
                msg = f"{name} cannot be made with the new parameters {', '.join(new)}: {e}"
                raise UDFException(msg) from e

    def patch(self, parameters: Sequence[Mapping[str, Any]]) -> None:
        """Change parameters of the UDFs on the main side."""
        with self.lock:
            for udf, new in zip(self.udfs, parameters, strict=True):
                update_kwargs(udf, new)

    def end(self) -> None:
        """Tell the UDFs that want to know it that the run is over; to be called when no task runs any more.

        May be called again. What a UDF raises ends a run that is complete; one that ended early has another reason.
        """
        udfs, self._to_tell = self._to_tell, []
        if self._is_exiting():  # a UDF can do nothing then
            return
        is_complete = self.has_begun and self.merged[0] == len(self.tasks)
        failure: Exception | None = None
        for udf in udfs:
            if self.has_begun:
                udf.meta.set_valid_nav_mask(self._damage)
            try:
                with noted(f"end_run of {type(udf).__name__}"):
                    method_of(udf, "end_run")(is_complete)
            except Exception as error:
                if is_complete and failure is None:
                    failure = error
                else:
                    why = "as that of another function" if is_complete else "after the run had ended early"
                    logger.warning("end_run of %s failed, %s", type(udf).__name__, why, exc_info=True)
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Tell the UDFs that the run is over, and give them back whatever they raise."""
        try:
            self.end()
        finally:
            self._release()

    def _release(self) -> None:
        """Give the UDF instances back: the run is over. What somebody may still ask for is then made by copies."""
        released = self.udfs
        # An iteration that is left when the interpreter exits ends without modules; nobody asks for anything then.
        if self._kept is None and not self._is_exiting():
            with self.lock:
                self.udfs = [snapshot(udf, udf.results) for udf in released]
        self._give_back(released)

    def _give_back(self, udfs: Sequence[UDF]) -> None:
        for udf in udfs:
            release(udf, self)
