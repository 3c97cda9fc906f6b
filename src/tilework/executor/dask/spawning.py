"""Worker processes that do not load the user's main module.

``multiprocessing`` lets each process that it spawns import the main module of the program, because functions of it
might be sent there by name. Ours are sent by value. Without that import workers start sooner, and a script needs no
``if __name__ == "__main__":``; neither does a program that is read from standard input, or typed in.

Dask takes the way to start processes from its configuration, by name; `METHOD` is the name of ours.
"""

from __future__ import annotations

import multiprocessing.context
import threading
from contextlib import contextmanager
from multiprocessing import spawn
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["METHOD"]

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

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802  (the name is that of multiprocessing)
        with _without_main():
            return SpawnProcess._Popen(process_obj)


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
