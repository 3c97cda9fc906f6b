"""A cluster on this machine, and the nannies of its workers. Imports distributed: only for what is to be started."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import dask
from distributed import Nanny, SpecCluster
from distributed.core import Status

from tilework.executor.dask.spawning import METHOD

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LocalNanny", "LocalSpecCluster"]

_ATTEMPTS: Final = 5
_ENDING: Final = {Status.closing, Status.closed, Status.closing_gracefully, Status.failed}

_lock = threading.Lock()
_n_starting = 0
_setting: Any = None


@contextmanager
def _our_way_to_start_processes() -> Iterator[None]:
    """Let Dask start processes our way, for as long as any of our workers is being started."""
    global _n_starting, _setting  # noqa: PLW0603
    with _lock:
        if _n_starting == 0:
            _setting = dask.config.set({"distributed.worker.multiprocessing-method": METHOD})
        _n_starting += 1
    try:
        yield
    finally:
        with _lock:
            _n_starting -= 1
            if _n_starting == 0:
                _setting.__exit__(None, None, None)


class LocalNanny(Nanny):  # type: ignore[misc]
    """A nanny whose worker does not load the main module, and is started again also when it dies in starting."""

    exits: list[tuple[float, int]]
    """When its workers ended (`time.monotonic`, s), and with which code, minus the number of the signal."""

    def __init__(self, *args: Any, silence_logs: Any = None, **kwargs: Any) -> None:
        self.exits = []
        self._starting = asyncio.Lock()
        # Here it would concern the whole process, in which whoever started the cluster has set the level.
        super().__init__(*args, **kwargs)
        self.silence_logs = silence_logs

    async def _on_worker_exit(self, exitcode: int) -> None:
        self.exits.append((time.monotonic(), exitcode))
        await super()._on_worker_exit(exitcode)

    async def instantiate(self) -> Any:
        """Start the worker."""
        result = None
        async with self._starting:
            for _ in range(_ATTEMPTS):
                if self.process is not None and self.process.status is Status.running:
                    return Status.running  # the one who had the lock before has started it
                with _our_way_to_start_processes():
                    result = await super().instantiate()
                if result is Status.running or self.status in _ENDING:
                    break
        return result


class LocalSpecCluster(SpecCluster):  # type: ignore[misc]
    """A cluster that does not close the nanny of a worker that has been away for a while: it is starting it again."""

    def _update_worker_status(self, op: str, msg: Any) -> None:
        super(SpecCluster, self)._update_worker_status(op, msg)
