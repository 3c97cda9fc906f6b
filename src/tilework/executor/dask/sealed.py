"""Objects on their way through Dask: pickled by the sender, opaque to everybody in between, unpickled by the user.

Dask never looks into what it carries for us. So an object is pickled once and unpickled once, in a place of our
choosing, where an error belongs to somebody; and its arrays travel beside the pickle, without a copy.
"""

from __future__ import annotations

import pickle
import threading
from typing import TYPE_CHECKING, Any, Final, Self

from tilework.executor.remote import dumps_apart, loads

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Sealed", "SharedSealed", "seal"]

_SMALLEST: Final = 1 << 14
"""Arrays from this size on travel beside the pickle (bytes)."""


class Sealed:
    """A pickled object.

    Parameters
    ----------
    data
        The pickle.
    buffers
        What travels beside it (pickle protocol 5), bytes-like.
    """

    __slots__ = ("buffers", "data")

    def __init__(self, data: bytes, buffers: Sequence[Any] = ()) -> None:
        self.data = data
        self.buffers = tuple(buffers)

    def open(self) -> Any:
        """Unpickle it. Its arrays are not copied: they are writeable only if the buffers that arrived are."""
        return loads(self.data, buffers=self.buffers)

    def copy(self) -> Any:
        """Unpickle it with arrays of its own, which may be changed."""
        return loads(self.data, buffers=[bytearray(buffer) for buffer in self.buffers])

    def apart(self, address: str) -> Self:
        """Return what to send to this worker: Dask would share the memory of the arrays with one in this process."""
        if not address.startswith("inproc://"):
            return self
        return type(self)(self.data, [bytearray(buffer) for buffer in self.buffers])

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return len(self.data) + sum(memoryview(b).nbytes for b in self.buffers)

    def __sizeof__(self) -> int:
        # what Dask goes by when it balances memory
        return self.nbytes + 100

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if protocol >= 5:
            return type(self), (self.data, [pickle.PickleBuffer(b) for b in self.buffers])
        return type(self), (self.data, [bytes(b) for b in self.buffers])


class SharedSealed(Sealed):
    """A pickled object that many tasks of one worker use, unpickled once for all of them.

    What is unpickled lives as long as this object does: Dask, which holds it, keeps one for each worker process, and
    gives it up when nobody needs it any more. That is why nothing has to tell the workers to forget.
    """

    __slots__ = ("_lock", "_n_patches", "_opened")

    def __init__(self, data: bytes, buffers: Sequence[Any] = ()) -> None:
        super().__init__(data, buffers)
        self._lock = threading.Lock()
        self._opened: Any = None
        self._n_patches = -1  # not opened yet

    def open_patched(self, patches: Sequence[bytes]) -> Any:
        """Return the object after all these patches, of which each is applied once to this worker's copy.

        Parameters
        ----------
        patches
            All patches so far, in order, each the pickled argument of ``obj.patch``.
        """
        with self._lock:
            if len(patches) > max(self._n_patches, 0):
                # What has arrived is never patched itself: Dask sends it on to workers that come later.
                obj, done = (self._opened, self._n_patches) if self._n_patches > 0 else (self.copy(), 0)
                self._opened, self._n_patches = None, -1  # not there while it is half patched
                for patch in patches[done:]:
                    obj.patch(loads(patch))
                self._opened, self._n_patches = obj, len(patches)
            elif self._n_patches < 0:
                self._opened, self._n_patches = self.open(), 0
            return self._opened


def seal(obj: Any, cls: type[Sealed] = Sealed) -> Any:
    """Pickle an object.

    Parameters
    ----------
    obj
        The object; classes and functions of ``__main__`` may be in it.
    cls
        `Sealed` or `SharedSealed`.

    Raises
    ------
    Exception
        Of any kind, when it cannot be pickled.
    """
    data, buffers = dumps_apart(obj, _SMALLEST)
    return cls(data, [buffer.raw() for buffer in buffers])
