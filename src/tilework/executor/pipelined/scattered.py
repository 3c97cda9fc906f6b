"""Objects that all workers have, as the main process keeps them: ready to be given to a new worker as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilework.executor.pipelined.memory import Segment
from tilework.executor.pipelined.messages import Patch, Scatter, encode
from tilework.executor.pipelined.parcel import pack

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Scattered"]

_ALIGNMENT = 64
_LARGE_PICKLE = 1 << 16


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
        packed = pack(obj)
        buffers = list(packed.buffers)
        data = packed.data
        if len(data) > _LARGE_PICKLE:
            buffers.append(memoryview(data))
            data = b""
        self._segment: Segment | None = None
        spans, size = [], 0
        for buffer in buffers:
            spans.append((size, buffer.nbytes))
            size += -(-buffer.nbytes // _ALIGNMENT) * _ALIGNMENT
        if buffers:
            self._segment = Segment(size)
            self._segment.allocate(size)
            with memoryview(self._segment.map) as view:
                for buffer, (start, n) in zip(buffers, spans, strict=True):
                    view[start : start + n] = buffer
        self._message = encode(Scatter(key, data, tuple(spans), size if buffers else 0))

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
