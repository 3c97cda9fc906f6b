"""The main side of a run: prepare it, hand its tasks to the executor, merge what comes back.

::

    UDFRunner.run_for_dataset*      one call by the user
        MainRun                     plan, tiling, buffers of the whole, tasks, parameters; merging
        ResultsForDataSet           iterator over partial results; closing it ends the run
"""

from __future__ import annotations

import copy
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.executor import AsyncJobExecutor, JobExecutor, LazyExecutor, RunOptions
from tilework.common.progress import ProgressReporter, TQDMProgressReporter
from tilework.common.roi import normalize_roi
from tilework.common.tracing import RunSpan, get_tracer
from tilework.udf.main_run import MainRun
from tilework.udf.partial_results import ResultsForDataSet, RunLink, merge_parts
from tilework.udf.plan import make_plan
from tilework.udf.task import GenericTask

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from tilework.common.buffers import BufferWrapper
    from tilework.io.corrections.corrset import CorrectionSet
    from tilework.io.dataset.base import DataSet
    from tilework.udf.base import UDF
    from tilework.udf.results import UDFResults

__all__ = ["ResultsForDataSet", "UDFRunner"]

BoolArray = np.ndarray[Any, np.dtype[np.bool_]]

_tracer = get_tracer(__name__)


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
        """Return the results that `udf` declares for `dataset`, with their shapes, not allocated.

        Parameters are those of `Context.run_udf`.
        """
        mask = normalize_roi(roi, tuple(dataset.shape.nav))
        declaring = udf.copy()
        make_plan([declaring], dataset, mask, corrections)  # which tells it what it may ask for when it declares
        declaring.init_result_buffers()
        for buffer in declaring.results.values():
            buffer.set_shape_ds(dataset.shape, mask)
        return dict(declaring.results.items())

    @classmethod
    def dry_run(
        cls, udfs: Sequence[UDF], dataset: DataSet, roi: Any = None, corrections: CorrectionSet | None = None
    ) -> UDFResults:
        """Return results as they are before any data is processed; parameters are those of `run_for_dataset_sync`."""
        mask = normalize_roi(roi, tuple(dataset.shape.nav))
        run = MainRun([udf.copy() for udf in udfs], dataset, mask, corrections)
        try:
            return run.results().final()
        finally:
            run.end()

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
        cancel_id: str | None = None,
    ) -> UDFResults:
        """Run to the end and return the results; see `run_for_dataset_sync`."""
        steps = self.run_for_dataset_sync(
            dataset, executor, roi, progress, corrections, backends, iterate=False, options=options, cancel_id=cancel_id
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
        udfs = self._udfs
        is_lazy = isinstance(executor, LazyExecutor)
        if is_lazy:  # it is computed when the program has perhaps gone on to other parameters, in the same arrays
            from tilework.udf.kept_arrays import kept

            udfs, corrections = kept(udfs), copy.deepcopy(corrections)
        args = (udfs, dataset, mask, corrections, backends, executor)
        run: MainRun = executor.run_process_local(GenericTask(MainRun), args=args)
        link = RunLink(run, executor, cancel_id or str(uuid.uuid4()))
        options = options or RunOptions()
        if is_lazy:
            from tilework.udf.delayed_run import delayed_steps

            steps = delayed_steps(run, executor, link.cancel_id, options, progress=bool(progress))
        else:
            steps = merge_parts(link, options, span, self._reporter(progress), iterate=iterate)
        return ResultsForDataSet(link, steps)

    def _reporter(self, progress: bool | ProgressReporter) -> ProgressReporter | Callable[[], ProgressReporter] | None:
        if isinstance(progress, ProgressReporter):
            return progress
        return (self._progress_reporter or TQDMProgressReporter) if progress else None

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
