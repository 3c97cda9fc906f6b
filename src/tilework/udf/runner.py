"""The main side of a run: prepare it, hand its tasks to the executor, merge what comes back.

::

    UDFRunner.run_for_dataset*      one call by the user
        MainRun                     plan, tiling, buffers of the whole, tasks, parameters; merging
        ResultsForDataSet           iterator over partial results; closing it ends the run

Partial results are merged in partition order wherever the order can change the bits; the executor keeps them in order
within a bounded window. A UDF that leaves merging to tilework has nav results only, of which every partition has its
own part: those are merged as they come, so that a first result is there at once.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.executor import AsyncJobExecutor, JobExecutor, LazyExecutor, Priority, RunOptions, TaskCommHandler
from tilework.common.progress import ProgressManager, ProgressReporter
from tilework.common.roi import normalize_roi
from tilework.common.tracing import RunSpan, add_partition_to_span, attach_to_parent, get_tracer
from tilework.exceptions import DeadlineExceededError, JobCancelledError, UDFException
from tilework.io.dataset.acquisition import acquiring
from tilework.udf.main_run import MainRun
from tilework.udf.plan import make_plan
from tilework.udf.results import UDFResults, UDFResultsLazy
from tilework.udf.task import GenericTask, UDFTask

if TYPE_CHECKING:
    from tilework.common.buffers import BufferWrapper
    from tilework.common.environment import Environment
    from tilework.io.corrections.corrset import CorrectionSet
    from tilework.io.dataset.base import DataSet
    from tilework.udf.base import UDF
    from tilework.udf.data import UDFData

__all__ = ["ResultsForDataSet", "UDFRunner"]

BoolArray = np.ndarray[Any, np.dtype[np.bool_]]

_tracer = get_tracer(__name__)


class ScatteredParams:
    """Under which handle the parameters of a run are scattered, which they are while it goes on.

    The run writes to it, in the thread of its consumer; other threads read.
    """

    def __init__(self) -> None:
        self._opened = threading.Event()
        self.handle: Any = None
        self.is_open = False
        self.is_cancelled = False

    def open(self, handle: Any) -> None:
        """Take note that they are scattered."""
        self.handle, self.is_open = handle, True
        self._opened.set()

    def close(self) -> None:
        """Take note that the run is over."""
        self.handle, self.is_open = None, False
        self._opened.set()

    def wait_until_open(self) -> None:
        """Wait until they are scattered, or the run is over."""
        self._opened.wait()


class ResultsForDataSet(Iterator[UDFResultsLazy]):
    """Iterator over partial results of a run; closing it, or throwing into it, ends the run.

    Parameters
    ----------
    run
        The run.
    steps
        Generator that merges one part per step.
    executor
        Where the tasks run.
    params
        Where the parameters are scattered.
    cancel_id
        Name of the run.
    """

    def __init__(
        self,
        run: MainRun,
        steps: Generator[UDFResultsLazy, None, None],
        executor: JobExecutor,
        params: ScatteredParams,
        cancel_id: str,
    ) -> None:
        self.run = run
        self._steps = steps
        self._executor = executor
        self._params = params
        self.cancel_id = cancel_id

    def __iter__(self) -> ResultsForDataSet:
        return self

    def __next__(self) -> UDFResultsLazy:
        return next(self._steps)

    def close(self) -> None:
        """End the run; tasks that run stop at their next tile."""
        self._steps.close()
        self._params.close()
        self.run.end()  # when nobody has taken a step

    def throw(self, exc: BaseException) -> UDFResultsLazy:
        """End the run with an exception."""
        return self._steps.throw(exc)

    def cancel(self) -> None:
        """Cancel the run from another thread, also when it has not begun."""
        self._params.is_cancelled = True
        self._executor.cancel(self.cancel_id)

    def wait_until_started(self) -> None:
        """Wait until parameters can be changed, or the run is over."""
        self._params.wait_until_open()

    def update_parameters_experimental(self, parameters: Sequence[Mapping[str, Any]]) -> None:
        """Change parameters while the run goes on; tasks that start later use them.

        Parameters
        ----------
        parameters
            One mapping per UDF, with only what changes.

        Raises
        ------
        ValueError
            When there is not one mapping per UDF.
        UDFException
            When the run has not started, or is over; when a UDF cannot be made with the parameters.
        """
        if not self._params.is_open:
            msg = "parameters can be changed while the run goes on: after the first partial result and before the last"
            raise UDFException(msg)
        self.run.check_patch(parameters)
        self._executor.scatter_update_patch(self._params.handle, list(parameters))
        self.run.patch(parameters)


class UDFRunner:
    """Runs UDFs over a dataset.

    Parameters
    ----------
    udfs
        The UDFs; they all see every tile, in one pass over the data.
    debug
        Kept for callers that pass it: tasks are checked by ``InlineJobExecutor(debug=True)``.
    progress_reporter
        Where to report progress; None: a progress bar, when progress is asked for.

    Raises
    ------
    ValueError
        When there is no UDF.
    """

    def __init__(
        self,
        udfs: Sequence[UDF],
        debug: bool = False,  # noqa: ARG002
        progress_reporter: ProgressReporter | None = None,
    ) -> None:
        self._udfs = list(udfs)
        self._progress_reporter = progress_reporter
        if not self._udfs:
            msg = "empty list of UDFs - nothing to do!"
            raise ValueError(msg)

    # -- looking at UDFs without running them

    @classmethod
    def inspect_udf(
        cls, udf: UDF, dataset: DataSet, roi: Any = None, corrections: CorrectionSet | None = None
    ) -> dict[str, BufferWrapper]:
        """Return the results that `udf` declares for `dataset`, with their shapes, not allocated."""
        mask = normalize_roi(roi, tuple(dataset.shape.nav))
        return dict(cls([udf.copy()])._declare(dataset, mask, corrections)[0].items())

    @classmethod
    def dry_run(
        cls, udfs: Sequence[UDF], dataset: DataSet, roi: Any = None, corrections: CorrectionSet | None = None
    ) -> UDFResults:
        """Return results as they are before any data is processed."""
        mask = normalize_roi(roi, tuple(dataset.shape.nav))
        run = MainRun([udf.copy() for udf in udfs], dataset, mask, corrections)
        results = run.results().final()
        run.end()
        return results

    def _declare(self, dataset: DataSet, roi: BoolArray | None, corrections: CorrectionSet | None) -> list[UDFData]:
        make_plan(self._udfs, dataset, roi, corrections)  # which tells each UDF what it may ask for when it declares
        declared = []
        for udf in self._udfs:
            udf.init_result_buffers()
            for buffer in udf.results.values():
                buffer.set_shape_ds(dataset.shape, roi)
            declared.append(udf.results)
        return declared

    def _prepare(
        self,
        dataset: DataSet,
        roi: BoolArray | None,
        corrections: Any,
        backends: str | Iterable[str] | None,
        executor: JobExecutor,
        environment: Environment,
    ) -> MainRun:
        return MainRun(self._udfs, dataset, roi, corrections, backends, executor, environment)

    # -- running

    def run_for_dataset(
        self,
        dataset: DataSet,
        executor: JobExecutor,
        roi: Any = None,
        progress: bool | ProgressReporter = False,
        corrections: Any = None,
        backends: str | Iterable[str] | None = None,
        *,
        options: RunOptions | None = None,
    ) -> UDFResults:
        """Run to the end and return the results; see `run_for_dataset_sync`."""
        steps = self.run_for_dataset_sync(
            dataset, executor, roi, progress, corrections, backends, iterate=False, options=options
        )
        last = None
        for last in steps:
            pass
        assert last is not None
        return last.final()

    def run_for_dataset_sync(
        self,
        dataset: DataSet,
        executor: JobExecutor,
        roi: Any = None,
        progress: bool | ProgressReporter = False,
        corrections: Any = None,
        backends: str | Iterable[str] | None = None,
        *,
        iterate: bool = True,
        options: RunOptions | None = None,
        cancel_id: str | None = None,
    ) -> ResultsForDataSet:
        """Prepare a run and return the iterator over its partial results.

        Parameters
        ----------
        dataset
            What is processed.
        executor
            Where.
        roi
            Selected positions, in any of the forms of `Context.run_udf`.
        progress
            True for a progress bar, or a reporter.
        corrections
            Detector corrections, or None.
        backends
            Array backends that may be used.
        iterate
            Whether to give a partial result after every merged partition, or only the final one.
        options
            Priority and time limit.
        cancel_id
            What to give to `executor.cancel`; None: one is made.

        Raises
        ------
        UDFException
            When a UDF cannot work on this dataset; before any data is read.
        UDFRunCancelled
            While iterating, when the run is cancelled.
        """
        span = RunSpan(_tracer, "run")
        mask = normalize_roi(roi, tuple(dataset.shape.nav))
        task = GenericTask(self._prepare)
        run: MainRun = executor.run_process_local(task, args=(dataset, mask, corrections, backends, executor))
        cancel_id = cancel_id or str(uuid.uuid4())
        reporter = progress if isinstance(progress, ProgressReporter) else self._progress_reporter
        options = options or RunOptions(priority=Priority.INTERACTIVE)
        params = ScatteredParams()
        if isinstance(executor, LazyExecutor):
            from tilework.udf.delayed_run import delayed_steps

            lazy = delayed_steps(run, executor, cancel_id, options, progress=bool(progress))
            return ResultsForDataSet(run, lazy, executor, params, cancel_id)
        steps = self._steps(
            run,
            executor,
            cancel_id,
            params,
            options,
            reporter if progress else None,
            span,
            progress=bool(progress),
            iterate=iterate,
        )
        return ResultsForDataSet(run, steps, executor, params, cancel_id)

    @staticmethod
    def _steps(
        run: MainRun,
        executor: JobExecutor,
        cancel_id: str,
        params: ScatteredParams,
        options: RunOptions,
        reporter: ProgressReporter | None,
        span: RunSpan,
        *,
        progress: bool,
        iterate: bool,
    ) -> Generator[UDFResultsLazy, None, None]:
        """Merge one part per step; the generator owns everything that must be given back when the run ends."""
        run.has_begun = True
        if not run.tasks:
            params.close()
            run.close()
            empty = run.results()
            if not iterate:
                empty.final()
            yield empty
            return
        manager: ProgressManager | None = None
        options = replace(options, ordered=run.needs_order)
        results: UDFResultsLazy | None = None
        try:
            with (
                span.recording(lambda: _describe_run(run, executor, cancel_id)) as span_context,
                acquiring(run.dataset, executor),
                executor.scatter(run.params) as params_handle,
            ):
                run.belong_to(span_context)
                merge = run.merge if span_context is None else _traced(run.merge, span_context)
                comms: TaskCommHandler = run.dataset.get_task_comm_handler()
                manager = _report_progress(run, comms, cancel_id, reporter) if progress else None
                params.open(params_handle)
                parts = executor.run_tasks(run.tasks, params_handle, cancel_id, comms, options=options)
                try:
                    if params.is_cancelled:  # before the executor knew of the run
                        executor.cancel(cancel_id)
                    for part, task in parts:
                        assert isinstance(task, UDFTask)
                        merge(part, task)
                        if manager is not None:
                            manager.finalize_task(task)
                        if iterate:
                            yield run.results()
                finally:
                    parts.close()
            if not iterate:
                results = run.results()
                with run.lock:
                    results.final()
        except DeadlineExceededError:
            raise
        except JobCancelledError as e:
            raise run.make_cancelled() from e
        finally:
            params.close()
            try:
                run.close(are_results_made=results is not None)
            finally:
                if manager is not None:
                    manager.close()
        if results is not None:
            yield results

    async def run_for_dataset_async(
        self,
        dataset: DataSet,
        executor: JobExecutor | AsyncJobExecutor,
        cancel_id: str | None = None,
        roi: Any = None,
        corrections: Any = None,
        backends: str | Iterable[str] | None = None,
        progress: bool | ProgressReporter = False,
        *,
        iterate: bool = True,
        options: RunOptions | None = None,
    ) -> AsyncIterator[UDFResults]:
        """Run in the background and give copies of the partial results; see `run_for_dataset_sync`.

        The executor may be one for asyncio, as from ``executor.ensure_async()``. Cancelling the asyncio task that
        iterates, or closing the generator, cancels the run.
        """
        from tilework.udf.async_steps import AsyncSteps

        steps = AsyncSteps(
            lambda: self.run_for_dataset_sync(
                dataset,
                executor.ensure_sync(),
                roi,
                progress,
                corrections,
                backends,
                iterate=iterate,
                options=options,
                cancel_id=cancel_id,
            )
        )
        try:
            async for results in steps:
                yield results
        finally:
            await steps.aclose()


def _traced(merge: Callable[[Any, UDFTask], None], span_context: Any) -> Callable[[Any, UDFTask], None]:
    """Return what merges a part in a span of its own, below that of the run, which is never the current one."""

    def merge_in_span(part: Any, task: UDFTask) -> None:
        with attach_to_parent(span_context), _tracer.start_as_current_span("merge"):
            add_partition_to_span(task.get_partition())
            merge(part, task)

    return merge_in_span


def _describe_run(run: MainRun, executor: JobExecutor, cancel_id: str) -> dict[str, Any]:
    """Return what the span of a run says about it."""
    return {
        "tilework.run.id": cancel_id,
        "tilework.run.udfs": tuple(type(udf).__name__ for udf in run.udfs),
        "tilework.run.partitions": len(run.tasks),
        "tilework.executor": type(executor).__name__,
        "tilework.dataset": repr(run.dataset),
    }


def _report_progress(
    run: MainRun, comms: TaskCommHandler, cancel_id: str, reporter: ProgressReporter | None
) -> ProgressManager:
    for each in run.tasks:
        each.report_progress()
    manager = ProgressManager(run.tasks, progress_id=cancel_id, reporter=reporter)
    manager.connect(comms)
    return manager
