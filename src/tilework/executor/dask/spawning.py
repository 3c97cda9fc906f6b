"""Worker processes that do not load the user's main module.

``multiprocessing`` lets each process that it spawns import the main module of the program, because functions of it
might be sent there by name. Ours are sent by value. Without that import workers start sooner, and a script needs no
``if __name__ == "__main__":``; neither does a program that is read from standard input, or typed in.

Whoever starts one may say where it writes to stderr (`stderr_of_new_processes`).

Dask takes the way to start processes from its configuration, by name; `METHOD` is the name of ours.
"""

from __future__ import annotations

import multiprocessing.context
import os
import threading
from contextlib import contextmanager
from contextvars import ContextVar
from multiprocessing import spawn
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["METHOD", "stderr_of_new_processes"]

stderr_of_new_processes: Final[ContextVar[int]] = ContextVar("stderr_of_new_processes", default=-1)
"""The descriptor that becomes the stderr of processes that are made in this context; -1: the one of this process."""

_lock = threading.Lock()
_here = threading.local()
_n_here = 0
_original: Any = None


def _get_preparation_data(name: str) -> dict[str, object]:
    data: dict[str, object] = _original(name)
    if getattr(_here, "is_on", False):
        data.pop("init_main_from_name", None)
        data.pop("init_main_from_path", None)
    return data


@contextmanager
def _without_main() -> Iterator[None]:
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


class WorkerProcess(SpawnProcess):
    """A spawned process without the main module."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stderr_fd = stderr_of_new_processes.get()  # has the same number in the process

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802  (the name is that of multiprocessing)
        with _without_main():
            return _popen(process_obj) if process_obj._stderr_fd >= 0 else SpawnProcess._Popen(process_obj)

    def run(self) -> None:
        """Do what it was made for; called in the process."""
        if self._stderr_fd >= 0:
            os.dup2(self._stderr_fd, 2)
            os.close(self._stderr_fd)
        super().run()


def _popen(process_obj: Any) -> Any:
    """Start a process that inherits the descriptor of its stderr."""
    from multiprocessing.popen_spawn_posix import Popen

    class PopenWithStderr(Popen):
        def _launch(self, process_obj: Any) -> None:
            self.duplicate_for_child(process_obj._stderr_fd)
            super()._launch(process_obj)  # type: ignore[misc]

    return PopenWithStderr(process_obj)


class WorkerProcessContext(SpawnContext):
    """Starts such processes."""

    _name = "tilework"
    Process = WorkerProcess


def _register() -> str:
    known = getattr(multiprocessing.context, "_concrete_contexts", None)
    if known is None:
        return "spawn"
    known["tilework"] = WorkerProcessContext()
    return "tilework"


METHOD: Final = _register()
"""For Dask's ``distributed.worker.multiprocessing-method``."""
