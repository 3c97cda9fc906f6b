"""The executor whose workers are processes of this machine, pinned to its CPUs and devices."""

from __future__ import annotations

import os
import weakref
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from tilework.common.executor import RunOptions
from tilework.common.numbers import is_real, is_whole
from tilework.common.scheduler import WorkerSet
from tilework.common.tracing import current_span_context
from tilework.exceptions import ExecutorSpecException, PoolStateError
from tilework.executor.at_exit import before_threads_are_joined
from tilework.executor.calling import Call, OnWorker
from tilework.executor.driven import is_streamed
from tilework.executor.pipelined.backend import PipelinedBackend
from tilework.executor.pipelined.hub import Hub
from tilework.executor.pipelined.memory import TOO_MANY_FILES
from tilework.executor.pipelined.parcel import Packed, pack
from tilework.executor.pipelined.pool import WorkerPool
from tilework.executor.pipelined.spec import WorkerSpec, check_spec, describe_worker, make_spec, resized
from tilework.executor.pipelined.store import HubStore
from tilework.executor.pipelined.stream import Feeder
from tilework.executor.pipelined.worker import be_worker
from tilework.executor.run import Bounds
from tilework.executor.storing import StoringJobExecutor
from tilework.utils.devices import detect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tilework.common.executor import GPUSpec, TaskProtocol
    from tilework.executor.driven import TaskRun
    from tilework.executor.driver import Backend, RunControl
    from tilework.executor.pipelined.member import Launch
    from tilework.executor.pipelined.wire import Wire

__all__ = ["PipelinedExecutor"]

T = TypeVar("T")
V = TypeVar("V")

_IN_ORDER: Final = RunOptions(ordered=True)


class PipelinedExecutor(StoringJobExecutor):
    """Runs tasks and functions in processes of this machine, each on a CPU or device of its own.

    Tasks get at their data by themselves, or it is streamed to them while it arrives. Large arrays pass through shared
    memory. A worker that dies is replaced, and its tasks are repeated. Any number of runs, functions, and scattered
    objects may be under way at a time, from any threads.

    Parameters
    ----------
    spec
        The workers, as `make_spec` makes it; by default one for each CPU and CUDA device that may be used.
    pin_workers
        Whether each worker for the CPU stays on one CPU.
    startup_timeout
        How long the set-up of a worker may take, in seconds.
    cleanup_timeout
        How long `close` waits for workers that are still busy, in seconds, before it kills them.
    early_setup
        Called in each worker before anything else, also in those that replace others.
    main_process_gpu
        GPU for what runs outside of tasks: the number of a CUDA device, True for the first one, False for none; None
        for the first one if CuPy can use it.
    shared_memory
        The most shared memory for data on its way to and from workers, in bytes; by default half of what the system,
        and the control group of this process, have left; no less than 1 MiB for what goes to workers, and for what
        comes from each. When it is full, whoever writes waits.
    shared_memory_folder
        Make files in this folder for shared memory, which are removed at once; by default it needs no place, where the
        system has anonymous memory files.

    Raises
    ------
    ExecutorSpecException
        When `spec` describes no pool, a number makes no sense, or on a system that is not Linux.
    PoolStateError
        When a worker ends in its set-up, or takes too long, or this process may not open the files that it takes.
    MemoryError
        When there is no room for shared memory, or no such folder for it.
    Exception
        What `early_setup` raised in a worker.

    Warns
    -----
    RuntimeWarning
        When it takes long until the workers are ready.
    """

    def __init__(
        self,
        spec: list[WorkerSpec] | None = None,
        pin_workers: bool = True,
        startup_timeout: float = 30.0,
        cleanup_timeout: float = 10.0,
        early_setup: Callable[[], Any] | None = None,
        main_process_gpu: GPUSpec = None,
        *,
        shared_memory: int | None = None,
        shared_memory_folder: str | None = None,
    ) -> None:
        super().__init__(main_process_gpu)
        if spec is None:
            spec = make_spec(**detect())
        check_spec(spec)
        for name, seconds in (("startup_timeout", startup_timeout), ("cleanup_timeout", cleanup_timeout)):
            if not (is_real(seconds) and seconds >= 0):
                msg = f"{name} must be a number of seconds, not {seconds!r}"
                raise ExecutorSpecException(msg)
        if shared_memory is not None and not (is_whole(shared_memory) and shared_memory > 0):
            msg = f"shared_memory must be a number of bytes, not {shared_memory!r}"
            raise ExecutorSpecException(msg)
        self._spec = list(spec)
        self._pin = pin_workers
        self._cleanup_timeout = float(cleanup_timeout)
        worker_fn = partial(be_worker, pin=pin_workers, span_context=current_span_context(), early_setup=early_setup)

        def make_pool(on_blocked: Callable[[Wire], None], on_launch: Callable[[Launch], None]) -> WorkerPool:
            return WorkerPool(
                worker_fn,
                self._spec,
                startup_timeout=float(startup_timeout),
                on_blocked=on_blocked,
                on_launch=on_launch,
                shared_memory=shared_memory,
                folder=shared_memory_folder,
            )

        # The hub's thread must not keep an executor alive that nobody uses any more.
        me = weakref.ref(self)

        def on_loss(name: str, cause: str) -> None:
            executor = me()
            if executor is not None:
                executor._note("worker_lost", {"worker": name, "cause": cause})

        try:
            self._hub = Hub(make_pool, on_loss)
        except OSError as error:
            if error.errno not in TOO_MANY_FILES:
                raise
            msg = f"One or more workers failed to start: {error}: raise the limit of open files (ulimit -n)"
            raise PoolStateError(msg) from error
        self._store = HubStore(self._hub)
        self._finalizer = weakref.finalize(self, self._hub.close_nowait)
        _open_hubs.add(self._hub)
        _open_executors.add(self)
        try:
            self._hub.wait_started()
        except BaseException:
            self._hub.close(0.0)
            raise

    @classmethod
    def make_local(cls, main_process_gpu: GPUSpec = None, **kwargs: Any) -> Self:
        """Make an executor with a worker for each CPU and CUDA device that this process may use.

        Parameters
        ----------
        main_process_gpu
            See the class.
        **kwargs
            For the class.
        """
        return cls(spec=make_spec(**detect()), main_process_gpu=main_process_gpu, **kwargs)

    @classmethod
    def make_spec(
        cls, cpus: int | Iterable[int], cudas: int | Iterable[int], has_cupy: bool = False
    ) -> list[WorkerSpec]:
        """Describe workers: one for each CUDA device that is named, then one for each CPU.

        Parameters
        ----------
        cpus
            Numbers of CPUs, or how many.
        cudas
            Numbers of CUDA devices, several times for several workers on it, or how many workers.
        has_cupy
            Whether workers on CUDA devices can use CuPy.

        Raises
        ------
        ExecutorSpecException
            When there would be no worker, or a CPU is named twice.
        """
        return make_spec(cpus, cudas, has_cupy)

    # ---- workers ----

    def get_available_workers(self) -> WorkerSet:
        """Return the workers, one entry for each process."""
        return WorkerSet([describe_worker(each) for each in self._spec])

    def resize(self, n: int) -> None:
        """Have `n` workers for the CPU from now on, also while runs go on; those for CUDA devices stay.

        Parameters
        ----------
        n
            How many. Workers that are too many end when they have done what they have.

        Raises
        ------
        ExecutorSpecException
            When there would be no worker, or `n` is not a whole number.
        """
        with self._lock:  # the hub is told in the same order
            self._check_open()
            self._spec = resized(self._spec, n)
            self._hub.resize(self._spec)

    # ---- tasks and functions ----

    def _open_tasks(self, asked: TaskRun) -> Backend[TaskProtocol]:
        hub, handler = self._hub, asked.handler
        opening = asked.params_handle, Packed(b"", ())
        backend: PipelinedBackend[TaskProtocol] = PipelinedBackend(
            hub, asked.control, asked.options.priority, opening, asked.messages, current_span_context()
        )
        if is_streamed(handler):
            backend.stream_with(lambda run, fail: Feeder(hub, handler, run, fail))
        return backend

    def _open_calls(self, fn: Callable[[V], Any], control: RunControl, options: RunOptions) -> Backend[V]:
        try:
            packed = pack(fn)
        except Exception as error:
            error.add_note(f"{fn!r} cannot be sent to a worker: it is not picklable")
            raise
        return PipelinedBackend(self._hub, control, options.priority, (None, packed))

    def _bounds(self, *, is_streamed: bool) -> Bounds:
        n = len(self._spec)
        if is_streamed:
            # What is under way beyond the running tasks is detector data that waits in memory.
            return Bounds(n, prefetch=2, prefetch_short=2)
        # More than a worker has at a time: while the main process merges one result, none must wait for the next.
        return Bounds(n, prefetch=6, windows=2)

    def run_each_worker(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> dict[str, T]:
        """Run ``fn(*args, **kwargs)`` once in each worker, all at a time; results by the worker's name."""
        names = self.get_available_workers().names()
        calls = [OnWorker(name) for name in names]
        results = self._call_each(Call(fn, args, kwargs), calls, _IN_ORDER)
        return dict(zip(names, (result for result, _ in results), strict=True))

    # ---- the rest ----

    def _limits(self) -> dict[str, Any]:
        pool = self._hub.pool
        return {
            **super()._limits(),
            "pinned": self._pin,
            "shared_memory_bytes": pool.arena.budget,
            "shared_memory_bytes_per_worker": pool.result_budget,
        }

    def report(self) -> dict[str, Any]:
        """Return who runs where, with what limits, and what happened so far; see `BaseJobExecutor.report`.

        Beyond that, ``processes``: for each worker its process, CPUs, state, and the last lines of its stderr.
        """
        report = super().report()
        report["processes"] = [] if report["closed"] else self._hub.exchange.describe()
        return report

    def _check_open(self) -> None:
        super()._check_open()
        self._hub.check_open()

    def _release(self) -> None:
        self._finalizer.detach()
        self._hub.close(self._cleanup_timeout)


_open_hubs: weakref.WeakSet[Hub] = weakref.WeakSet()
_open_executors: weakref.WeakSet[PipelinedExecutor] = weakref.WeakSet()


def _forget_in_fork() -> None:
    _open_executors.clear()
    for hub in list(_open_hubs):
        hub.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_fork)


def _close_at_exit() -> None:
    # Threads that wait for results are joined next: their runs must end, and they can begin no others.
    for executor in list(_open_executors):
        executor._cancel_all("the interpreter exits")
    for hub in list(_open_hubs):
        hub.close(0.0)


# Before the threads of pools are joined, which may wait for results of ours: hooks are called last in, first out, and
# that of thread pools is made when they are imported.
import_module("concurrent.futures.thread")
before_threads_are_joined(_close_at_exit)
