"""Objects that all workers have, as the main process keeps them: ready to be given to a new worker as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilework.executor.calling import note_unpicklable
from tilework.executor.pipelined.messages import Patch, Scatter, encode
from tilework.executor.pipelined.parcel import Layout, pack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilework.executor.pipelined.memory import Segment

__all__ = ["Scattered"]


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
