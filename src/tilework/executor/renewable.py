"""A pool of processes that is replaced when one of its processes dies.

Python's and loky's pools give up as a whole then: every job that is under way fails, the other processes are ended,
and nothing more is taken. Who may make a new pool is known only for those that tilework made itself, and for loky's
reusable one. A replacement is ours, and is shut down by us.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, CancelledError, Future
from concurrent.futures.process import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from tilework.common.interrupts import interrupts_blocked
from tilework.exceptions import ExecutorError, WorkerLostError
from tilework.executor.at_exit import come_before
from tilework.executor.pool_worker import prepare_process
from tilework.executor.semaphores import check_semaphores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Executor
    from multiprocessing.process import BaseProcess

__all__ = ["ALONE_SECONDS", "Gate", "Pending", "PoolBrokeError", "RenewablePool", "SpawnedProcesses", "size_of"]

log = logging.getLogger(__name__)

T = TypeVar("T")
V = TypeVar("V")

_MOST_FRUITLESS: Final = 3
"""How many pools may break one after the other before any work has begun."""


_END_SECONDS: Final = 0.5
_POLL_SECONDS: Final = 0.002

ALONE_SECONDS: Final = 30.0
"""How long everybody else is kept from beginning with anything, so that a suspect can be alone."""


class SpawnedProcesses(ProcessPoolExecutor):
    """Processes of our own, spawned: a fork would copy locks that threads of this process hold.

    Parameters
    ----------
    n_processes
        How many.

    Raises
    ------
    ExecutorError
        When there is no room for what they need to be started.
    """

    def __init__(self, n_processes: int) -> None:
        check_semaphores()
        super().__init__(n_processes, multiprocessing.get_context("spawn"), _prepare_own_process)
        self.n_processes = n_processes


def _prepare_own_process() -> None:
    prepare_process()
    threading.Thread(target=_end_with_parent, name="tilework-parent", daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the main process is gone; without this, nobody would tell it if that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _renewal_of(pool: Executor) -> Callable[[], Executor] | None:
    """Return what makes another pool like this one; None when nobody but its owner can."""
    if isinstance(pool, SpawnedProcesses):
        n_processes = pool.n_processes
        return lambda: SpawnedProcesses(n_processes)
    loky = sys.modules.get("loky")  # whoever has such a pool has imported it
    if loky is not None and type(pool).__module__ == "loky.reusable_executor":
        n_workers = getattr(pool, "_max_workers", None)
        kept = {name: getattr(pool, f"_{name}", None) for name in ("timeout", "initializer", "env")}
        kept["initargs"] = getattr(pool, "_initargs", ())
        return lambda: loky.get_reusable_executor(n_workers, **kept)
    return None


class PoolBrokeError(Exception):
    """A pool broke while it did a job, and has been replaced."""


@dataclass(frozen=True, slots=True)
class Pending(Generic[T]):
    """A call that was handed to a pool."""

    client: Executor
    future: Future[T]


class RenewablePool:
    """A pool that takes work from several threads.

    Parameters
    ----------
    client
        The pool to begin with.
    """

    def __init__(self, client: Executor) -> None:
        self._given = client
        self._client = client
        self._renew = _renewal_of(client)
        self._lock = threading.Lock()
        self._is_closed = False
        self._n_fruitless = 0
        self._cause = ""
        self.n_renewed = 0

    @property
    def client(self) -> Executor:
        """The pool that does the work now."""
        return self._client

    def submit(self, fn: Callable[[V], T], arg: V) -> Pending[T]:
        """Hand ``fn(arg)`` to a process; whatever goes wrong shows when the result is asked for."""
        client = self._client
        try:
            # This is where pools start processes. Those of our own ignore Ctrl-C, and let it in, when they have come
            # far enough; what else pools of the program start would not.
            with interrupts_blocked() if isinstance(client, SpawnedProcesses) else contextlib.nullcontext():
                future: Future[T] = client.submit(fn, arg)
        except BaseException as error:  # noqa: BLE001  (raised again by result())
            future = Future()
            future.set_exception(error)
        else:
            come_before(type(client))
        return Pending(client, future)

    def result(self, pending: Pending[T]) -> T:
        """Wait for what was submitted, and return what it returned.

        Raises
        ------
        PoolBrokeError
            When a process died meanwhile, and the call may be tried again: there is a new pool.
        WorkerLostError
            When a process died, and that is the end of the pool.
        ExecutorError
            When the pool takes no more work.
        """
        client = pending.client
        try:
            answer = pending.future.result()
        except BrokenExecutor as error:
            self._replace(client, error)
            raise PoolBrokeError(self._cause) from error
        except CancelledError as error:
            msg = "the pool was shut down while it had work to do"
            raise ExecutorError(msg) from error
        except RuntimeError as error:
            if self._renew is not None and not self._is_closed and "shutdown" in str(error):
                self._replace(client, error)  # another user of loky's reusable pool has asked for a different one
                raise PoolBrokeError(self._cause) from error
            msg = f"the pool takes no more work: {error}"
            raise ExecutorError(msg) from error
        self._n_fruitless = 0
        return answer

    def _replace(self, broken: Executor, error: BaseException) -> None:
        """Put a new pool in the place of a broken one, unless somebody else has."""
        with self._lock:
            if self._client is not broken:
                return
            processes = dict(getattr(broken, "_processes", None) or {})
            if self._renew is None or self._is_closed:
                msg = (
                    f"{_describe_end(processes, error)}. It took its {type(broken).__name__} with it, which only its "
                    "owner can replace: make a new pool and a new executor, or use "
                    "ConcurrentJobExecutor.make_processes(), which replaces lost processes"
                )
                raise WorkerLostError(msg) from error
            # Nobody else does: loky forgets those that belong to other threads, with their pipes.
            _shut_down(broken, wait=True)
            self._cause = _describe_end(processes, error)
            log.warning("%s", self._cause)
            self._n_fruitless += 1
            if self._n_fruitless > _MOST_FRUITLESS:
                msg = (
                    f"{_describe_end(processes, error)}, and so did all before it: they end before they do any work. "
                    "Processes import the main module of the program: what a script does must stand under "
                    'if __name__ == "__main__":'
                )
                raise WorkerLostError(msg) from error
            self._client = self._renew()
            self.n_renewed += 1

    def note_begun(self) -> None:
        """Take note that a pool that broke had begun with work: it is the work that breaks it, not the start."""
        self._n_fruitless = 0

    def close(self) -> None:
        """Make no more pools; calls that are under way fail if theirs breaks."""
        self._is_closed = True

    def kill(self) -> None:
        """Kill the processes of the pool, because what they do does not end."""
        for process in list((getattr(self._client, "_processes", None) or {}).values()):
            process.kill()

    def shut_down(self, *, given_too: bool, wait: bool) -> None:
        """Shut down the pool, if it is ours."""
        if given_too or self._client is not self._given:
            _shut_down(self._client, wait=wait)


def _shut_down(pool: Executor, *, wait: bool) -> None:
    try:
        pool.shutdown(wait=wait, cancel_futures=True)
    except TypeError:  # a pool that knows no such argument, such as loky's
        pool.shutdown(wait=wait)


def _describe_end(processes: Mapping[int, BaseProcess], error: BaseException) -> str:
    """Return, in words, which process ended and how."""
    # loky looks before it kills the others, and says so in an error of many lines
    lines = [line for line in str(error).splitlines() if line and "traceback" not in line]
    seen = [line.removeprefix("The ") for line in lines if "exit codes" in line and "{}" not in line]
    if seen:
        return f"a worker died: the {seen[0]}"
    ends = []
    for pid, process in processes.items():
        # A pool says that it is broken before it has ended its processes. And of two threads that `join` a process, the
        # pool's own and this one, only one is told how it ended, at first: so this one asks until it is known.
        until = time.monotonic() + _END_SECONDS
        while (code := getattr(process, "exitcode", None)) is None and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
        # those that the pool ended itself, because of the first, are not worth a word
        if code is not None and code not in {0, -signal.SIGTERM}:
            how = f"was killed by {_signal_name(-code)}" if code < 0 else f"exited with status {code}"
            ends.append(f"process {pid} {how}")
    told = " ".join(lines).rstrip(".")
    return f"a worker died: {', '.join(ends) or told or type(error).__name__}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Gate:
    """Many threads may pass together, or one alone: who is suspected of killing workers harms nobody else then."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._n_inside = 0
        self._n_loners = 0  # that wait, or are inside

    @contextlib.contextmanager
    def pass_together(self) -> Iterator[None]:
        """Pass as soon as nobody wants to be alone."""
        with self._lock:
            while self._n_loners:
                self._lock.wait()
            self._n_inside += 1
        try:
            yield
        finally:
            self._leave()

    @contextlib.contextmanager
    def pass_alone(self) -> Iterator[None]:
        """Pass as soon as nobody else is inside, or after a while: others may work for hours."""
        with self._lock:
            self._n_loners += 1
            is_alone = self._lock.wait_for(lambda: not self._n_inside, ALONE_SECONDS)
            self._n_inside += 1
            if not is_alone:
                self._n_loners -= 1
                self._lock.notify_all()
        try:
            yield
        finally:
            with self._lock:
                self._n_loners -= is_alone
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._n_inside -= 1
            self._lock.notify_all()


def size_of(pool: Any, default: int) -> int:
    """Return how many jobs a pool does at a time; the names of this differ from library to library."""
    for name in ("_max_workers", "num_workers", "max_workers"):
        size = getattr(pool, name, None)
        if isinstance(size, int) and size > 0:
            return size
    return _threads_of_cluster(pool) or default


def _threads_of_cluster(pool: Any) -> int:
    """Return how many threads the workers of a Dask client's pool have now; 0 when nobody says so at once."""
    if type(pool).__module__ != "distributed.cfexecutor":
        return 0
    client = getattr(pool, "_client", None)
    if client is None or client.asynchronous or client.status != "running":
        return 0
    return sum(client.nthreads().values())
