"""Objects that are scattered to the workers of a Dask cluster: kept here as well, so that they survive every worker.

Who owns what: a `Scattered` belongs to its ``scatter`` block; any thread may change what it stands for. A `Content`
is pickled once, and is in the memory of the workers as the one Dask future that all batches depend on. It is never in
a graph. One worker is sent it from here, and Dask copies it to the others when they need it. When Dask loses it, with
the last worker that had it, it is scattered again from here.
"""

from __future__ import annotations

import asyncio
import threading
from itertools import count
from typing import Any, Final

from tilework.common.async_utils import ignore_outcome
from tilework.executor.calling import note_unpicklable
from tilework.executor.dask.sealed import SharedSealed, seal
from tilework.executor.patches import Patches

__all__ = ["SCATTER_SECONDS", "Content", "Scattered"]

SCATTER_SECONDS: Final = 5.0
"""How long Dask waits for workers to send something to."""

STUCK_SECONDS: Final = 1.0
STUCK_RATE: Final = 10e6
"""How long a worker may take to be sent something, in seconds and bytes per second, until others do not wait for it."""

_numbers: Final = count()


class Content:
    """One pickled object, and its future."""

    def __init__(self, obj: Any) -> None:
        try:
            self.sealed: SharedSealed = seal(obj, SharedSealed)
        except Exception as error:
            note_unpicklable(error, obj)
            raise
        self.name = str(next(_numbers))
        self._scattering: asyncio.Task[Any] | None = None  # belongs to the client's event loop
        self._address = ""  # of the worker that is sent it
        self._was_scattered = False  # what is small never is, as it travels with each batch

    async def future(self, client: Any, address: str, direct: bool) -> Any:
        """Return the Dask future; scatters the object to this worker if it is nowhere.

        Another worker that needs it gets it from there, and is sent it from here only if the first one does not answer.
        """
        scattering = self._scattering or self._scatter(client, address, direct)
        while True:
            await asyncio.wait({scattering}, timeout=STUCK_SECONDS + self.sealed.nbytes / STUCK_RATE)
            if scattering.done():
                break
            if self._scattering is scattering and self._address != address:
                self._scatter(client, address, direct)
            scattering = self._scattering or scattering
        try:
            return scattering.result()
        except BaseException:
            if self._scattering is scattering:
                self._scattering = None
            raise

    def _scatter(self, client: Any, address: str, direct: bool) -> asyncio.Task[Any]:
        scattering: asyncio.Task[Any] = asyncio.ensure_future(
            client.scatter(
                self.sealed.apart(address),
                workers=[address],
                direct=direct,
                hash=False,
                timeout=SCATTER_SECONDS,
                asynchronous=True,
            )
        )
        scattering.add_done_callback(ignore_outcome)
        self._scattering, self._address, self._was_scattered = scattering, address, True
        return scattering

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
