"""A run that goes on as somebody iterates over it.

Who does what: whoever holds the generator drives the run, in their own thread, so that Ctrl-C, breakpoints and
tracebacks are theirs. `Context.run_udf` goes to the end at once, users of `Context.run_udf_iter` step by step, and for
`Context.submit_udf` a thread of its own does nothing else. The generator alone owns what must be given back: when it is
closed, or nobody has it any more, the run is over. Everybody else has the handle, `ResultGenerator.run`.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from tilework.api.runs import Outcome, UDFRun
from tilework.exceptions import JobCancelledError
from tilework.executor.at_exit import cancel_at_exit, come_before, no_more

if TYPE_CHECKING:
    from tilework.api.plots import Plots
    from tilework.udf.partial_results import ResultsForDataSet
    from tilework.udf.results import UDFResultsLazy

__all__ = ["ResultGenerator", "in_background"]


class ResultGenerator(Iterator["UDFResultsLazy"]):
    """Partial results of a run, one after every merged partition.

    Each item has ``buffers``, always a tuple with one mapping per UDF, and ``damage``, the positions that are merged.
    Items share their arrays with the run: what was got from an earlier item changes as the run goes on.

    Parameters
    ----------
    steps
        The run.
    is_single
        Whether the result is that of the one UDF, rather than a tuple.
    plots
        Which are given every partial result, and what is merged when the run is over, however it ended.

    Attributes
    ----------
    run
        The run as others see it, from any thread: its progress, what is merged by now, and how it ended. Leaving it
        early, and Ctrl-C, cancel it.

    Examples
    --------
    >>> from tilework.udf.sum import SumUDF
    >>> parts = ctx.run_udf_iter(dataset=ds, udf=SumUDF())
    >>> for part in parts:
    ...     print(int(part.damage.data.sum()), "of 48 positions", part.buffers[0]["intensity"].data.shape)
    16 of 48 positions (32, 32)
    32 of 48 positions (32, 32)
    48 of 48 positions (32, 32)
    >>> parts.run
    <UDFRun SumUDF: finished, 3 of 3 partitions>
    """

    def __init__(self, steps: ResultsForDataSet, *, is_single: bool, plots: Plots | None = None) -> None:
        outcome = Outcome()
        self.run: UDFRun[Any] = UDFRun(steps, outcome, is_single=is_single)
        self._parts = _parts(steps, outcome, plots)
        next(self._parts)  # to where it notices that it is closed

    def __iter__(self) -> ResultGenerator:
        return self

    def __next__(self) -> UDFResultsLazy:
        self.run.driven_by(threading.get_ident())
        part: UDFResultsLazy = next(self._parts)
        return part

    def finish(self) -> Any:
        """Go on to the end, and return what `Context.run_udf` returns."""
        self.run.driven_by(threading.get_ident())
        try:
            deque(self._parts, maxlen=0)
            return self.run.result()
        finally:
            del self  # which would hold the error whose traceback holds this frame

    def close(self) -> None:
        """End the run; tasks that run stop at their next tile."""
        self._parts.close()

    def throw(self, exc: BaseException) -> Any:
        """End the run with an exception; a `JobCancelledError` cancels it, which raises `UDFRunCancelled`."""
        return self._parts.throw(exc)

    def cancel(self) -> None:
        """Cancel the run; may be called from any thread."""
        self.run.cancel()

    def update_parameters_experimental(self, parameters: Sequence[Mapping[str, Any]]) -> None:
        """Change parameters while the run goes on; tasks that start later use them.

        Parameters
        ----------
        parameters
            One mapping per UDF, with only what changes.
        """
        self.run.update_parameters_experimental(parameters)


def in_background(parts: ResultGenerator) -> UDFRun[Any]:
    """Let a thread of its own drive a run to its end.

    When the interpreter exits, it is cancelled, and the thread is waited for.
    """
    run = parts.run
    cancel_at_exit(run)
    come_before(ThreadPoolExecutor)
    thread = threading.Thread(target=_go_through, args=(parts,), name="tilework-run")
    thread.start()
    run.driven_by(thread.ident)
    return run


def _go_through(parts: ResultGenerator) -> None:
    with contextlib.suppress(BaseException):  # it is raised where the result is asked for
        parts.finish()
    no_more(parts.run)
    del parts  # which holds the error whose traceback holds this frame


@contextlib.contextmanager
def _cancelled_by_throw(steps: ResultsForDataSet) -> Iterator[None]:
    """Take a JobCancelledError that is thrown in for a wish to cancel the run."""
    try:
        yield
    except JobCancelledError as error:
        raise steps.run.make_cancelled() from error


def _parts(steps: ResultsForDataSet, outcome: Outcome, plots: Plots | None) -> Generator[Any, None, None]:
    """Yield None, and then the partial results; whatever ends it is the outcome of the run."""
    last = None
    try:
        with contextlib.closing(steps):
            with _cancelled_by_throw(steps):
                yield None
            for last in steps:
                if plots is not None:
                    plots(last)
                with _cancelled_by_throw(steps):
                    yield last
            assert last is not None
            if plots is not None:
                plots.show_last(last)
        outcome.set_results(last)
    except BaseException as error:
        try:
            if plots is not None and last is not None:
                plots.show_left(last, error)
        finally:
            # Ctrl-C, or being left, is an end for whoever drives it; others see a run that was cancelled.
            told: BaseException = error if isinstance(error, Exception) else steps.run.make_cancelled()
            if told is not error and not isinstance(error, GeneratorExit):
                told.__cause__ = error
            outcome.set_error(told)
            # The error's traceback holds this frame: with it, neither would be freed before the garbage collector
            # comes by.
            del outcome, told
        raise
