"""A run that goes on while somebody iterates over its partial results.

Partial results are merged in partition order wherever the order can change the bits; the executor keeps them in order
within a bounded window. A UDF that leaves merging to tilework has nav results only, of which every partition has its
own part: those are merged as they come, so that a first result is there at once.

Who does what: whoever iterates drives the run, in their own thread; each step waits for a part and merges it. The
generator of the steps owns everything that must be given back when the run ends. Nothing that it refers to refers back
to it: a run that nobody holds any more is over at once. Other threads have a `RunLink`: they may cancel, and change
parameters.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tilework.common.latch import Latch
from tilework.common.progress import ProgressManager
from tilework.common.tracing import add_partition_to_span, attach_to_parent, get_tracer
from tilework.common.without_options import run_tasks_with
from tilework.exceptions import DeadlineExceededError, ExecutorError, JobCancelledError, UDFException
from tilework.io.dataset.acquisition import acquiring
from tilework.udf.results import UDFResultsLazy
from tilework.udf.task import UDFTask

if TYPE_CHECKING:
    from tilework.common.executor import JobExecutor, RunOptions, TaskCommHandler
    from tilework.common.progress import ProgressReporter
    from tilework.common.tracing import RunSpan
    from tilework.udf.main_run import MainRun

__all__ = ["ResultsForDataSet", "RunLink", "merge_parts"]

log = logging.getLogger(__name__)
_tracer = get_tracer(__name__)

_LONGEST_WAIT: Final = 0.5
"""A longer wait for a lock can miss a KeyboardInterrupt."""


class RunLink:
    """A run on an executor, for threads that do not drive it. Thread-safe, but for `open` and `close`.

    Parameters
    ----------
    run
        The run.
    executor
        Where its tasks run.
    cancel_id
        Its name there.
    """

    def __init__(self, run: MainRun, executor: JobExecutor, cancel_id: str) -> None:
        self.run = run
        self.executor = executor
        self.cancel_id = cancel_id
        self.is_cancelled = False
        self._has_begun = Latch()
        self._params_handle: Any = None
        # What came last must be last on the workers and on the main side: who changes parameters waits for the others.
        self._updating = threading.RLock()

    def open(self, params_handle: Any) -> None:
        """Take note that the parameters are scattered; called by the run itself."""
        self._params_handle = params_handle
        self._has_begun.set()

    def close(self) -> None:
        """Take note that no more parameters can be changed; called by the run itself."""
        with self._updating:
            self._params_handle = None
        self._has_begun.set()

    def wait_until_started(self) -> None:
        """Wait until parameters can be changed, or the run is over."""
        while not self._has_begun.wait(_LONGEST_WAIT):
            pass

    def cancel(self) -> None:
        """Cancel the run, also when it has not begun."""
        self.is_cancelled = True
        self.executor.cancel(self.cancel_id)

    def update_parameters(self, parameters: Sequence[Mapping[str, Any]]) -> None:
        """Change parameters; see `ResultsForDataSet.update_parameters_experimental`."""
        with self._updating:
            handle = self._params_handle
            if handle is None:
                msg = (
                    "parameters can be changed while the run goes on: after the first partial result and before the "
                    "last"
                )
                raise UDFException(msg)
            self.run.check_patch(parameters)
            self.executor.scatter_update_patch(handle, list(parameters))
            self.run.patch(parameters)


class ResultsForDataSet(Iterator[UDFResultsLazy]):
    """Iterator over partial results of a run; closing it, or throwing into it, ends the run.

    Parameters
    ----------
    link
        The run, as others have it.
    steps
        Generator that merges one part per step.
    """

    def __init__(self, link: RunLink, steps: Generator[UDFResultsLazy, None, None]) -> None:
        self.run = link.run
        self.cancel_id = link.cancel_id
        self._link = link
        self._steps = steps

    def __iter__(self) -> ResultsForDataSet:
        return self

    def __next__(self) -> UDFResultsLazy:
        return next(self._steps)

    def close(self) -> None:
        """End the run; tasks that run stop at their next tile."""
        self._steps.close()
        self._link.close()
        self.run.end()  # when nobody has taken a step

    def throw(self, exc: BaseException) -> UDFResultsLazy:
        """End the run with an exception."""
        try:
            return self._steps.throw(exc)
        finally:
            self.close()  # when nobody has taken a step, the steps do not end it

    def cancel(self) -> None:
        """Cancel the run from another thread, also when it has not begun."""
        self._link.cancel()

    def wait_until_started(self) -> None:
        """Wait until parameters can be changed, or the run is over."""
        self._link.wait_until_started()

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
        self._link.update_parameters(parameters)


def merge_parts(
    link: RunLink,
    options: RunOptions,
    span: RunSpan,
    reporter: ProgressReporter | Callable[[], ProgressReporter] | None,
    *,
    iterate: bool,
) -> Generator[UDFResultsLazy, None, None]:
    """Merge one part per step.

    Parameters
    ----------
    link
        The run, as others have it.
    options
        Priority and time limit.
    span
        Of the run.
    reporter
        Where to report progress, or what makes one; None: nowhere.
    iterate
        Whether to yield after every part, or the final results only.
    """
    run, executor = link.run, link.executor
    run.has_begun = True
    if not run.tasks:
        yield _results_of_nothing(link, iterate=iterate)
        return
    manager: ProgressManager | None = None
    options = replace(options, ordered=run.needs_order)
    results: UDFResultsLazy | None = None
    try:
        with (
            span.recording(lambda: _describe_run(link)) as span_context,
            acquiring(run.dataset, executor),
            executor.scatter(run.params) as params_handle,
        ):
            run.belong_to(span_context)
            merge = run.merge if span_context is None else _traced(run.merge, span_context)
            comms: TaskCommHandler = run.dataset.get_task_comm_handler()
            manager = _report_progress(link, comms, reporter)
            link.open(params_handle)
            parts = run_tasks_with(executor, run.tasks, params_handle, link.cancel_id, comms, options)
            try:
                if link.is_cancelled:  # before the executor knew of the run
                    executor.cancel(link.cancel_id)
                for part, task in parts:
                    if link.is_cancelled:  # also where the executor cannot cancel
                        msg = "the run was cancelled"
                        raise JobCancelledError(msg)
                    assert isinstance(task, UDFTask)
                    merge(part, task)
                    if manager is not None:
                        manager.finalize_task(task)
                    if iterate:
                        yield run.results()
            finally:
                try:
                    link.close()  # before the parameters are gone
                finally:
                    parts.close()
        if not iterate:
            results = run.results()
            with run.lock:
                results.final()
            run.keep(results)
    except (JobCancelledError, ExecutorError) as e:
        if _is_cancelled(link, e):
            raise run.make_cancelled() from e
        raise
    finally:
        link.close()
        try:
            run.close()
        finally:
            if manager is not None:
                _end_report(manager)
    if results is not None:
        yield results


def _is_cancelled(link: RunLink, error: Exception) -> bool:
    """Return whether an error of a run means that it was cancelled."""
    if isinstance(error, DeadlineExceededError):
        return False
    # Who closes an executor cancels its runs: one that had not begun finds it closed.
    return isinstance(error, JobCancelledError) or link.is_cancelled


def _end_report(manager: ProgressManager) -> None:
    try:
        manager.close()
    except Exception:  # of a reporter of somebody's own; the run has its results, or another reason to end
        log.exception("the end of a run could not be reported")


def _results_of_nothing(link: RunLink, *, iterate: bool) -> UDFResultsLazy:
    link.close()
    link.run.close()
    results = link.run.results()
    if not iterate:
        results.final()
    return results


def _traced(merge: Callable[[Any, UDFTask], None], span_context: Any) -> Callable[[Any, UDFTask], None]:
    """Return what merges a part in a span of its own, below that of the run, which is never the current one."""

    def merge_in_span(part: Any, task: UDFTask) -> None:
        with attach_to_parent(span_context), _tracer.start_as_current_span("merge"):
            add_partition_to_span(task.get_partition())
            merge(part, task)

    return merge_in_span


def _describe_run(link: RunLink) -> dict[str, Any]:
    """Return what the span of a run says about it."""
    run = link.run
    return {
        "tilework.run.id": link.cancel_id,
        "tilework.run.udfs": tuple(type(udf).__name__ for udf in run.udfs),
        "tilework.run.partitions": len(run.tasks),
        "tilework.executor": type(link.executor).__name__,
        "tilework.dataset": repr(run.dataset),
    }


def _report_progress(
    link: RunLink, comms: TaskCommHandler, reporter: ProgressReporter | Callable[[], ProgressReporter] | None
) -> ProgressManager | None:
    if reporter is None:
        return None
    tasks = link.run.tasks
    for each in tasks:
        each.report_progress()
    manager = ProgressManager(tasks, progress_id=link.cancel_id, reporter=reporter)
    manager.connect(comms)
    return manager
