"""Memory that begins at the border of a page, for direct I/O, and a pool that keeps it for the next who needs it."""

from __future__ import annotations

import contextlib
import math
import mmap
import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import DTypeLike, NDArray

__all__ = ["BufferPool", "ManagedBuffer", "bytes_aligned", "empty_aligned", "zeros_aligned"]

PAGE = 4096


def bytes_aligned(size: int) -> memoryview:
    """Return `size` bytes of zeros that begin at a multiple of 4096; they can be written."""
    pages = mmap.mmap(-1, max(1, -(-size // PAGE)) * PAGE)
    return memoryview(pages)[:size]


def empty_aligned(size: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return an array of some shape whose memory begins at a multiple of 4096; what it holds is not said.

    Where there is nothing to align, that is for objects and without elements, it is an ordinary array.
    """
    shape = (size,) if isinstance(size, int | np.integer) else tuple(size)
    kind = np.dtype(dtype)
    count = math.prod(shape)
    if kind.hasobject or count == 0:
        return np.zeros(shape, dtype=kind)
    return np.frombuffer(bytes_aligned(count * kind.itemsize), dtype=kind).reshape(shape)


def zeros_aligned(size: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return an array of zeros of some shape whose memory begins at a multiple of 4096."""
    return empty_aligned(size, dtype)  # fresh pages are zero


class BufferPool:
    """Keeps aligned memory that was given back for the next who asks for as much. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: dict[tuple[int, int], list[memoryview]] = defaultdict(list)

    def checkout_bytes(self, size: int, alignment: int = PAGE) -> memoryview:
        """Return `size` bytes, which may hold anything, to be given back with `checkin_bytes`.

        Raises
        ------
        ValueError
            When the alignment is not a divisor of 4096.
        """
        if alignment < 1 or PAGE % alignment:
            msg = f"memory can be aligned to the divisors of {PAGE}, not to {alignment}"
            raise ValueError(msg)
        with self._lock:
            free = self._free[size, alignment]
            if free:
                return free.pop()
        return bytes_aligned(size)

    def checkin_bytes(self, size: int, alignment: int, buf: memoryview) -> None:
        """Give memory back that `checkout_bytes` gave."""
        with self._lock:
            self._free[size, alignment].append(buf)

    @contextlib.contextmanager
    def bytes(self, size: int, alignment: int = PAGE) -> Iterator[memoryview]:
        """Give `size` bytes, which may hold anything, for the duration of a ``with`` block."""
        buf = self.checkout_bytes(size, alignment)
        try:
            yield buf
        finally:
            self.checkin_bytes(size, alignment, buf)

    @contextlib.contextmanager
    def empty(self, size: int | tuple[int, ...], dtype: DTypeLike, alignment: int = PAGE) -> Iterator[NDArray[Any]]:
        """Give an array, which may hold anything, for the duration of a ``with`` block."""
        shape = (size,) if isinstance(size, int | np.integer) else tuple(size)
        kind = np.dtype(dtype)
        if kind.hasobject or math.prod(shape) == 0:
            yield np.zeros(shape, dtype=kind)
            return
        with self.bytes(math.prod(shape) * kind.itemsize, alignment) as buf:
            yield np.frombuffer(buf, dtype=kind).reshape(shape)

    @contextlib.contextmanager
    def zeros(self, size: int | tuple[int, ...], dtype: DTypeLike, alignment: int = PAGE) -> Iterator[NDArray[Any]]:
        """Give an array of zeros for the duration of a ``with`` block."""
        with self.empty(size, dtype, alignment) as array:
            array[...] = 0
            yield array


class ManagedBuffer:
    """Memory of a pool that goes back to it when this object is gone.

    Parameters
    ----------
    pool
        Where it comes from.
    size
        Number of bytes.
    alignment
        Its first byte lies at a multiple of this.

    Attributes
    ----------
    buf : memoryview
        The memory.
    """

    def __init__(self, pool: BufferPool, size: int, alignment: int = PAGE) -> None:
        self.pool = pool
        self.size = size
        self.alignment = alignment
        self.buf = pool.checkout_bytes(size, alignment)

    def __del__(self) -> None:
        if hasattr(self, "buf"):
            self.pool.checkin_bytes(self.size, self.alignment, self.buf)
