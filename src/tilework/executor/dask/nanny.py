"""Nannies of workers on this machine. Imports distributed: only for a cluster that is about to be started."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dask
from distributed import Nanny

from tilework.executor.dask.spawning import METHOD

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LocalNanny"]

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
    """A nanny whose worker does not load the main module, however often it is started again."""

    async def instantiate(self) -> Any:
        """Start the worker."""
        with _our_way_to_start_processes():
            return await super().instantiate()
