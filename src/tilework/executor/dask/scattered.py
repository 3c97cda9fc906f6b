"""Objects that are scattered to the workers of a Dask cluster: kept here as well, so that they survive every worker.

Who owns what: a `Scattered` belongs to its ``scatter`` block; any thread may change what it stands for. A `Content`
is pickled once, and is in the memory of the workers as the one Dask future that all batches depend on. It is never in
a graph, and Dask copies it to workers that join later. When Dask loses it, with the last worker that had it, it is
scattered again from here.
"""

from __future__ import annotations

import asyncio
import threading
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from tilework.common.async_utils import ignore_outcome
from tilework.executor.dask.sealed import SharedSealed, seal
from tilework.executor.patches import Patches

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SCATTER_SECONDS", "Content", "Scattered"]

SCATTER_SECONDS: Final = 5.0
"""How long Dask waits for workers to send something to."""

_numbers: Final = count()


class Content:
    """One pickled object, and its future."""

    def __init__(self, obj: Any) -> None:
        self.sealed: SharedSealed = seal(obj, SharedSealed)
        self.name = str(next(_numbers))
        self._scattering: asyncio.Task[Any] | None = None  # belongs to the client's event loop
        self._was_scattered = False  # what is small never is, as it travels with each batch

    async def future(self, client: Any, addresses: Sequence[str], direct: bool) -> Any:
        """Return the Dask future; scatters the object to these workers if it is nowhere."""
        scattering = self._scattering
        if scattering is None:
            scattering = self._scattering = asyncio.ensure_future(
                client.scatter(
                    self.sealed.apart(addresses[0]),
                    workers=list(addresses),
                    broadcast=True,
                    direct=direct,
                    hash=False,
                    timeout=SCATTER_SECONDS,
                    asynchronous=True,
                )
            )
            scattering.add_done_callback(ignore_outcome)
            self._was_scattered = True
        try:
            return await asyncio.shield(scattering)
        except BaseException:
            if scattering.done() and self._scattering is scattering:
                self._scattering = None
            raise

    def release(self) -> None:
        """Let Dask forget it as soon as no batch needs it. From any thread."""
        self._scattering = None

    def forget_if_lost(self) -> bool:
        """Let the next batch scatter it again if it was scattered and got lost; returns whether it was and did."""
        scattering = self._scattering
        if scattering is None:
            return self._was_scattered  # and found lost before, by another batch, or released
        if not scattering.done():
            return False
        if scattering.cancelled() or scattering.exception() is not None:
            self._scattering = None
            return True
        if scattering.result().status == "finished":
            return False
        self._scattering = None
        return True


class Scattered:
    """What a handle stands for: a content, and the patches since."""

    _state: tuple[Content, tuple[bytes, ...]]

    def __init__(self, obj: Any) -> None:
        self._lock = threading.Lock()
        self.update(obj)

    @property
    def state(self) -> tuple[Content, tuple[bytes, ...]]:
        """The content, and the patches, as they are now. Not locked, as methods of users' objects run with the lock."""
        return self._state

    def update(self, obj: Any) -> None:
        """Stand for another object from now on."""
        content = Content(obj)
        with self._lock:
            self._set(content)

    def patch(self, patch: Any) -> None:
        """Let each worker's copy be patched before its next batch; when it raises, none is."""
        with self._lock:
            content = self._patches.add(patch, Content)
            if content is None:
                self._state = self._state[0], self._patches.pickled
            else:
                self._set(content)

    def close(self) -> None:
        """Give the memory of the workers back: runs that failed are kept alive, in tracebacks, for a while."""
        with self._lock:
            self._state[0].release()

    def _set(self, content: Content) -> None:
        self._state = content, ()
        self._patches = Patches(content.sealed.copy, content.sealed.nbytes)
