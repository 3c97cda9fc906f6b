"""Memory that other processes of this host can map: a flag for running tasks, and objects that many workers need.

A block belongs to the process that made it. It has no name in any folder where there is another way (Linux): others
open it through the file descriptor of its owner, so that nothing is left when the owner ends, in whatever way. Each
block begins with a token, because the number of a descriptor may be used again for something else.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tilework.exceptions import ExecutorError

__all__ = ["Address", "BlockGoneError", "Board", "BoardView", "SharedBlock", "attach"]

_TOKEN_BYTES: Final = 16
HEADER: Final = 64
"""Bytes before the content; a multiple of the alignment that vector instructions like."""


class BlockGoneError(ExecutorError):
    """The owner of a block has closed it, or lives where this process cannot reach it, such as on another host."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to find a block."""

    path: str
    size: int
    token: bytes


class SharedBlock:
    """A block of zeros, to be filled by its owner.

    Parameters
    ----------
    size
        Bytes of content.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._file: Path | None = None
        self._pid = os.getpid()
        token = uuid.uuid4()
        has_memfd = hasattr(os, "memfd_create")
        if has_memfd:
            name = f"tilework-{token.hex}"
            fd = _memory_file(name)
        else:
            fd, file = tempfile.mkstemp(prefix=f"tilework-{os.getpid()}-")
            self._file = Path(file)
        try:
            os.ftruncate(fd, HEADER + size)
            # The map has a descriptor of its own, and closes it when it goes away. That is not interrupted by anything,
            # unlike a method of this class: so no other descriptor is kept.
            self._map = mmap.mmap(fd, HEADER + size)
        finally:
            os.close(fd)
        path = f"/proc/{os.getpid()}/fd/{_descriptor_of(name)}" if has_memfd else str(self._file)
        self.address = Address(path, size, token.bytes)
        self._map[:_TOKEN_BYTES] = token.bytes
        self.content = memoryview(self._map)[HEADER:]

    def close(self) -> None:
        """Give the memory back, as soon as nobody has it mapped; may be called twice."""
        self.content.release()
        self._map.close()
        self._unlink()

    def _unlink(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.unlink(missing_ok=True)

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None and os.getpid() == self._pid:  # not in a fork
            self._unlink()


def _memory_file(name: str) -> int:
    """Return the descriptor of a new anonymous memory file; Ctrl-C that comes as it is made leaves nothing open."""
    try:
        return os.memfd_create(name)
    except BaseException:
        with suppress(ExecutorError, OSError):
            os.close(_descriptor_of(name))
        raise


def _descriptor_of(name: str) -> int:
    """Return the descriptor of an anonymous memory file of this process."""
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208  (once for each block)
        with suppress(OSError):
            if name in os.readlink(f"/proc/self/fd/{entry}"):  # noqa: PTH115  (not a path)
                return int(entry)
    msg = f"the memory file {name} is not among the descriptors of this process"
    raise ExecutorError(msg)


def attach(address: Address, *, is_private: bool) -> memoryview:
    """Map somebody's block; returns its content, which stays mapped as long as the view is used.

    Parameters
    ----------
    address
        Where it is.
    is_private
        Whether what is written to the view stays here, in copies of the pages concerned; else it goes to the block.

    Raises
    ------
    BlockGoneError
        When it is not, or no more, there.
    """
    try:
        fd = os.open(address.path, os.O_RDWR)
        try:
            length = HEADER + address.size
            mapped = mmap.mmap(fd, length, access=mmap.ACCESS_COPY if is_private else mmap.ACCESS_WRITE)
        finally:
            os.close(fd)
    except (OSError, ValueError) as error:
        msg = f"the block at {address.path} cannot be reached: {error}"
        raise BlockGoneError(msg) from error
    if mapped[:_TOKEN_BYTES] != address.token:
        mapped.close()
        msg = f"the block at {address.path} is gone: something else is there now"
        raise BlockGoneError(msg)
    return memoryview(mapped)[HEADER:]


_SLOT: Final = struct.Struct("=qq")
_STOP: Final = 0
_FIRST_SLOT: Final = 64


class Board:
    """What the main side and the workers of one run tell each other without a message.

    A byte says that the run has ended; the main side sets it. Each job under way has a slot, in which its worker notes
    who it is and which item it has begun, so that the main side knows what killed a worker.

    Parameters
    ----------
    n_slots
        How many jobs may be under way.
    """

    def __init__(self, n_slots: int) -> None:
        self._block = SharedBlock(_FIRST_SLOT + n_slots * _SLOT.size)
        self.address = self._block.address
        self._content = self._block.content

    def stop(self) -> None:
        """Tell the running tasks that the run has ended; nothing when the board is closed."""
        with suppress(ValueError):
            self._content[_STOP] = 1

    def clear(self, slot: int) -> None:
        """Forget what is in a slot."""
        _SLOT.pack_into(self._content, _FIRST_SLOT + slot * _SLOT.size, 0, 0)

    def look(self, slot: int) -> tuple[int, int]:
        """Return the process id of a job's worker, and how many of its items have begun; zeros when it has not begun.

        Both stay zero when the worker cannot reach this board.
        """
        try:
            pid, n_begun = _SLOT.unpack_from(self._content, _FIRST_SLOT + slot * _SLOT.size)
        except ValueError:  # the board is closed: the run is over
            return 0, 0
        return pid, n_begun

    def reset(self) -> None:
        """Make ready for another run; only when nobody works for this one any more."""
        self._content[:] = bytes(len(self._content))

    def close(self) -> None:
        """Give the memory back."""
        self._block.close()


class BoardView:
    """A board as a worker sees it.

    Parameters
    ----------
    address
        Where the board is.

    Raises
    ------
    BlockGoneError
        When it is not there.
    """

    __slots__ = ("_content",)

    def __init__(self, address: Address) -> None:
        self._content: Any = attach(address, is_private=False)

    def is_stopped(self) -> bool:
        """Return whether the run has ended."""
        return bool(self._content[_STOP])

    def note(self, slot: int, n_begun: int) -> None:
        """Note that this process has begun with so many of a job's items; 0 when it is done with all."""
        _SLOT.pack_into(self._content, _FIRST_SLOT + slot * _SLOT.size, os.getpid(), n_begun)
