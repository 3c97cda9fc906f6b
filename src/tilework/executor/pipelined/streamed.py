"""What was streamed to a task, as the main process keeps it: see `stream`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tilework.executor.pipelined.arena import Arena, Block
    from tilework.executor.pipelined.dispatch import Item
    from tilework.executor.pipelined.memory import Segment

__all__ = ["StreamPart", "StreamRecord"]


@dataclass(eq=False, slots=True)
class StreamPart:
    """A message to a task, and the block that goes with it."""

    header: bytes
    block: Block
    segment: Segment | None = None
    """Of a block apart that was not sent yet."""

    def view(self, arena: Arena) -> memoryview:
        """Return the bytes of the block, to be written."""
        if self.segment is None:
            return arena.view(self.block)
        return memoryview(self.segment.map)[: self.block.size]

    def free(self, arena: Arena) -> None:
        """Give the block back: nobody was sent it."""
        arena.free(self.block)
        self._close_segment()

    def let_go(self, arena: Arena) -> None:
        """Keep the block no longer than who was sent it needs it."""
        arena.let_go(self.block)
        self._close_segment()

    def descriptors(self) -> tuple[int, ...]:
        """Return what is sent with it."""
        return () if self.segment is None else (self.segment.fd,)

    def _close_segment(self) -> None:
        if self.segment is not None:
            self.segment.close()
            self.segment = None


class StreamRecord:
    """What was streamed to a task."""

    __slots__ = (
        *("has_begun", "has_end", "has_lost_data", "index", "is_answered", "is_complete", "item", "n_items", "parts"),
    )

    def __init__(self, index: int) -> None:
        self.index = index
        self.item: Item | None = None
        """The ticket that it goes to, on its way to a worker."""
        self.has_begun = False
        """Whether the task is known to have begun, and has not lost its worker since."""
        self.is_answered = False
        """Whether the task needs nothing more."""
        self.n_items = 0
        self.parts: list[StreamPart] = []
        """Of those, with large headers apart, what may be in use or needed again."""
        self.is_complete = False
        """Whether the handler has given everything."""
        self.has_end = False
        """Whether the end of the stream was sent after the data."""
        self.has_lost_data = False
        """Whether something of it is not in the arena any more."""

    def note_lost_data(self) -> None:
        """Take note that a block was needed for something else."""
        self.has_lost_data = True

    def let_go(self, arena: Arena) -> None:
        """Keep nothing longer than the task needs it."""
        for part in self.parts:
            part.let_go(arena)
        self.parts.clear()
