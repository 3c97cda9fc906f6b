"""Objects that all workers have, as the main process keeps them: ready to be given to a new worker as well.

An object is kept as it was pickled, its *base*, and with the patches since. When these are many, whoever gives the next
one makes a new base of them, so that what is kept does not grow with the length of a run.

Who does what: the hub thread has the base, and the patches that it told the workers of. Threads that patch take turns;
they have all patches since the base and a patched copy, of which the hub learns later. What both touch is the memory of
a base, which the hub may give back while a thread makes the next one of it: that has a lock.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from tilework.executor.calling import note_unpicklable
from tilework.executor.driven import no_such_handle
from tilework.executor.patches import Patches
from tilework.executor.pipelined.messages import Patch, Scatter, encode
from tilework.executor.pipelined.parcel import Layout, pack
from tilework.executor.remote import loads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilework.executor.pipelined.memory import Segment

__all__ = ["Base", "Scattered"]


class Base:
    """A pickled object; its large arrays are in a segment, once for all workers of this machine.

    Parameters
    ----------
    key
        Stands for the object.
    obj
        The object.
    """

    def __init__(self, key: str, obj: Any) -> None:
        try:
            layout = Layout(pack(obj))
        except Exception as error:
            note_unpicklable(error, obj)
            raise
        self._key = key
        self._data, self._spans = layout.data, layout.spans
        self._lock = threading.Lock()
        self._is_closed = False
        self._segment: Segment | None = layout.make_segment() if layout.size else None
        self.size = len(layout.data) + layout.size
        self.message = encode(Scatter(key, layout.data, layout.spans, layout.size))

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What is sent with the message."""
        return () if self._segment is None else (self._segment.fd,)

    def open(self) -> Any:
        """Return a copy of the object, which shares no memory with the workers'."""
        with self._lock:
            if self._is_closed:
                raise no_such_handle(self._key)
            memory = memoryview(b"" if self._segment is None else bytearray(self._segment.map))
        buffers = [memory[start : start + size] for start, size in self._spans]
        return loads(self._data or buffers.pop(), buffers=buffers)

    def close(self) -> None:
        """Release the memory here; workers keep what they have."""
        with self._lock:
            self._is_closed = True
            if self._segment is not None:
                self._segment.close()
                self._segment = None


class Scattered:
    """An object, and what happened to it since.

    Parameters
    ----------
    key
        Stands for the object.
    obj
        The object.
    """

    def __init__(self, key: str, obj: Any) -> None:
        self.key = key
        self.changing = threading.Lock()
        """Held by whoever patches or replaces it, until the hub has been asked to."""
        self.is_dropped = False
        """Whether its block has ended."""
        self._is_closed = False
        self._base = Base(key, obj)
        self._told: list[bytes] = []
        self._patches = Patches(self._base.open, self._base.size)

    # ---- for threads that patch, which hold `changing`

    def patch(self, patch: Any) -> bytes | Base:
        """Apply a patch here; returns what workers need: its pickled form, or a new base where there are too many.

        Raises
        ------
        Exception
            What ``obj.patch`` raises; no worker is to see the patch then.
        """
        base = self._patches.add(patch, partial(Base, self.key))
        if base is None:
            return self._patches.pickled[-1]
        self._patches = Patches(base.open, base.size)
        return base

    # ---- for the hub

    def messages(self) -> Iterator[tuple[bytes, tuple[int, ...]]]:
        """Yield what a worker has to be told, each with descriptors."""
        yield self._base.message, self._base.descriptors
        for patch in self._told:
            yield encode(Patch(self.key, patch)), ()

    def tell(self, patch: bytes) -> bytes:
        """Take note that workers are told of a patch; returns the message."""
        self._told.append(patch)
        return encode(Patch(self.key, patch))

    def rebase(self, base: Base) -> bool:
        """Replace the base, and all patches since; returns whether the object is still there."""
        if self._is_closed:
            base.close()
            return False
        before, self._base = self._base, base
        self._told = []
        before.close()
        return True

    def close(self) -> None:
        """Release the memory here; workers keep what they have."""
        self._is_closed = True
        self._base.close()
