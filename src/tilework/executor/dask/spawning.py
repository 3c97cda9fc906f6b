"""Worker processes that do not load the user's main module.

``multiprocessing`` lets each process that it spawns import the main module of the program, because functions of it
might be sent there by name. Ours are sent by value. Without that import workers start sooner, and a script needs no
``if __name__ == "__main__":``; neither does a program that is read from standard input, or typed in.

Whoever starts one may say where it writes to stderr (`stderr_of_new_processes`), and which process it is a fork of
(`template_of_new_processes`), instead of being a new interpreter; and is told its number (`told_of_new_processes`).

Dask takes the way to start processes from its configuration, by name; `METHOD` is the name of ours.
"""

from __future__ import annotations

import atexit
import gc
import io
import multiprocessing.context
import multiprocessing.process
import os
import signal
import sys
import threading
import weakref
from contextlib import contextmanager
from contextvars import ContextVar
from multiprocessing import reduction, spawn, util
from multiprocessing.context import SpawnContext, SpawnProcess, set_spawning_popen
from multiprocessing.queues import Queue
from typing import TYPE_CHECKING, Any, Final

from tilework.executor.forked import reseed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tilework.executor.dask.template import Template

__all__ = [
    "METHOD",
    "own_pid",
    "stderr_of_new_processes",
    "template_of_new_processes",
    "told_of_new_processes",
    "without_main",
]

stderr_of_new_processes: Final[ContextVar[int]] = ContextVar("stderr_of_new_processes", default=-1)
"""The descriptor that becomes the stderr of processes that are made in this context; -1: the one of this process."""

template_of_new_processes: Final[ContextVar[Template | None]] = ContextVar("template_of_new_processes", default=None)
"""What processes are forks of that are made in this context; None: they are new interpreters."""

told_of_new_processes: Final[ContextVar[Callable[[int], None] | None]] = ContextVar(
    "told_of_new_processes", default=None
)
"""Called with the numbers of processes that are made in this context, in the thread that starts them."""

_lock = threading.Lock()
_here = threading.local()
_n_here = 0
_original: Any = None


def _get_preparation_data(name: str) -> dict[str, object]:
    is_ours = getattr(_here, "is_on", False)
    try:
        data: dict[str, object] = _original(name)
    except FileNotFoundError:  # the current folder was removed: the process stays where it is
        if not is_ours:
            raise
        authkey = multiprocessing.process.current_process().authkey
        return {"authkey": authkey, "name": name, "sys_path": [*sys.path], "sys_argv": sys.argv}
    if is_ours:
        data.pop("init_main_from_name", None)
        data.pop("init_main_from_path", None)
    return data


@contextmanager
def without_main() -> Iterator[None]:
    """Let processes that this thread spawns inside the block do without the main module; others are not concerned."""
    global _n_here, _original  # noqa: PLW0603
    with _lock:
        if _n_here == 0:
            _original = spawn.get_preparation_data
            spawn.get_preparation_data = _get_preparation_data
        _n_here += 1
    _here.is_on = True
    try:
        yield
    finally:
        _here.is_on = False
        with _lock:
            _n_here -= 1
            if _n_here == 0:
                spawn.get_preparation_data = _original


_processes: Final[weakref.WeakSet[WorkerProcess]] = weakref.WeakSet()


class WorkerProcess(SpawnProcess):
    """A process without the main module."""

    _is_forgotten = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        stderr = stderr_of_new_processes.get()
        self._stderr: Any = _Descriptor(stderr) if stderr >= 0 else None  # in the process, the number that it has there
        self._template = template_of_new_processes.get()
        self._told = told_of_new_processes.get()
        self._environment: dict[str, str] | None = None
        _processes.add(self)

    def is_alive(self) -> bool:
        """Return whether it has not ended; False in a fork of the process that has started it."""
        return not self._is_forgotten and super().is_alive()

    def forget(self) -> None:
        """Let it have ended, for this process, which is a fork: it is the parent's.

        `multiprocessing` ends all that it takes for its own when a process exits, and waits for them.
        """
        self._is_forgotten = True
        popen: Any = vars(self)["_popen"]
        if popen is not None and popen.returncode is None:
            popen.returncode = 0

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802  (the name is that of multiprocessing)
        template, process_obj._template = process_obj._template, None
        told, process_obj._told = process_obj._told, None
        with without_main():
            if template is None:
                process = SpawnProcess._Popen(process_obj)
            else:
                process_obj._environment = dict(os.environ)
                process = _fork(process_obj, template)
        if told is not None:
            told(process.pid)
        return process

    def run(self) -> None:
        """Do what it was made for; called in the process."""
        if self._stderr is not None:
            os.dup2(self._stderr, 2)
            os.close(self._stderr)
        if self._environment is None:
            super().run()
            return
        # What else a new interpreter would have of its own, but a fork of the template has not.
        gc.freeze()  # what all workers share is not gone through, and so not copied, by the garbage collector of each
        gc.enable()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(self._environment)
        reseed()
        try:
            super().run()
        finally:
            atexit._run_exitfuncs()


def own_pid(worker: Any) -> int:  # noqa: ARG001
    """Return the number of this process; called by Dask in a worker that tells the scheduler of itself."""
    return os.getpid()


class _Descriptor:
    """A descriptor that a process inherits which is started with it."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _detach, (reduction.DupFd(self._number),)


def _detach(duplicate: Any) -> int:
    number: int = duplicate.detach()
    return number


def _fork(process_obj: Any, template: Template) -> Any:
    """Start a process as a fork of the template."""
    from multiprocessing import forkserver
    from multiprocessing.popen_forkserver import Popen

    class ForkedPopen(Popen):
        def _launch(self, process_obj: Any) -> None:
            message = io.BytesIO()
            set_spawning_popen(self)
            try:
                reduction.dump(spawn.get_preparation_data(process_obj.name), message)
                reduction.dump(process_obj, message)
            finally:
                set_spawning_popen(None)
            descriptors: Any = self
            self.sentinel, there = template.fork(descriptors._fds)
            # While a second copy of this end is open, the process knows that we live.
            self.finalizer = util.Finalize(self, _close, (os.dup(there), self.sentinel))
            with os.fdopen(there, "wb") as pipe:
                pipe.write(message.getbuffer())
            self.pid = forkserver.read_signed(self.sentinel)

    return ForkedPopen(process_obj)


def _close(*descriptors: int) -> None:
    for number in descriptors:
        os.close(number)


def _forget_in_fork() -> None:
    for process in list(_processes):
        process.forget()
    _processes.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_fork)


class _Semaphore(threading.Semaphore):
    """A semaphore that is a new one wherever it is sent to."""

    def __init__(self, value: int = 1) -> None:
        super().__init__(value)
        self._first = value

    def __reduce__(self) -> tuple[Any, ...]:
        return _Semaphore, (self._first,)


class _Locks:
    """What a queue needs between two processes, each of which has one end of it: its own threads take turns there."""

    Lock = _Semaphore
    BoundedSemaphore = _Semaphore


class WorkerProcessContext(SpawnContext):
    """Starts such processes, and makes queues to and from them.

    Semaphores of `multiprocessing` have names in /dev/shm, where there may be no room, and where they stay when all
    processes are ended at the same time, as by a terminal that is closed. These queues do without.
    """

    _name = "tilework"
    Process = WorkerProcess

    def Queue(self, maxsize: int = 0) -> Queue[Any]:  # noqa: N802  (the name is that of multiprocessing)
        """Return a queue for two processes: one puts, the other gets. It has no bound."""
        if maxsize > 0:
            msg = f"queues to workers have no bound, so maxsize must be 0, not {maxsize}"
            raise ValueError(msg)
        return Queue(ctx=_Locks())


def _register() -> str:
    known = getattr(multiprocessing.context, "_concrete_contexts", None)
    if known is None:
        return "spawn"
    known["tilework"] = WorkerProcessContext()
    return "tilework"


METHOD: Final = _register()
"""For Dask's ``distributed.worker.multiprocessing-method``."""
