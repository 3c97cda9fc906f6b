"""The process that the workers on this machine are forked from.

::

    this process                    template                               worker
    ┌──────────────┐  starts it    ┌─────────────────────────────┐  fork  ┌──────────────────────┐
    │ LocalCluster ├──────────────►│ imports what workers need,  ├───────►│ unpickles what to do │
    │  LocalNanny  │   once        │ once, while this process    │        │                      │
    │              ├──────────────►│ loads Dask for itself       │        │                      │
    └──────────────┘  "one more"   └─────────────────────────────┘        └──────────────────────┘

Without it each worker would import Dask for itself, which takes longer than all else that it does in order to start.
It is a fork server of `multiprocessing`, but not the one that a program gets by that name, which may serve something
else, with other settings. Forking is safe there: the process has one thread and nothing open.

Who ends whom: the template is ended with the last cluster that uses it. When this process exits, or dies, it ends by
itself after its workers, which have their own ways to know. One that was killed is started again for the next worker.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import weakref
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tilework.common.threading import set_num_threads_env
from tilework.executor.forked import modules_to_preload

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["PRELOAD", "Template"]

log = logging.getLogger(__name__)

PRELOAD: Final = "tilework.executor.dask.template_imports"


class Template:
    """The template of this process; made by `shared`."""

    is_possible: Final = sys.platform == "linux"
    """Whether there can be one. Elsewhere the libraries of the system do not survive a fork."""

    _lock: ClassVar = threading.Lock()
    _latest: ClassVar[weakref.ref[Template] | None] = None

    def __init__(self, preload: Iterable[str] = ()) -> None:
        from multiprocessing.forkserver import ForkServer

        self._server = ForkServer()
        self._server.set_forkserver_preload([PRELOAD, *modules_to_preload(), *preload])
        self.start()
        # Not at exit, where workers may still be there: those of Dask's default client are ended by Dask, later.
        weakref.finalize(self, _end, self._server).atexit = False

    @classmethod
    def shared(cls, preload: Iterable[str] = ()) -> Template | None:
        """Return the template, which lives for as long as anybody holds it; None where there cannot be one."""
        if not cls.is_possible:
            return None
        with cls._lock:
            template = cls._latest() if cls._latest is not None else None
            if template is None:
                try:
                    template = cls(preload)
                except OSError as error:  # its socket: TMPDIR is too long for one, or on a file system without sockets
                    log.info("workers are started one by one, as none can be forked: %s", error)
                    return None
                cls._latest = weakref.ref(template)
            return template

    @classmethod
    @contextmanager
    def ahead(cls, preload: Iterable[str] = ()) -> Iterator[None]:
        """Let it load what it needs while this process does the same; who asks for it in the block keeps it.

        Parameters
        ----------
        preload
            Names of modules that tasks will need, and that this process may not have loaded yet.
        """
        template = cls.shared(preload)
        yield
        del template

    def start(self) -> None:
        """Start the process unless it is running."""
        from tilework.executor.dask.spawning import without_main

        with set_num_threads_env(1), without_main():
            self._server.ensure_running()

    def fork(self, descriptors: list[int]) -> tuple[int, int]:
        """Fork a process; returns where its number and exit code are read from, and where its work is written to."""
        self.start()
        return self._server.connect_to_new_process(descriptors)


def _forget_in_fork() -> None:
    # It is a child of the process that this one was forked from: who is not its parent can neither ask nor start it.
    Template._lock = threading.Lock()
    Template._latest = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_fork)


def _end(server: Any) -> None:
    pid = server._forkserver_pid
    if pid is None:
        return
    os.close(server._forkserver_alive_fd)
    server._forkserver_pid = server._forkserver_alive_fd = None
    with suppress(ChildProcessError, ProcessLookupError):  # a copy of this process may have come here
        if os.waitpid(pid, os.WNOHANG)[0] == 0:
            os.kill(pid, signal.SIGKILL)  # it has nothing to put in order
            os.waitpid(pid, 0)
