"""Blocks of shared memory that one process writes and others read, over and over in the same place.

::

    owner                                             reader
    ┌────────────────────────────────┐               ┌─────────────────────────┐
    │ allocate ─► Block(slot, offset,│  sent over a  │ view(block)             │
    │             size); view(block) ├──────wire────►│   ...                   │
    │ next allocate finds the slot   │               │ release(block)          │
    │ released ◄─────────────────────┼── one byte ───┤   ledger[slot] = 0      │
    └────────────────────────────────┘               └─────────────────────────┘

Who owns what: the owner alone allocates, so that nothing has to be locked between processes. A reader tells that it
needs a block no more by writing one byte, the block's entry in the ledger, which is the first part of the segment.
Blocks at the beginning are used first: the pages that are in the caches, and allocated already, come around again.

The garbage collector ends forgotten runs in any thread at any moment, also in one that has an arena locked: then what
is given back is left to the next one who locks it.

The arena has a budget. When that is full, `allocate` returns None, and whoever wants to write waits, or takes another
way; nothing grows without bound. For data that a reader waits for, while what others have there leaves no room for it,
there are blocks apart: each is a segment of its own, and all of them together may take as much as the budget again.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import weakref
from bisect import bisect_left, insort
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tilework.executor.pipelined.memory import PAGE, Segment, SharedMemoryFullError, cannot_map, map_private

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Arena", "ArenaReader", "Block"]

_LEDGER_BYTES: Final = 16 * PAGE
_ALIGNMENT: Final = 64
_STEP: Final = 1 << 22
"""Pages are allocated in steps of this many bytes."""
_SLOTS_APART: Final = 4096
"""Slots that are left to blocks apart: as many as there may be workers, each of which waits for one."""
_APART: Final = 0
"""The offset of a block apart, where in an arena the ledger is."""


class Block(NamedTuple):
    """A piece of an arena, or one apart."""

    slot: int
    offset: int
    size: int

    @property
    def is_apart(self) -> bool:
        """Whether it is in a segment of its own, whose descriptor travels with it."""
        return self.offset == _APART


class _Use:
    """What an arena knows of a block in use."""

    __slots__ = ("block", "is_kept", "on_reclaimed", "reader")

    def __init__(self, block: Block, on_reclaimed: Callable[[], None] | None) -> None:
        self.block = block
        self.on_reclaimed = on_reclaimed
        self.is_kept = on_reclaimed is not None
        self.reader: object = None


class Arena:
    """The owner's side.

    Parameters
    ----------
    budget
        The most that may be in use, in bytes.
    folder
        For `Segment`.
    """

    def __init__(self, budget: int, folder: str | None = None) -> None:
        self.budget = max(PAGE, -(-budget // PAGE) * PAGE)
        self._folder = folder
        self._segment = Segment(_LEDGER_BYTES + self.budget, folder)
        self._segment.allocate(_LEDGER_BYTES)
        self._memory = memoryview(self._segment.map)
        self._ledger = self._memory[:_LEDGER_BYTES]
        self._lock = threading.RLock()  # which knows whose it is; nobody takes it twice
        self._free: list[tuple[int, int]] = []  # (offset, size) of the holes below the end, ascending
        self._end = _LEDGER_BYTES
        self._slots = list(range(_LEDGER_BYTES - 1, -1, -1))
        self._in_use: dict[int, _Use] = {}  # by slot
        self._oldest: deque[_Use] = deque()  # of blocks without a keeper, in the order of allocation
        self._bytes_apart = 0
        self._returns: deque[Callable[[], None]] = deque()  # what gives blocks back, as soon as the arena is locked

    @property
    def fd(self) -> int:
        """Descriptor to send to readers."""
        return self._segment.fd

    @property
    def size(self) -> int:
        """Bytes that a reader has to map."""
        return self._segment.size

    @property
    def n_blocks(self) -> int:
        """How many blocks are in use, released ones that nobody noticed yet included."""
        return len(self._in_use)

    def allocate(
        self, size: int, on_reclaimed: Callable[[], None] | None = None, *, leave_half: bool = False
    ) -> Block | None:
        """Return a block for `size` bytes; None when there is no room now.

        Parameters
        ----------
        size
            In bytes.
        on_reclaimed
            A block with this is kept after its reader has released it, until `free`, or until there is need of its
            place: then this is called, with the arena locked.
        leave_half
            Whether half of the room is left to others: of the budget the upper half, and half of the slots.

        Raises
        ------
        SharedMemoryFullError
            When it is more than the whole budget, or the system has no memory.
        """
        if size > self.budget:
            msg = f"{size / 2**20:.1f} MiB do not fit into a budget of {self.budget / 2**20:.1f} MiB"
            raise SharedMemoryFullError(msg)
        room = max(_ALIGNMENT, -(-size // _ALIGNMENT) * _ALIGNMENT)
        limit = _LEDGER_BYTES + (self.budget // 2 if leave_half else self.budget)
        spare = (_LEDGER_BYTES + _SLOTS_APART) // 2 if leave_half else _SLOTS_APART
        with self._lock:
            self._take_returns()
            offset = self._find_room(room, limit, spare)
            return None if offset is None else self._take_slot(offset, size, on_reclaimed)

    def is_locked_here(self) -> bool:
        """Return whether this thread has the lock; then it is the garbage collector that calls."""
        return self._lock._is_owned()  # type: ignore[attr-defined,no-any-return]

    def allocate_apart(self, size: int) -> tuple[Block, Segment] | None:
        """Return a block apart, and the segment that it is in; None when there are too many now.

        Parameters
        ----------
        size
            In bytes; no more than the budget.

        Raises
        ------
        SharedMemoryFullError
            When the system has no memory.
        """
        with self._lock:
            self._take_returns()
            self._reclaim_all(0, kept=False)
            if self._bytes_apart + size > self.budget or not self._slots:
                return None
            block = self._take_slot(_APART, size, None)
            self._bytes_apart += size
        try:
            segment = Segment(size, self._folder)
            segment.allocate(segment.size)
        except BaseException:
            self.free(block)
            raise
        return block, segment

    def _take_slot(self, offset: int, size: int, on_reclaimed: Callable[[], None] | None) -> Block:
        slot = self._slots.pop()
        use = self._in_use[slot] = _Use(Block(slot, offset, size), on_reclaimed)
        if not use.is_kept:
            self._oldest.append(use)
        self._ledger[slot] = 1
        return use.block

    def _find_room(self, room: int, limit: int, spare: int) -> int | None:
        self._reclaim_oldest()
        offset = self._find_hole(room, limit, spare)
        # Many small blocks need all slots long before they need all of the budget.
        is_full = self._end + room > limit or len(self._slots) <= spare
        if offset is None and (is_full or self._end > _LEDGER_BYTES + self.budget // 4):
            self._reclaim_all(limit, kept=is_full)
            offset = self._find_hole(room, limit, spare)
        if offset is None:
            if self._end + room > limit or len(self._slots) <= spare:
                return None
            self._segment.allocate(min(self._segment.size, self._end + room + _STEP))
            offset = self._end
            self._end += room
        return offset

    def _find_hole(self, room: int, limit: int, spare: int) -> int | None:
        if len(self._slots) <= spare:
            return None
        for i, (offset, size) in enumerate(self._free):
            if offset + room > limit:
                return None
            if size >= room:
                if size == room:
                    del self._free[i]
                else:
                    self._free[i] = (offset + room, size - room)
                return offset
        return None

    def _reclaim_oldest(self) -> None:
        oldest, ledger = self._oldest, self._ledger
        while oldest:
            use = oldest[0]
            slot = use.block.slot
            if self._in_use.get(slot) is use:  # and not another one, which may be kept
                if ledger[slot]:
                    return
                self._give_back(slot)
            oldest.popleft()

    def _reclaim_all(self, limit: int, *, kept: bool) -> None:
        """Take back all that was released, and when there is need also what is kept beyond that, below `limit`."""
        for slot, use in list(self._in_use.items()):
            if not self._ledger[slot] and (not use.is_kept or (kept and use.block.offset + use.block.size <= limit)):
                self._give_back(slot)
                if use.is_kept and use.on_reclaimed is not None:
                    use.on_reclaimed()
        self._oldest = deque(use for use in self._oldest if self._in_use.get(use.block.slot) is use)

    def _give_back(self, slot: int) -> None:
        block = self._in_use.pop(slot).block
        self._slots.append(slot)
        if block.is_apart:
            self._bytes_apart -= block.size
            return
        start, stop = block.offset, block.offset + max(_ALIGNMENT, -(-block.size // _ALIGNMENT) * _ALIGNMENT)
        i = bisect_left(self._free, (start, 0))
        if i < len(self._free) and self._free[i][0] == stop:
            stop = start + (stop - start) + self._free.pop(i)[1]
        if i and sum(self._free[i - 1]) == start:
            i -= 1
            start = self._free.pop(i)[0]
        if stop == self._end:
            self._end = start
        else:
            insort(self._free, (start, stop - start))

    def lend(self, block: Block, reader: object) -> None:
        """Take note which reader a block is sent to; one that was read before by another is lent again."""
        with self._lock:
            use = self._use_of(block)
            if use is not None:
                use.reader = reader
                self._ledger[block.slot] = 1

    def keep(self, block: Block) -> None:
        """Keep a block that was read before, because it will be lent again."""
        with self._lock:
            if self._use_of(block) is not None:
                self._ledger[block.slot] = 1

    def let_go(self, block: Block) -> None:
        """Keep a block no longer than its reader needs it; not at all when it has none."""

        def let_go() -> None:
            use = self._use_of(block)
            if use is None:
                return
            was_kept, use.is_kept = use.is_kept, False
            if use.reader is None:
                self._give_back(block.slot)
            elif was_kept:
                self._oldest.append(use)

        self._return(let_go)

    def forget_reader(self, reader: object) -> None:
        """Take back what was lent to a reader that is gone, but for what is kept."""
        with self._lock:
            self._take_returns()
            for slot, use in list(self._in_use.items()):
                if use.reader is reader:
                    use.reader = None
                    if not use.is_kept:
                        self._give_back(slot)

    def is_unread(self, block: Block) -> bool:
        """Return whether the reader of a block has not released it yet."""
        with self._lock:
            return self._use_of(block) is not None and self._ledger[block.slot] == 1

    def _use_of(self, block: Block) -> _Use | None:
        use = self._in_use.get(block.slot)
        return use if use is not None and use.block is block else None

    def view(self, block: Block) -> memoryview:
        """Return the bytes of a block, to be written; not of one apart."""
        return self._memory[block.offset : block.offset + block.size]

    def free(self, block: Block) -> None:
        """Take a block back, whether its reader has released it or not; nothing when that was done already."""

        def free() -> None:
            if self._use_of(block) is not None:
                self._give_back(block.slot)

        self._return(free)

    def _return(self, give_back: Callable[[], None]) -> None:
        self._returns.append(give_back)
        if not self.is_locked_here():
            with self._lock:
                self._take_returns()

    def _take_returns(self) -> None:
        while self._returns:
            self._returns.popleft()()

    def forget(self) -> None:
        """Take a new lock, in a process that was forked: nobody is there to release this one."""
        self._lock = threading.RLock()

    def close(self) -> None:
        """End it. Readers keep what they have mapped."""
        with self._lock:
            self._ledger.release()
            self._memory.release()
            self._segment.close()


class ArenaReader:
    """A reader's side.

    Parameters
    ----------
    fd
        Descriptor of the arena, which is closed.
    size
        Bytes to map.
    writable
        Whether the arrays in there may be written to, by readers that own a block from when they get it until they
        release it.
    """

    def __init__(self, fd: int, size: int, *, writable: bool) -> None:
        try:
            self._map = mmap.mmap(fd, size, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)
            self._memory = memoryview(self._map)
            # A mapping takes a descriptor.
            self._ledger = self._memory if writable else memoryview(mmap.mmap(fd, _LEDGER_BYTES))
        except OSError as error:
            raise cannot_map(size, error) from error
        finally:
            os.close(fd)
        self._watched: dict[int, tuple[weakref.ref[Any], Block]] = {}
        self._pid = os.getpid()

    def view(self, block: Block) -> memoryview:
        """Return the bytes of a block; they may be looked at until the block is released."""
        return self._memory[block.offset : block.offset + block.size]

    def release(self, block: Block) -> None:
        """Tell the owner that nobody looks at the block any more, unless this is a fork of who does."""
        if os.getpid() == self._pid:
            self._ledger[block.slot] = 0

    def view_until_forgotten(self, block: Block) -> memoryview:
        """Return the bytes of a block, which is released when nothing refers to them any more.

        Only for a reader that may write.
        """
        keeper = (ctypes.c_char * block.size).from_buffer(self._map, block.offset)
        ledger, watched, pid = self._ledger, self._watched, self._pid

        def forgotten(_: object) -> None:
            watched.pop(block.slot, None)
            if os.getpid() == pid:
                ledger[block.slot] = 0

        watched[block.slot] = weakref.ref(keeper, forgotten), block
        return memoryview(keeper).cast("B")

    @property
    def watched_bytes(self) -> int:
        """Bytes of the blocks that something refers to."""
        return sum(block.size for _, block in list(self._watched.values()))

    def make_private(self) -> None:
        """Copy, in a process that was forked, what something refers to: the owner goes on to use the memory."""
        first = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        done = 0
        for _, block in sorted(self._watched.values(), key=lambda each: each[1].offset):
            start = max(done, block.offset // PAGE * PAGE)
            done = max(done, -(-(block.offset + block.size) // PAGE) * PAGE)
            if start < done:
                content = bytes(self._memory[start:done])
                map_private(first + start, done - start)
                ctypes.memmove(first + start, content, len(content))
