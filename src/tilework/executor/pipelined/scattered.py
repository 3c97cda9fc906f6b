"""Objects that all workers have, as the main process keeps them: ready to be given to a new worker as well."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from tilework.executor.calling import note_unpicklable
from tilework.executor.driven import no_such_handle
from tilework.executor.pipelined.messages import Patch, Scatter, encode
from tilework.executor.pipelined.parcel import Layout, pack
from tilework.executor.remote import dumps
from tilework.executor.storing import not_patchable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilework.executor.pipelined.hub import Hub
    from tilework.executor.pipelined.memory import Segment

__all__ = ["HubStore", "Scattered"]


class Scattered:
    """A pickled object; its large arrays are in a segment, once for all workers of this machine.

    Parameters
    ----------
    key
        Stands for the object.
    obj
        The object.
    """

    def __init__(self, key: str, obj: Any) -> None:
        self.key = key
        self.can_be_patched = callable(getattr(obj, "patch", None))
        self.type_name = type(obj).__name__
        self.patches: list[bytes] = []
        """What happened to it since, in this order."""
        try:
            layout = Layout(pack(obj))
        except Exception as error:
            note_unpicklable(error, obj)
            raise
        self._segment: Segment | None = layout.make_segment() if layout.size else None
        self._message = encode(Scatter(key, layout.data, layout.spans, layout.size))

    def messages(self) -> Iterator[tuple[bytes, tuple[int, ...]]]:
        """Yield what a worker has to be told, each with descriptors."""
        yield self._message, () if self._segment is None else (self._segment.fd,)
        for patch in self.patches:
            yield encode(Patch(self.key, patch)), ()

    def close(self) -> None:
        """Release the memory here; workers keep what they have."""
        if self._segment is not None:
            self._segment.close()
            self._segment = None


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
        handle = f"scattered-{uuid.uuid4().hex}"
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
        self._hub.scatter(Scattered(handle, obj))

    def patch(self, handle: Any, patch: Any) -> None:
        """Let all workers patch the object; TypeError when it cannot be patched."""
        obj = self.look_up(handle)
        if not obj.can_be_patched:
            raise not_patchable(obj.type_name)
        self._hub.patch(obj, dumps(patch))

    def drop(self, handle: str) -> None:
        """Let all workers forget the object."""
        self._hub.unscatter(handle)
