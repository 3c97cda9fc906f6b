"""A run, as everybody sees it but the one who drives it.

Who does what: one thread drives a run (see `tilework.api.generators`): it hands tasks to the executor, merges what
comes back, and says in the end how it went (`Outcome`). Everybody else may look, wait and cancel, from any thread and
from asyncio. `MainRun.lock` is held while a part is merged, and while somebody looks at what is merged.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from tilework.common.latch import Latch
from tilework.common.numbers import is_real
from tilework.exceptions import ExecutorError, UDFRunCancelled
from tilework.udf.results import RunResult, UDFResults, copied

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from typing import Self

    from typing_extensions import TypeVar as TypeVarWithDefault  # which only type checkers have in all versions

    from tilework.udf.partial_results import ResultsForDataSet
    from tilework.udf.results import UDFResultsLazy

    ResultT = TypeVarWithDefault("ResultT", default=Any)
else:
    ResultT = TypeVar("ResultT")

__all__ = ["Outcome", "RunProgress", "RunUDFResultType", "UDFRun"]

RunUDFResultType = RunResult
"""What LiberTEM calls the results of one UDF, for annotations of its users' programs."""

_LONGEST_WAIT: Final = 0.5


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How much of a run is merged."""

    partitions: int
    partitions_total: int
    frames: int
    frames_total: int

    @property
    def fraction(self) -> float:
        """Part of the frames that is merged, between 0 and 1."""
        return self.frames / self.frames_total if self.frames_total else 1.0


class Outcome:
    """How a run went: the driver says it, once, and others may look and wait.

    A Future has a lock that is written in Python. Ctrl-C while the main thread asks it can leave that locked, and then
    the driver gets no further. So it is only for callbacks and asyncio; what is asked often is plain, and so is the
    lock of those who wait.
    """

    def __init__(self) -> None:
        self.results: UDFResultsLazy | None = None
        self.error: BaseException | None = None
        self.known = Latch()
        self.future: Future[UDFResultsLazy] = Future()
        self.future.set_running_or_notify_cancel()

    def set_results(self, results: UDFResultsLazy) -> None:
        """Say that it is finished."""
        self.results = results
        self.known.set()
        self.future.set_result(results)

    def set_error(self, error: BaseException) -> None:
        """Say what ended it, unless that is known."""
        if not self.known.is_set:
            self.results, self.error = None, error
            self.known.set()
        if not self.future.done():
            self.future.set_exception(error)

    def get(self) -> UDFResultsLazy:
        """Return the results, or raise the error; to be called when it is known."""
        try:
            if self.error is not None:
                raise self.error
            assert self.results is not None
            return self.results
        finally:
            del self  # which holds the error whose traceback holds this frame


class UDFRun(Generic[ResultT]):
    """A run of user-defined functions: in the background (`Context.submit_udf`), or one that somebody iterates over.

    It has the methods of `concurrent.futures.Future`, and can be awaited. All of them may be called from any thread.

    Parameters
    ----------
    steps
        The run, prepared.
    outcome
        Told by whoever drives the run.
    is_single
        Whether the result is that of the one UDF, rather than a tuple.

    Examples
    --------
    >>> from tilework.udf.sum import SumUDF
    >>> run = ctx.submit_udf(dataset=ds, udf=SumUDF())
    >>> run.result(timeout=60)["intensity"].data.shape
    (32, 32)
    >>> run
    <UDFRun SumUDF: finished, 3 of 3 partitions>
    >>> run.progress.fraction
    1.0
    """

    def __init__(self, steps: ResultsForDataSet, outcome: Outcome, *, is_single: bool) -> None:
        self._steps = steps
        self._outcome = outcome
        self._is_single = is_single
        # Which thread of which process drives it, once it has begun.
        self._driver: tuple[int, int] | None = None

    def driven_by(self, thread: int | None) -> None:
        """Take note of the thread that drives it, by its identifier; it is one of this process."""
        self._driver = None if thread is None else (os.getpid(), thread)

    def __repr__(self) -> str:
        names = ", ".join(type(udf).__name__ for udf in self._steps.run.udfs)
        state = "running"
        if self.done():
            state = "cancelled" if self.cancelled() else "failed" if self.exception() else "finished"
        done = self.progress
        return f"<UDFRun {names}: {state}, {done.partitions} of {done.partitions_total} partitions>"

    # -- looking at it

    @property
    def progress(self) -> RunProgress:
        """How much is merged."""
        run = self._steps.run
        n_partitions, n_frames = run.merged
        return RunProgress(n_partitions, len(run.tasks), n_frames, run.n_frames)

    def partial(self) -> UDFResults:
        """Return a copy of what is merged by now.

        Returns
        -------
        UDFResults
            With ``buffers``, always a tuple with one mapping per UDF, and ``damage``, the positions that are merged.
            It does not change any more. Also the run that failed, or was cancelled, keeps what it had merged.
        """
        run = self._steps.run
        with run.lock:
            if self._outcome.results is not None:
                return self._outcome.results.final()
            return copied(run.results())

    def done(self) -> bool:
        """Return whether it is over, in whatever way."""
        return self._outcome.known.is_set

    def running(self) -> bool:
        """Return whether it is not over; it may still wait for its first worker."""
        return not self._outcome.known.is_set

    def cancelled(self) -> bool:
        """Return whether it was cancelled before it was finished."""
        return isinstance(self._outcome.error, UDFRunCancelled)

    # -- waiting for it

    def result(self, timeout: float | None = None) -> ResultT:
        """Wait for the result.

        Ctrl-C ends the wait, not a run in the background.

        Parameters
        ----------
        timeout
            How long to wait at most, in seconds; None: until it is over. The run goes on when the time is over.

        Returns
        -------
        RunResult or tuple of RunResult
            What `Context.run_udf` returns.

        Raises
        ------
        TimeoutError
            When it is not over in time.
        UDFRunCancelled
            When the run was cancelled.
        RuntimeError
            When it would never be over, because this thread iterates over it.
        ExecutorError
            In a process that was forked from the one where the run goes on.
        Exception
            What `Context.run_udf` raises.
        """
        try:
            self._wait(timeout)
            return self._unwrap(self._outcome.get())
        finally:
            del self  # which holds the error whose traceback holds this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait until it is over, and return the error that ended it; None when it is finished.

        Raises
        ------
        TimeoutError
            When it is not over in time.
        RuntimeError
            When it would never be over, because this thread iterates over it.
        ExecutorError
            In a process that was forked from the one where the run goes on.
        """
        self._wait(timeout)
        return self._outcome.error

    def _wait(self, timeout: float | None) -> None:
        if not (timeout is None or is_real(timeout)):
            msg = f"timeout must be a number of seconds, or None to wait until the run is over, not {timeout!r}"
            raise TypeError(msg)
        until = None if timeout is None else time.monotonic() + timeout
        while not self._outcome.known.is_set:
            self._check_process()
            if self._is_driven_here():
                msg = f"this thread iterates over the run, and would wait for itself: go on to its end first: {self!r}"
                raise RuntimeError(msg)
            left = _LONGEST_WAIT if until is None else min(until - time.monotonic(), _LONGEST_WAIT)
            if left <= 0:
                msg = f"the run is not over after {timeout} s of waiting, and goes on: {self!r}"
                raise TimeoutError(msg)
            # in pieces, because a long wait can miss a KeyboardInterrupt that comes just before it begins
            self._outcome.known.wait(left)

    def _is_driven_here(self) -> bool:
        return self._driver == (os.getpid(), threading.get_ident())

    def _check_process(self) -> None:
        """Raise ExecutorError in a process that was forked from the one where the run goes on."""
        if self._driver is not None and self._driver[0] != os.getpid():
            msg = f"the run goes on in the process that this one was forked from, wait for it there: {self!r}"
            raise ExecutorError(msg)

    def _unwrap(self, results: UDFResultsLazy) -> ResultT:
        with self._steps.run.lock:
            buffers: Any = results.buffers
        result: ResultT = buffers[0] if self._is_single else buffers
        return result

    def add_done_callback(self, fn: Callable[[Self], Any]) -> None:
        """Call ``fn(run)`` when it is over, in the thread that drives it; at once when it is over already.

        An exception of `fn` is logged.
        """
        self._outcome.future.add_done_callback(lambda _: fn(self))

    def __await__(self) -> Generator[Any, None, ResultT]:
        """Wait for the result; cancelling the asyncio task that waits cancels the run, and waits for its end."""
        return self._wait_async().__await__()

    async def _wait_async(self) -> ResultT:
        import asyncio

        from tilework.common.async_utils import ignore_outcome, kept_awake

        if not self._outcome.known.is_set:
            self._check_process()
        over = asyncio.wrap_future(self._outcome.future)
        over.add_done_callback(ignore_outcome)
        try:
            with kept_awake():
                return self._unwrap(await asyncio.shield(over))
        except asyncio.CancelledError:
            self.cancel()
            await asyncio.wait([over])
            raise

    # -- influencing it

    def cancel(self) -> bool:
        """Cancel the run: its tasks stop at their next tile. Does not wait for that.

        Whoever iterates over it gets `UDFRunCancelled` with the next step.

        Returns
        -------
        bool
            Whether it was still going on. It may be finished all the same, when it was just about to be.
        """
        if self._outcome.known.is_set:
            return False
        self._steps.cancel()
        return True

    def _cancel_all(self, reason: str) -> None:  # noqa: ARG002
        self.cancel()

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
            When the run is over; when nobody has begun to iterate over it.
        """
        if self._driver is not None and not self._is_driven_here():
            self._steps.wait_until_started()
        self._steps.update_parameters_experimental(parameters)
