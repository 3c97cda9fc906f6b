"""Where a task runs: how many threads it may use, on which device, and whether it should stop."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from tilework.common.cupy import use_gpu
from tilework.common.threading import mitigations, set_num_threads
from tilework.exceptions import DeadlineExceededError, JobCancelledError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from types import TracebackType

    from tilework.common.worker_queue import WorkerContext

__all__ = ["Environment", "StopFlag", "deadline_after"]


def deadline_after(timeout: float | None) -> float | None:
    """Return `time.monotonic` when so many seconds will have passed; None for ever."""
    # the sum with a NumPy scalar of few digits, such as float16, would have its dtype
    return None if timeout is None else time.monotonic() + float(timeout)


class StopFlag:
    """Tells the tasks of one run to stop; set once, by whoever ends the run.

    Any thread may set it and look at it. It is also set, without anybody's doing, once the run's deadline has passed.

    Parameters
    ----------
    deadline
        `time.monotonic` at which the run must be over, in seconds; None for a run that may take for ever.
    """

    __slots__ = ("_deadline", "_reason")

    def __init__(self, deadline: float | None = None) -> None:
        self._deadline = deadline
        self._reason: str | None = None

    def set(self, reason: str = "the run was cancelled") -> None:
        """Tell all tasks to stop. The first reason counts."""
        if self._reason is None:
            self._reason = reason

    def is_set(self) -> bool:
        """Return whether the tasks of the run should stop."""
        return self._reason is not None or (self._deadline is not None and time.monotonic() >= self._deadline)

    def raise_if_set(self) -> None:
        """Raise JobCancelledError, or DeadlineExceededError when it is the time that is over."""
        if self._reason is not None:
            raise JobCancelledError(self._reason)
        if self._deadline is not None and time.monotonic() >= self._deadline:
            msg = "the run took longer than the time it was given"
            raise DeadlineExceededError(msg)


class Environment:
    """Where a task runs; made by the executor, one for the tasks of a run on one worker.

    A task enters it around its computation (``with env.enter(): ...``), as often as it likes. Nothing of it is left
    afterwards: it never reaches the code of whoever consumes the results.

    Parameters
    ----------
    threads_per_worker
        How many threads BLAS, numba and others may use inside the task; None sets no limit.
    threaded_executor
        Whether other tasks run in other threads of the same process.
    worker_context
        The task's line to the main side.
    gpu_id
        CUDA device to use; None for the CPU.
    stop
        The run's flag; None for work that nobody can stop.
    debug
        Whether compiled functions of users look at every index, which takes longer.
    """

    __slots__ = ("_debug", "_gpu_id", "_stop", "_threaded_executor", "_threads_per_worker", "_worker_context")

    def __init__(
        self,
        threads_per_worker: int | None,
        threaded_executor: bool,
        worker_context: WorkerContext | None = None,
        gpu_id: int | None = None,
        stop: StopFlag | None = None,
        *,
        debug: bool = False,
    ) -> None:
        self._debug = debug
        self._threads_per_worker = threads_per_worker
        self._threaded_executor = threaded_executor
        self._worker_context = worker_context
        self._gpu_id = gpu_id
        self._stop = stop

    @property
    def threads_per_worker(self) -> int | None:
        """How many threads may be used inside the task; None for no limit."""
        return self._threads_per_worker

    @property
    def debug(self) -> bool:
        """Whether compiled functions of users look at every index."""
        return self._debug

    @property
    def threaded_executor(self) -> bool:
        """Whether other tasks run in other threads of this process."""
        return self._threaded_executor

    @property
    def worker_context(self) -> WorkerContext | None:
        """The task's line to the main side, if it has one."""
        return self._worker_context

    @property
    def gpu_id(self) -> int | None:
        """CUDA device to use; None for the CPU."""
        return self._gpu_id

    @property
    def device_class(self) -> str:
        """``"cuda"`` or ``"cpu"``."""
        return "cpu" if self._gpu_id is None else "cuda"

    @property
    def has_cupy(self) -> bool:
        """Whether CuPy can be used here."""
        from tilework.utils.devices import has_cupy

        return has_cupy()

    def raise_if_stopped(self) -> None:
        """Raise JobCancelledError when the run was cancelled or its time is over; to be called between tiles."""
        if self._stop is not None:
            self._stop.raise_if_set()

    def stop_check(self) -> Callable[[], None]:
        """Return what does the same as `raise_if_stopped`, a call less deep: for loops over a million frames."""
        return self.raise_if_stopped if self._stop is None else self._stop.raise_if_set

    def enter(self, enable_gpu: bool = True) -> AbstractContextManager[Environment]:
        """Limit threads and select the device for the code of the ``with`` block.

        Parameters
        ----------
        enable_gpu
            Whether to select the CUDA device for CuPy, where there is one.
        """
        limit = set_num_threads(self._threads_per_worker)
        cms: list[AbstractContextManager[Any]] = []
        if enable_gpu and self._gpu_id is not None:
            cms.append(use_gpu(self._gpu_id))
        # Only the interface cache of pyFFTW needs mitigation, and it cannot be on before pyFFTW is imported.
        if self._threaded_executor and "pyfftw" in sys.modules:
            cms.append(mitigations())
        return _Entered(self, [*cms, limit]) if cms else _Limited(self, limit)


class _Entered:
    """One block of code inside an environment with a device or mitigations: those outside, thread limits inside."""

    __slots__ = ("_cms", "_env", "_stack")

    def __init__(self, env: Environment, cms: list[AbstractContextManager[Any]]) -> None:
        self._env = env
        self._cms = cms

    def __enter__(self) -> Environment:
        with ExitStack() as stack:
            for cm in self._cms:
                stack.enter_context(cm)
            self._stack = stack.pop_all()
        return self._env

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(exc_type, exc, traceback)


class _Limited:
    """A block of code with limited threads; holds nothing of its own, so that any number may be entered at a time."""

    __slots__ = ("_env", "_limit")

    def __init__(self, env: Environment, limit: AbstractContextManager[None]) -> None:
        self._env = env
        self._limit = limit

    def __enter__(self) -> Environment:
        self._limit.__enter__()
        return self._env

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._limit.__exit__(exc_type, exc, traceback)
