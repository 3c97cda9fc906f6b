"""What is scattered, by handle, as the executor has it: the hub tells the workers."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tilework.executor.driven import no_such_handle
from tilework.executor.pipelined.scattered import Scattered
from tilework.executor.storing import new_handle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilework.executor.pipelined.hub import Hub

__all__ = ["HubStore"]


class HubStore:
    """What is scattered to the workers of a hub, by handle; see `StoringJobExecutor`.

    Parameters
    ----------
    hub
        The hub.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def add(self, obj: Any) -> str:
        """Give an object to all workers; returns its handle."""
        handle = new_handle()
        self._hub.scatter(Scattered(handle, obj))
        return handle

    def look_up(self, handle: Any) -> Scattered:
        """Return the object as it was sent; ExecutorError when there is none."""
        try:
            return self._hub.exchange.scattered[handle]
        except (KeyError, TypeError):
            raise no_such_handle(handle) from None

    def update(self, handle: Any, obj: Any) -> None:
        """Let the handle stand for another object."""
        self.look_up(handle)
        new = Scattered(handle, obj)
        with self._changing(handle) as before:
            if not self._hub.replace(before, new):
                raise no_such_handle(handle)

    def patch(self, handle: Any, patch: Any) -> None:
        """Let all workers patch the object; what its method ``patch`` raises here reaches none of them."""
        with self._changing(handle) as obj:
            change = obj.patch(patch)
            if isinstance(change, bytes):
                self._hub.patch(obj, change)
            else:
                self._hub.rebase(obj, change)

    @contextmanager
    def _changing(self, handle: Any) -> Iterator[Scattered]:
        """Yield what the handle stands for, which no other thread changes or replaces meanwhile."""
        while True:
            obj = self.look_up(handle)
            with obj.changing:
                if self.look_up(handle) is obj:
                    yield obj
                    return

    def drop(self, handle: str) -> None:
        """Let all workers forget the object."""
        self._hub.unscatter(handle)
